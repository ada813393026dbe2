"""What is the best non-linearity between the two matrices of the MLP? All three have about the same number of
parameters.

relu(up(x))², four times as wide (So et al. 2021).
"""

mlp = "relu2"

max_iters = 300
eval_interval = 50
