"""Why does a language model need the causal mask? A model that sees the character it is to predict copies it: its loss
falls to nothing, and what it writes is rubbish.

Each sees itself and those that come: all that it is not allowed to know.
"""

mask = "future"

max_iters = 300
eval_interval = 50
