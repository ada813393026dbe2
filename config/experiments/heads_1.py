"""How many heads? The width is shared out among them: more heads can look at more places at once, each with a smaller
d_k.

1 head of d_k = 128.
"""

n_head = 1

max_iters = 300
eval_interval = 50
