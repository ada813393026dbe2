"""Muon or AdamW? Muon makes each update of a matrix orthogonal, so that weak directions of the gradient are followed as
far as strong ones.

Muon for the matrices of the blocks, AdamW for the rest.
"""

optimizer = "muon"

max_iters = 300
eval_interval = 50
