"""How far back must attention look? A window hides what lies further back; layers above each other still reach further
than one.

The last 32 characters, itself included.
"""

window = 32

max_iters = 300
eval_interval = 50
