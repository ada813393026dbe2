"""Another recipe for the tokens of config/train_gpt2.py: our default family at GPT-2's size, with Muon.

    python train.py config/modern_gpt2.py --dry_run=True

Rotary positions, RMSNorm, normalised queries and keys, SwiGLU, one matrix for embedding and head: 123.6 million parameters,
and the same half a million tokens a step. This recipe is unmeasured at its size.
"""

out_dir = "out-modern-gpt2"
dataset = "openwebtext"
tokenizer = "gpt2"
eval_interval = 1000
eval_iters = 200
log_interval = 10

tie_weights = True
n_layer = 12
n_head = 12
n_embd = 768

# 12 windows of 1,024, 40 times: half a million tokens a step
batch_size = 12
block_size = 1024
gradient_accumulation_steps = 5 * 8

muon_learning_rate = 0.02
muon_momentum = 0.95
learning_rate = 3e-3
weight_decay = 0.1
max_iters = 600_000
warmup_iters = 2000
