"""T5 v1.1 (Raffel et al. 2020; Shazeer 2020) at the size of a laptop, for pairs.

    python train.py pairs.tsv config/t5.py
    python export.py --out_dir=out-t5            # a folder that transformers loads as a T5

True to T5 v1.1: pre-norm with RMSNorm, relative positions that are added to the scores, scores
without 1/sqrt(d_k), geglu, no biases, one embedding for source and target, a head of its own. T5
small has 8 + 8 blocks of width 512 with 6 heads. The optimizer is kqv's, Muon; T5 had Adafactor.
"""

out_dir = "out-t5"

architecture = "encoder_decoder"
n_layer = 3
n_head = 4
n_embd = 128
block_size = 64
position = "relative"
attention_scale = "none"
qk_norm = False
mlp = "geglu"
dropout = 0.1

batch_size = 64
max_iters = 2000
muon_learning_rate = 0.02
learning_rate = 1e-2
