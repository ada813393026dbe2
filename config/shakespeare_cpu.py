"""nanoGPT's loss on an A100 (1.4697), on two CPU cores in 15 minutes: docs/benchmarks.md.

    python train.py config/shakespeare_cpu.py

A GPT of 4.9 million parameters reads 4.1 million characters, four times through the text, so that a
little dropout pays. The loss is measured in windows of 256 characters, as nanoGPT's is.
"""

out_dir = "out-shakespeare-cpu"
dataset = "shakespeare_char"
eval_interval = 100
eval_iters = 5

n_layer = 6
n_head = 4
n_embd = 256
dropout = 0.1

batch_size = 16
block_size = 256

max_iters = 1000
warmup_iters = 20
muon_learning_rate = 0.03
muon_momentum = 0.95
learning_rate = 1e-2
