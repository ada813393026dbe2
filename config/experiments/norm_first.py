"""Pre-norm or post-norm? The Transformer of 2017 normalizes the residual stream after each sublayer
has added to it; GPT-2 normalizes only the input of the sublayer.
"""

max_iters = 300
eval_interval = 50

variants = {
    "pre": {
        "about": "x + sublayer(norm(x)): the residual stream runs from the embedding to the head "
        "without a norm (Xiong et al. 2020).",
        "norm_first": True,
    },
    "post": {
        "about": "norm(x + sublayer(x)), as in 2017 and in BERT.",
        "norm_first": False,
    },
}
