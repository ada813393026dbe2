"""Masked diffusion: an encoder that learns to fill in any share of a text, and so writes one.

    python train.py config/diffusion.py

The loss is an upper bound of the nats per character, beside a GPT's loss (docs/attention.md).
"""

out_dir = "out-diffusion"
dataset = "shakespeare_char"

architecture = "encoder"
mask_rate = "uniform"
