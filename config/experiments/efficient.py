"""What does attention lose that does not look at every pair of characters? Full attention takes
time in proportion to the square of a text's length, each of the others to the length.
"""

block_size = 256
batch_size = 16
max_iters = 300
eval_interval = 50

variants = {
    "full": {
        "about": "Softmax attention to all 256 characters, the measure of the others.",
    },
    "window": {
        "about": "A sliding window of 32 characters.",
        "window": 32,
    },
    "longformer": {
        "about": "The same window, and the first 4 characters, which all others see (Beltagy et "
        "al. 2020).",
        "window": 32,
        "global_tokens": 4,
    },
    "linear": {
        "about": "Weights in proportion to positive features of query and key, which can be summed "
        "over the past (Katharopoulos et al. 2020).",
        "attention_score": "linear",
    },
    "performer": {
        "about": "Random features that estimate softmax attention (Choromanski et al. 2021).",
        "attention_score": "performer",
    },
    "encoder_full": {
        "about": "An encoder, which fills in masked characters, with full attention: the measure "
        "of Linformer.",
        "architecture": "encoder",
    },
    "linformer": {
        "about": "An encoder whose 256 keys and values are projected to 32 mixtures of them (Wang "
        "et al. 2020).",
        "architecture": "encoder",
        "linformer_rank": 32,
    },
}
