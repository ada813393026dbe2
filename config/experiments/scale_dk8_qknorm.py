"""Does the scale of the scores still matter when each query and key is normalized first (here d_k =
8)? Their length is √d_k then, times a learned weight: training can correct a bad scale, but
starts from it.
"""

n_head = 16
qk_norm = True

max_iters = 300
eval_interval = 50

variants = {
    "dim": {
        "about": "Scores times 1/d_k (1/8): variance about 1/8, so that attention starts "
        "more uniform.",
        "attention_scale": "dim",
    },
    "none": {
        "about": "Scores as they are: variance about 8.",
        "attention_scale": "none",
    },
    "sqrt": {
        "about": "Scores times 1/√d_k (1/2.8): variance about 1, whatever d_k is.",
        "attention_scale": "sqrt",
    },
}
