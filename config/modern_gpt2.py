"""Another recipe for the tokens of config/train_gpt2.py: Qwen3's family at GPT-2's size, with Muon.

    python train.py config/modern_gpt2.py --dry_run=True

Rotary positions, RMSNorm, normalized queries and keys, SwiGLU, embedding and head tied: 123.6
million parameters, and the same half a million tokens per step. Not yet measured at this size.

Scaled down to 4 layers of width 256 and 200 steps of 16 × 256 tokens of tiny Shakespeare (bpe:4096,
20 warmup steps), the loss on the whole validation split was 4.53 nats per token; with nanoGPT's
recipe, scaled down in the same way, 5.23, and 5.31 with four times its learning rate. AdamW's
learning rate made little difference: 4.55 with 1e-2. Muon's of 0.04 gave 4.47 in so few steps; for
half a million steps this recipe takes the lower one.
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
