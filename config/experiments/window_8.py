"""How far back must attention look? A window hides what lies further back; layers above each other still reach further
than one.

The last 8 characters, itself included.
"""

window = 8

max_iters = 300
eval_interval = 50
