"""Deep and narrow or shallow and wide, at the same number of parameters (within 5 %)? A layer more is a step of thought
more, but steps come one after the other.

12 layers of 64.
"""

n_layer = 12
n_embd = 64

max_iters = 300
eval_interval = 50
