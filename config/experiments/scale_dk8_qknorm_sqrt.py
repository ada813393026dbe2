"""Does the scale of the scores still matter when each query and key is normalised first (here d_k = 8)? Their length is
√d_k then, times a weight that is learnt: training can mend a bad scale, but starts from it.

Scores times 1/√d_k (1/2.8): variance about 1, whatever d_k is.
"""

n_head = 16
qk_norm = True
attention_scale = "sqrt"

max_iters = 300
eval_interval = 50
