"""Muon or AdamW? Muon orthogonalizes each update of a matrix, so that weak directions of the
gradient are followed as far as strong ones.
"""

max_iters = 300
eval_interval = 50

variants = {
    "adamw": {
        "about": "AdamW for all weights, with the best of three learning rates: 2e-3 gave a loss "
        "of 1.909, 5e-3 1.884, 1e-2 1.891.",
        "optimizer": "adamw",
        "learning_rate": 5e-3,
    },
    "muon": {
        "about": "Muon for the matrices of the blocks, AdamW for the rest.",
        "optimizer": "muon",
    },
}
