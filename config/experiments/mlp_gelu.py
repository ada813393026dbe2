"""What is the best non-linearity between the two matrices of the MLP? All three have about the same number of
parameters.

gelu(up(x)), four times as wide: GPT-2's.
"""

mlp = "gelu"

max_iters = 300
eval_interval = 50
