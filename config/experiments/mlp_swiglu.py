"""What is the best non-linearity between the two matrices of the MLP? All three have about the same number of
parameters.

silu(gate(x)) · up(x), 8/3 as wide as the stream (Shazeer 2020).
"""

mlp = "swiglu"

max_iters = 300
eval_interval = 50
