"""What `python train.py` does on a GPU when no config file is named: the default recipe, scaled up.

Written for a GPU, and not yet measured on one.
"""

eval_interval = 250
eval_iters = 50

n_layer = 6
n_head = 6
n_embd = 384
dropout = 0.2

batch_size = 64
block_size = 256

max_iters = 2000
muon_momentum = 0.95
muon_learning_rate = 0.02
learning_rate = 5e-3
warmup_iters = 50
