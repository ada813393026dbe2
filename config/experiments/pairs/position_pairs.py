"""How should a translator know the position of a token? Encoder and decoder have positions of
their own; cross-attention has none but what those leave in its queries and keys.

    python compare.py config/experiments/pairs/position_pairs.py pairs.tsv
"""

architecture = "encoder_decoder"

batch_size = 128
max_iters = 300
eval_interval = 50

variants = {
    "learned": {"about": "A learned vector per position, on either side.", "position": "learned"},
    "none": {
        "about": "Not at all: the encoder sees a set of letters, and only the decoder's mask tells "
        "it anything about order.",
        "position": "none",
    },
    "relative": {
        "about": "A learned bias of the distance is added to the scores (Raffel et al. 2020).",
        "position": "relative",
    },
    "rope": {
        "about": "Queries and keys of self-attention are rotated (Su et al. 2021).",
        "position": "rope",
    },
    "sinusoidal": {
        "about": "Sines and cosines of the position are added to the embedding (Vaswani et al. "
        "2017).",
        "position": "sinusoidal",
    },
}
