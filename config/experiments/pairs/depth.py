"""Where should the layers go? Six layers, shared out between the encoder, which reads the source
once, and the decoder, which runs once for each token that it writes.

    python compare.py config/experiments/pairs/depth.py pairs.tsv
"""

architecture = "encoder_decoder"

batch_size = 128
max_iters = 300
eval_interval = 50

variants = {
    "1_5": {"about": "1 layer reads, 5 write.", "encoder_layers": 1, "n_layer": 5},
    "3_3": {"about": "3 layers read, 3 write, as in 2017.", "encoder_layers": 3, "n_layer": 3},
    "5_1": {
        "about": "5 layers read, 1 writes: the fastest translator of the three (Kasai et al. "
        "2021).",
        "encoder_layers": 5,
        "n_layer": 1,
    },
}
