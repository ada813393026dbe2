"""How should a model know where a character stands? Attention alone sees a set: without positions it can tell order only
by what the mask hides.

A learnt vector for each place is added to the embedding (as GPT-2 does).
"""

position = "learned"

max_iters = 300
eval_interval = 50
