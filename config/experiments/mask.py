"""Why does a language model need the causal mask? A model that sees the character it has to predict
copies it: its loss falls to nothing, and the text it generates is rubbish.
"""

max_iters = 300
eval_interval = 50

variants = {
    "causal": {
        "about": "Each character attends to itself and to the past.",
        "mask": "causal",
    },
    "future": {
        "about": "Each attends to itself and to the future: all that it should not know.",
        "mask": "future",
    },
    "none": {
        "about": "All attend to all, the next character included.",
        "mask": "none",
    },
}
