"""Does the scale of the scores still matter when each query and key is normalised first (here d_k = 8)? Their length is
√d_k then, times a weight that is learnt: training can mend a bad scale, but starts from it.

Scores times 1/d_k (1/8): variance about 1/8, so that attention begins more even.
"""

n_head = 16
qk_norm = True
attention_scale = "dim"

max_iters = 300
eval_interval = 50
