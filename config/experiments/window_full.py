"""How far back must attention look? A window hides what lies further back; layers above each other still reach further
than one.

All of the block, 64 characters.
"""

window = 0

max_iters = 300
eval_interval = 50
