"""nanoGPT's recipe for GPT-2: 124 million parameters, 295 billion tokens of OpenWebText, AdamW.

Made for eight GPUs: nanoGPT reports a loss of about 2.85 after four days on eight A100s. What it takes, before it begins:

    python train.py config/train_gpt2.py --dry_run=True

nanoGPT's file logs to Weights & Biases. Nothing here is sent anywhere unasked: for that add --wandb_log=True.
"""

out_dir = "out-gpt2"
dataset = "openwebtext"
tokenizer = "gpt2"
eval_interval = 1000
eval_iters = 200
log_interval = 10
wandb_project = "owt"
wandb_run_name = "gpt2-124M"

# GPT-2's family
position = "learned"
norm = "layernorm"
mlp = "gelu"
qk_norm = False
tie_weights = True
bias = False

n_layer = 12
n_head = 12
n_embd = 768
dropout = 0.0

# 12 windows of 1,024, 40 times: half a million tokens a step
batch_size = 12
block_size = 1024
gradient_accumulation_steps = 5 * 8

optimizer = "adamw"
learning_rate = 6e-4
weight_decay = 1e-1
beta1 = 0.9
beta2 = 0.95
grad_clip = 1.0
max_iters = 600_000
warmup_iters = 2000
lr_schedule = "cosine"
lr_decay_iters = 600_000
min_lr = 6e-5
