"""Is √d_k as good a divisor when queries and keys come from two texts? Without query/key norms,
because they would hide the scale; d_k is 32.

    python compare.py config/experiments/pairs/cross_scale.py pairs.tsv
"""

architecture = "encoder_decoder"
qk_norm = False

batch_size = 128
max_iters = 300
eval_interval = 50

variants = {
    "dim": {
        "about": "Scores times 1/d_k (1/32): attention starts almost uniform.",
        "attention_scale": "dim",
    },
    "none": {"about": "Scores as they are: variance about 32.", "attention_scale": "none"},
    "sqrt": {
        "about": "Scores times 1/√d_k (1/5.7): variance about 1, whatever d_k is.",
        "attention_scale": "sqrt",
    },
}
