"""Spelling to sounds: an encoder-decoder of characters, for SIGMORPHON 2021, shared task 1.

python data/g2p/prepare.py
python train.py config/g2p.py data/g2p/eng_us_train.tsv --val_text=data/g2p/eng_us_dev.tsv
"""

out_dir = "out-g2p"
architecture = "encoder_decoder"
tokenizer = "jamo"  # characters, and a Korean syllable as its letters
target_tokenizer = "symbols"  # a sound is a symbol of one or more characters

block_size = 48  # the longest English word has 45 characters
n_layer, n_head, n_embd = 3, 4, 128
dropout = 0.1  # more lowers the loss, but not the word error rate (docs/log.md)
label_smoothing = 0.1

batch_size = 256  # pairs; for characters a large batch is decisive (Wu et al. 2021)
max_iters = 4500
eval_interval = 500
always_save_checkpoint = True  # the lowest loss is not the best translator
sample_chars = 40

learning_rate, muon_learning_rate = 0.01, 0.02
cooldown = 0.7
