"""The Transformer of 2017 (Vaswani et al., "Attention Is All You Need"), at the size of a laptop.

    python train.py pairs.tsv config/transformer_2017.py

True to the paper: post-norm, sinusoidal positions, one matrix for both embeddings and the head, the
embedding scaled by sqrt(n_embd), relu, biases, LayerNorm; Adam with beta2 0.98 and warmup, dropout
0.1, label smoothing 0.1. With both orders of norms it computes what torch.nn.Transformer does. The
paper's base model has 6 + 6 blocks of width 512 with 8 heads.

Post-norm wants a low learning rate. After 300 steps on English words with their sounds (data/g2p),
with 50 of warmup, the validation loss was 1.61 nats per character with 1e-3 and 1.81 with 2e-3;
with GPT-2's initial weights 1.71, 1.96 and, with 5e-3, 2.65.
"""

out_dir = "out-transformer-2017"

architecture = "encoder_decoder"
n_layer = 3
n_head = 4
n_embd = 128
block_size = 64
position = "sinusoidal"
scale_embedding = True
tie_weights = True
norm = "layernorm"
norm_first = False
qk_norm = False
mlp = "relu"
bias = True
dropout = 0.1
label_smoothing = 0.1

batch_size = 64
max_iters = 2000
optimizer = "adamw"
learning_rate = 1e-3
beta2 = 0.98
warmup_iters = 200
