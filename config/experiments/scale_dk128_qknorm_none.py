"""Does the scale of the scores still matter when each query and key is normalised first (here d_k = 128)? Their length
is √d_k then, times a weight that is learnt: training can mend a bad scale, but starts from it.

Scores as they are: variance about 128.
"""

n_head = 1
qk_norm = True
attention_scale = "none"

max_iters = 300
eval_interval = 50
