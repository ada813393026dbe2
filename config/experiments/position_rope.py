"""How should a model know where a character stands? Attention alone sees a set: without positions it can tell order only
by what the mask hides.

Queries and keys are turned by an angle that grows with the place: scores see distances (Su et al. 2021).
"""

position = "rope"

max_iters = 300
eval_interval = 50
