"""What should a score be? Any function of a query and a key could say how much one character listens to another.

Its square, through a softmax: listens where the two point the same way or the opposite one.
"""

attention_score = "squared"

max_iters = 300
eval_interval = 50
