"""RMSNorm or LayerNorm? Both give the residual stream one length before it is read; LayerNorm takes the mean away as
well.

(x − mean) / √(variance + ε).
"""

norm = "layernorm"

max_iters = 300
eval_interval = 50
