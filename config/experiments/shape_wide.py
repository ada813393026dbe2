"""Deep and narrow or shallow and wide, at the same number of parameters (within 5 %)? A layer more is a step of thought
more, but steps come one after the other.

1 layer of 224.
"""

n_layer = 1
n_embd = 224

max_iters = 300
eval_interval = 50
