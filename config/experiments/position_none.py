"""How should a model know where a character stands? Attention alone sees a set: without positions it can tell order only
by what the mask hides.

Not at all: only the mask tells the past from the rest.
"""

position = "none"

max_iters = 300
eval_interval = 50
