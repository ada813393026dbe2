"""nanoGPT's recipe for tiny Shakespeare: a GPT-2 of 10.7 million parameters, AdamW, 5,000 steps.

Made for a GPU; nanoGPT reports a validation loss of 1.4697 after three minutes on an A100. On a
laptop:

    python train.py config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 \\
        --log_interval=1 --block_size=64 --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 \\
        --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0
"""

defaults = "nanogpt"

out_dir = "out-shakespeare-char"
dataset = "shakespeare_char"
eval_interval = 250
log_interval = 10
always_save_checkpoint = False
wandb_project = "shakespeare-char"
wandb_run_name = "mini-gpt"

n_layer = 6
n_head = 6
n_embd = 384
dropout = 0.2

batch_size = 64
block_size = 256
gradient_accumulation_steps = 1

learning_rate = 1e-3
beta2 = 0.99
max_iters = 5000
warmup_iters = 100
lr_decay_iters = 5000
min_lr = 1e-4
