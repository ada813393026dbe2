"""Which activation is best in the MLP? All three have about the same number of parameters."""

max_iters = 300
eval_interval = 50

variants = {
    "gelu": {
        "about": "gelu(up(x)), hidden width 4 n_embd: GPT-2's.",
        "mlp": "gelu",
    },
    "relu2": {
        "about": "relu(up(x))², hidden width 4 n_embd (So et al. 2021).",
        "mlp": "relu2",
    },
    "swiglu": {
        "about": "silu(gate(x)) · up(x), hidden width 8/3 n_embd (Shazeer 2020).",
        "mlp": "swiglu",
    },
}
