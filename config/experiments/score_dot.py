"""What should a score be? Any function of a query and a key could say how much one character listens to another.

The product query · key, through a softmax: listens where the two point the same way.
"""

attention_score = "dot"

max_iters = 300
eval_interval = 50
