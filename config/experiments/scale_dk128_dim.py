"""Why are scores divided by √d_k? The product of two random vectors of d_k numbers of variance 1 has variance d_k, here
128: unscaled, the softmax of such scores is mostly on one character, where its gradient is nearly nothing.

Scores times 1/d_k (1/128): variance about 1/128, so that attention begins almost even.
"""

n_head = 1
qk_norm = False
attention_scale = "dim"

max_iters = 300
eval_interval = 50
