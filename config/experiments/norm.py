"""RMSNorm or LayerNorm? Both bring the residual stream to one length before it is read; LayerNorm
also subtracts the mean.
"""

max_iters = 300
eval_interval = 50

variants = {
    "layernorm": {"about": "(x − mean) / √(variance + ε).", "norm": "layernorm"},
    "rmsnorm": {"about": "x / √(mean(x²) + ε).", "norm": "rmsnorm"},
}
