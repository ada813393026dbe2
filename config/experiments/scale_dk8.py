"""Why are scores divided by √d_k? The dot product of two random vectors of d_k numbers of variance
1 has variance d_k, here 8: unscaled, the softmax of such scores is sharper, but still mixes several
characters.
"""

n_head = 16
qk_norm = False

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
