"""The names of the files that a run writes into its out_dir."""

# Checkpoints: of the lowest validation loss so far, the newest, and the one that was the newest before it.
BEST, LATEST, EARLIER = "ckpt.pt", "last.pt", "earlier.pt"
TO_USE = (BEST, LATEST, EARLIER)  # which of a folder is taken: the first that is there
TO_RESUME = (LATEST, EARLIER, BEST)
VERSION = 1
FORMAT = f"kqv {VERSION}"  # what a checkpoint says of itself
DAMAGED = "damaged.pt"  # a last.pt that could not be read
NANOGPT = (
    "nanogpt.pt"  # nanoGPT's ckpt.pt, in whose place a run of it that goes on here puts its own
)
METRICS, CURVE, CONFIG = "metrics.jsonl", "loss.png", "config.json"
TENSORBOARD, WANDB = "tensorboard", "wandb"  # folders
# What a run and the scripts that read it write into out_dir. The checkpoints come last: while others are moved they are
# still in place.
OF_A_RUN = (
    "explain.html", "explain.png", "explain.json",
    "huggingface", "nanogpt", "model.gguf", "model.onnx", "model.safetensors", "model.pt",
    TENSORBOARD, WANDB, METRICS, CURVE, CONFIG, NANOGPT, DAMAGED, EARLIER, LATEST, BEST,
)  # fmt: skip
LARGEST_METRICS = 1 << 30  # bytes; a million lines take a quarter of it
