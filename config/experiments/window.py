"""How far back must attention reach? A sliding window hides what is further back; stacked layers
still reach further than one.
"""

max_iters = 300
eval_interval = 50

variants = {
    "8": {"about": "The last 8 characters, itself included.", "window": 8},
    "16": {"about": "The last 16 characters, itself included.", "window": 16},
    "32": {"about": "The last 32 characters, itself included.", "window": 32},
    "full": {"about": "The whole context of 64 characters.", "window": 0},
}
