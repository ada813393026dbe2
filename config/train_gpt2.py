"""nanoGPT's recipe for GPT-2: 124 million parameters, 295 billion tokens of OpenWebText, AdamW.

Made for eight GPUs: nanoGPT reports a loss of about 2.85 after four days on eight A100s. To see
what it takes before you start it:

    python train.py config/train_gpt2.py --dry_run=True

nanoGPT's file logs to Weights & Biases. Here nothing is sent anywhere unless you ask: add
--wandb_log=True.
"""

defaults = "nanogpt"  # its shape, batch and schedule are the defaults there

out_dir = "out-gpt2"
tokenizer = "gpt2"
eval_interval = 1000
log_interval = 10
wandb_run_name = "gpt2-124M"
