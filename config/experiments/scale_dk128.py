"""Why are scores divided by √d_k? The dot product of two random vectors of d_k numbers of variance
1 has variance d_k, here 128: unscaled, the softmax of such scores puts nearly all weight on one
character, where its gradient nearly vanishes.
"""

n_head = 1
qk_norm = False

max_iters = 300
eval_interval = 50

variants = {
    "dim": {
        "about": "Scores times 1/d_k (1/128): variance about 1/128, so that attention starts "
        "nearly uniform.",
        "attention_scale": "dim",
    },
    "none": {
        "about": "Scores as they are: variance about 128.",
        "attention_scale": "none",
    },
    "sqrt": {
        "about": "Scores times 1/√d_k (1/11.3): variance about 1, whatever d_k is.",
        "attention_scale": "sqrt",
    },
}
