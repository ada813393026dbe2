"""How many heads? They share the width: more heads can attend to more places at once, each with a
smaller d_k.
"""

max_iters = 300
eval_interval = 50

variants = {
    "1": {"about": "1 head of d_k = 128.", "n_head": 1},
    "2": {"about": "2 heads of d_k = 64.", "n_head": 2},
    "4": {"about": "4 heads of d_k = 32.", "n_head": 4},
    "8": {"about": "8 heads of d_k = 16.", "n_head": 8},
}
