"""Is it easier to read both ways? The same blocks learn to predict the next character, to fill in a
few, and to fill in any share of them. Only the first and the last loss measure the same thing, the
nats per character of a whole text, the last one from above; the loss of filling in is the mean over
the masked characters.
"""

max_iters = 300
eval_interval = 50

variants = {
    "causal": {
        "about": "A GPT: each character from those before it.",
        "architecture": "decoder",
    },
    "bidirectional": {
        "about": "BERT: 15 % of the characters from all others, on both sides.",
        "architecture": "encoder",
        "mask_rate": 0.15,
    },
    "diffusion": {
        "about": "Masked diffusion: any share of the characters from all others; the loss is an "
        "upper bound (Sahoo et al. 2024).",
        "architecture": "encoder",
        "mask_rate": "uniform",
    },
}
