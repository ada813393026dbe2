"""German to English: an encoder-decoder of byte pairs, for the captions of Multi30k.

python data/multi30k/prepare.py
python train.py config/multi30k.py data/multi30k/train.tsv --val_text=data/multi30k/dev.tsv
"""

out_dir = "out-multi30k"
architecture = "encoder_decoder"
tokenizer = "bpe:4096"  # one vocabulary, and one embedding, for both sides

block_size = 64
n_layer, n_head, n_embd = 3, 4, 256
dropout = 0.2  # 0.1 memorizes, 0.3 learns too slowly (docs/log.md)
label_smoothing = 0.1

batch_size = 128  # pairs
max_iters = 2400
eval_interval = 400
always_save_checkpoint = True  # the lowest loss is not the best translator
sample_chars = 64

learning_rate, muon_learning_rate = 0.01, 0.02
cooldown = 0.7
