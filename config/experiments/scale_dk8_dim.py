"""Why are scores divided by √d_k? The product of two random vectors of d_k numbers of variance 1 has variance d_k, here
8: unscaled, the softmax of such scores is sharper, and still has several characters to mix.

Scores times 1/d_k (1/8): variance about 1/8, so that attention begins more even.
"""

n_head = 16
qk_norm = False
attention_scale = "dim"

max_iters = 300
eval_interval = 50
