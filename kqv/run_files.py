"""Names of the files that a run writes into its out_dir."""

# Checkpoints: the one with the lowest validation loss, the newest, and the one before the newest.
BEST, LATEST, EARLIER = "ckpt.pt", "last.pt", "earlier.pt"
TO_USE = (BEST, LATEST, EARLIER)  # scripts load the first of these that exists,
TO_RESUME = (LATEST, EARLIER, BEST)  # and a resume the first of these
VERSION = 1
FORMAT = f"kqv {VERSION}"  # stored in each checkpoint
DAMAGED = "damaged.pt"  # a last.pt that could not be read
NANOGPT = "nanogpt.pt"  # nanoGPT's own ckpt.pt, renamed when its run is resumed here
METRICS, CURVE, CONFIG = "metrics.jsonl", "loss.png", "config.json"
TENSORBOARD, WANDB = "tensorboard", "wandb"  # folders
# Everything that a run, and scripts that read it, write into out_dir. Checkpoints come last: while
# the other files are moved, they are still in place.
OF_A_RUN = (
    *("explain.html", "explain.png", "explain.json"),
    *("huggingface", "nanogpt", "model.gguf", "model.onnx", "model.safetensors", "model.pt"),
    *(TENSORBOARD, WANDB, METRICS, CURVE, CONFIG, NANOGPT, DAMAGED, EARLIER, LATEST, BEST),
)
LARGEST_METRICS = 1 << 30  # bytes of metrics.jsonl; a million lines take a quarter of it
