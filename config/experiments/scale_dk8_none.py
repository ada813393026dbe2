"""Why are scores divided by √d_k? The product of two random vectors of d_k numbers of variance 1 has variance d_k, here
8: unscaled, the softmax of such scores is sharper, and still has several characters to mix.

Scores as they are: variance about 8.
"""

n_head = 16
qk_norm = False
attention_scale = "none"

max_iters = 300
eval_interval = 50
