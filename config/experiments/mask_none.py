"""Why does a language model need the causal mask? A model that sees the character it is to predict copies it: its loss
falls to nothing, and what it writes is rubbish.

All see all, the next character too.
"""

mask = "none"

max_iters = 300
eval_interval = 50
