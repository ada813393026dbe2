"""How many heads? The width is shared out among them: more heads can look at more places at once, each with a smaller
d_k.

8 heads of d_k = 16.
"""

n_head = 8

max_iters = 300
eval_interval = 50
