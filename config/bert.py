"""BERT (Devlin et al. 2019) at the size of a laptop: learn a text by filling in masked characters.

    python train.py novel.txt config/bert.py
    python export.py --out_dir=out-bert          # a folder that transformers' BertModel loads

True to BERT: post-norm, learned positions, a norm after the embedding, gelu, biases, LayerNorm with
an epsilon of 1e-12, 15 % of the characters masked; AdamW with warmup, dropout 0.1. BERT base has 12
blocks of width 768 with 12 heads. Its head is simpler here: one matrix, which is the embedding.
"""

out_dir = "out-bert"

architecture = "encoder"
mask_rate = 0.15
n_layer = 4
n_head = 4
n_embd = 128
block_size = 128
position = "learned"
embedding_norm = True
norm = "layernorm"
norm_epsilon = 1e-12
norm_first = False
qk_norm = False
mlp = "gelu"
bias = True
tie_weights = True
weight_init = "gpt2"
dropout = 0.1

batch_size = 32
max_iters = 2000
optimizer = "adamw"
learning_rate = 2e-3
weight_decay = 0.01
warmup_iters = 200
