"""The lowest loss on tiny Shakespeare that we know within nanoGPT's budget (docs/benchmarks.md).

    python train.py config/shakespeare_best.py

A GPT of 4.9 million parameters (nanoGPT's has 10.7) reads 12.3 million characters (nanoGPT's: 82),
twelve times through the text; dropout keeps it from memorizing. A context of 512 characters shows
it more of what came before. It was trained on two CPU cores in about half an hour.
"""

out_dir = "out-shakespeare-best"
dataset = "shakespeare_char"
eval_interval = 300
eval_iters = 20

n_layer = 6
n_head = 4
n_embd = 256
dropout = 0.2

batch_size = 8
block_size = 512

max_iters = 3000
warmup_iters = 20
muon_learning_rate = 0.03
muon_momentum = 0.95
learning_rate = 1e-2
