"""Deep and narrow or shallow and wide, at the same number of parameters (within 5 %)? Every layer
is one more step of computation, but layers have to wait for each other.
"""

max_iters = 300
eval_interval = 50

variants = {
    "deep": {"about": "12 layers of width 64.", "n_layer": 12, "n_embd": 64},
    "middle": {"about": "3 layers of width 128.", "n_layer": 3, "n_embd": 128},
    "wide": {"about": "1 layer of width 224.", "n_layer": 1, "n_embd": 224},
}
