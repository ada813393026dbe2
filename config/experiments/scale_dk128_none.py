"""Why are scores divided by √d_k? The product of two random vectors of d_k numbers of variance 1 has variance d_k, here
128: unscaled, the softmax of such scores is mostly on one character, where its gradient is nearly nothing.

Scores as they are: variance about 128.
"""

n_head = 1
qk_norm = False
attention_scale = "none"

max_iters = 300
eval_interval = 50
