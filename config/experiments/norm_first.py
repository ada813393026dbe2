"""Before or after? The Transformer of 2017 normalizes the sum of a part and the residual stream;
GPT-2 and all that came after it normalize what a part reads, and leave the stream alone.
"""

max_iters = 300
eval_interval = 50

variants = {
    "pre": {
        "about": "x + part(norm(x)): the residual stream runs from the embedding to the head "
        "without a norm (Xiong et al. 2020).",
        "norm_first": True,
    },
    "post": {
        "about": "norm(x + part(x)), as in 2017 and in BERT: every layer rescales the stream.",
        "norm_first": False,
    },
}
