"""How should a model know the position of a character? Attention alone sees a set: without position
encoding only the mask tells it anything about order.
"""

max_iters = 300
eval_interval = 50

variants = {
    "learned": {
        "about": "A learned vector per position is added to the embedding, as in GPT-2.",
        "position": "learned",
    },
    "none": {
        "about": "Not at all: only the mask tells the past from the rest.",
        "position": "none",
    },
    "rope": {
        "about": "Queries and keys are rotated by an angle that grows with the position: scores "
        "depend on distances (Su et al. 2021).",
        "position": "rope",
    },
    "sinusoidal": {
        "about": "Sines and cosines of the position are added to the embedding (Vaswani et al. "
        "2017).",
        "position": "sinusoidal",
    },
}
