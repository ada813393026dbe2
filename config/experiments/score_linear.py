"""What should a score be? Any function of a query and a key could say how much one character listens to another.

Linear attention: a product of positive features of query and key, without a softmax.
"""

attention_score = "linear"

max_iters = 300
eval_interval = 50
