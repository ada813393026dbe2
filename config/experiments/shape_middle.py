"""Deep and narrow or shallow and wide, at the same number of parameters (within 5 %)? A layer more is a step of thought
more, but steps come one after the other.

3 layers of 128.
"""

n_layer = 3
n_embd = 128

max_iters = 300
eval_interval = 50
