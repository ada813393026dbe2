"""How should a model know where a character stands? Attention alone sees a set: without positions it can tell order only
by what the mask hides.

Sines and cosines of the place are added to the embedding (Vaswani et al. 2017).
"""

position = "sinusoidal"

max_iters = 300
eval_interval = 50
