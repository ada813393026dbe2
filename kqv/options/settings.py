"""The options of each script, as dataclasses. The text below a field is its help.

The many options of train.py are grouped by topic; the model's are in model_options.py. Names and
meanings are nanoGPT's wherever nanoGPT has the option. torch is not imported here, because
`--help` and mistakes are answered without waiting for it.
"""

from dataclasses import InitVar, dataclass
from typing import Literal

import tyro

from kqv.options.model_options import ModelOptions


@dataclass
class MachineSettings:
    """Where and how to compute; every script that runs a model has these."""

    device: str = "auto"
    """cpu, cuda, cuda:1 or mps; auto takes the fastest one present"""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """precision of the matrix products; weights stay in float32"""
    compile: Literal["auto"] | bool = "auto"
    """torch.compile the model: slow to start, faster on a GPU; auto compiles on a GPU only"""
    seed: int = 1337
    """random seed: same seed and same machine, same result"""


PAIR_TOKENIZERS = ("jamo", "symbols")  # of sides of pairs, not of a text to go on with


@dataclass
class TextOptions:
    """The text to train on, and its tokens."""

    text: InitVar[tyro.conf.UseAppendAction[tuple[str, ...]]] = ()
    """a TEXT whatever its name, such as --text=mycode.py; may be given several times"""
    dataset: str = "shakespeare_char"
    """folder under data/ to train on when no TEXT is named"""
    encoding: str = "utf-8"
    """character encoding of the text files"""
    endings: str = ""
    """file name endings to read from a folder, such as md,py, instead of txt, jsonl and parquet"""
    text_field: str = "text"
    """field of .jsonl lines, or column of .parquet files, that holds the text"""
    source_field: str = "source"
    """pairs: field of .jsonl lines that holds the source"""
    target_field: str = "target"
    """pairs: field of .jsonl lines that holds the target"""
    val_text: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """file to validate on, instead of the last 10 %; may be given several times, such as for two
    files whose lines belong together"""
    tokenizer: str = "char"
    """what a token is: char, bytes, gpt2 (or another encoding of tiktoken), bpe:1024, which learns
    that many tokens from the text; for pairs also symbols, which spaces separate, and jamo,
    characters with Korean syllables cut into letters"""
    target_tokenizer: str = ""
    """pairs: the tokenizer of the targets; without it both sides have one vocabulary"""


@dataclass
class RunOptions:
    """What a run starts from, how long it is, when it evaluates and saves."""

    out_dir: str = "out"
    """folder for checkpoints, metrics.jsonl and loss.png"""
    init_from: str = "scratch"
    """scratch; resume (the run in out_dir); or the weights to fine-tune: gpt2, gpt2-medium,
    gpt2-large, gpt2-xl, a checkpoint, or a folder with a Hugging Face model"""
    like: Literal["kqv", "nanogpt"] = "kqv"
    """defaults of all other options: those shown here, or nanoGPT's (OpenWebText, GPT-2's shape
    and weight initialization, AdamW, cosine schedule). Config files may call it defaults"""
    max_iters: int = 1000
    """training steps"""
    eval_interval: int = 200
    """steps between evaluations; each also writes a checkpoint and prints a sample"""
    eval_iters: int = 20
    """batches per loss estimate, spread evenly over the split"""
    log_interval: int = 10
    """steps between lines of metrics.jsonl"""
    dry_run: bool = False
    """only say what the run will take: parameters, memory, FLOPs, tokens, time; write nothing"""
    rate: float = 0.0
    """dry_run: tokens per second of all ranks together; 0 measures it here in under a minute"""
    eval_only: bool = False
    """only measure the loss on the whole validation split, and of an encoder-decoder also how good
    its translations are, then stop"""
    beam_size: int = 1
    """eval_only: translate by beam search with this many beams; 1: greedily"""
    length_penalty: float = 1.0
    """eval_only: targets are scored by log-probability / length^length_penalty"""
    always_save_checkpoint: bool = False
    """write ckpt.pt at every evaluation, not only when the loss is the lowest so far"""
    checkpoint_minutes: float = 10.0
    """also write last.pt when this many minutes have passed since the last one; 0 for never"""
    on_write_error: Literal["stop", "continue"] = "stop"
    """when a checkpoint or the metrics cannot be written: exit with status 1, or warn, train on
    and try again"""
    sample_chars: int = 200
    """tokens (characters) in the sample printed at each evaluation; 0 for none"""


@dataclass
class BatchOptions:
    """How much text one step reads; the length of a window is the model's block_size."""

    batch_size: int = 32
    """windows of text in one micro-batch"""
    gradient_accumulation_steps: int = 1
    """micro-batches per step, of all ranks together"""
    order: Literal["random", "epoch"] = "random"
    """windows at random positions, as in nanoGPT, or every window once before any comes again"""
    mask_rate: Literal["uniform"] | float = 0.15
    """encoder: share of the characters that it learns to fill in; uniform draws it for each window,
    which makes a masked diffusion model"""
    activation_checkpointing: bool = False
    """recompute activations in the backward pass: less memory, a third more work"""

    @property
    def step_windows(self) -> int:
        """Windows in a step, of all ranks: the global batch."""
        return self.batch_size * self.gradient_accumulation_steps


@dataclass
class RankOptions:
    """How several ranks, started by torchrun, work together."""

    backend: Literal["auto", "gloo", "nccl"] = "auto"
    """communication backend: nccl for GPUs, gloo for CPUs"""
    fsdp: bool = False
    """shard weights, gradients and optimizer state over the ranks (FSDP2), for a model that is
    too large for one"""


@dataclass
class OptimizerOptions:
    """The optimizers, and the schedule of their learning rates."""

    optimizer: Literal["muon", "adamw"] = "muon"
    """muon trains the matrices of the blocks with Muon and all other weights with AdamW"""
    learning_rate: float = 2e-2
    """peak learning rate of AdamW"""
    muon_learning_rate: float = 0.04
    """peak learning rate of Muon"""
    muon_momentum: float = 0.9
    """momentum of Muon; longer runs like 0.95"""
    weight_decay: float = 0.0
    """decoupled weight decay of all matrices"""
    beta1: float = 0.9
    """AdamW: decay of the mean of the gradient"""
    beta2: float = 0.95
    """AdamW: decay of the mean of the squared gradient"""
    grad_clip: float = 1.0
    """clip the gradient norm to this; 0 for never"""
    decay_lr: bool = True
    """follow the learning rate schedule; False keeps the rates constant"""
    lr_schedule: Literal["linear", "cosine"] = "linear"
    """constant then linear decay, or cosine decay as in nanoGPT"""
    warmup_iters: int = 10
    """steps of linear warmup to the peak"""
    lr_decay_iters: int = 0
    """step at which the decay ends; 0 means max_iters"""
    min_lr: float = 0.0
    """learning_rate at the end of the decay; Muon's rate falls by the same factor"""
    cooldown: float = 0.6
    """linear schedule: fraction of the steps over which the rates decay"""


@dataclass
class ReportOptions:
    """What is recorded besides metrics.jsonl and loss.png."""

    inner_figures: bool = False
    """also record per layer, at each evaluation: score variance, entropy and saturation of the
    attention weights, gradient norm"""
    tensorboard: bool = False
    """also write TensorBoard event files to out_dir/tensorboard (pip install tensorboard)"""
    wandb_log: bool = False
    """also log to Weights & Biases (pip install wandb); without an account, to out_dir/wandb"""
    wandb_project: str = "kqv"
    """Weights & Biases project"""
    wandb_run_name: str = "run"
    """run name in TensorBoard and Weights & Biases"""


# A dataclass takes the fields of its last base first: --help lists them from MachineSettings on.
@dataclass
class TrainSettings(
    ReportOptions,
    OptimizerOptions,
    RankOptions,
    ModelOptions,
    BatchOptions,
    RunOptions,
    TextOptions,
    MachineSettings,
):
    """Train a character-level GPT on text. Without arguments: tiny Shakespeare, about a minute on
    two cores.

    TEXT is a file (.txt, .jsonl, .parquet or any other; .gz and .zst are unpacked), a folder of
    such files (see --endings), or - for standard input. CONFIG.py sets options by assignment.
    --version prints the versions of kqv, torch and Python.
    """


@dataclass
class CompareSettings(TrainSettings):
    """Train configurations side by side, on the same batches, and draw the difference:
    out_dir/report.html and report.md.

    Each CONFIG.py is trained from scratch with each seed, on TEXT if one is named (a file, a
    folder, or - for standard input). All options but out_dir, seed, seeds and open are those of
    train.py and override every configuration; what a configuration itself says of out_dir, seed,
    sample_chars and inner_figures is ignored. A run that is finished in the same out_dir is not
    trained again: after a change of the code, take another out_dir.
    """

    out_dir: str = "out-compare"
    """folder for the report and the runs"""
    seeds: int = 1
    """number of seeds per configuration: seed, seed + 1, ..."""
    open: Literal["auto"] | bool = "auto"
    """open the report in the browser; auto: in a terminal on a machine with a screen"""


@dataclass
class SampleSettings(MachineSettings):
    """Write text with a trained model, as it is generated."""

    init_from: str = "resume"
    """resume (the checkpoint in out_dir), gpt2, gpt2-medium, gpt2-large, gpt2-xl, or a folder or
    file of another model"""
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] = "auto"  # type: ignore[assignment]
    """precision of the matrix products; int8 quantizes large matrices, on a CPU: the fastest for
    one text"""
    out_dir: str = "out"
    """folder of the checkpoint (its ckpt.pt), or a checkpoint file"""
    start: str = "\n"
    """the prompt: text, FILE:path, or - for standard input"""
    num_samples: int = 1
    """number of samples, generated as one batch"""
    max_new_tokens: int = 500
    """tokens (characters) per sample; of an encoder, blanks after a prompt that has none"""
    temperature: float = 0.8
    """below 1 more predictable, above 1 more surprising; 0 always takes the likeliest token"""
    top_k: int = 0
    """sample from the k likeliest tokens only; 0 for all"""
    top_p: float = 1.0
    """sample from the likeliest tokens that together reach this probability"""
    min_p: float = 0.0
    """sample from tokens at least this times as likely as the likeliest"""
    repetition_penalty: float = 1.0
    """above 1 makes tokens that the text already has less likely"""
    past_block: Literal["auto", "half", "slide"] = "auto"
    """beyond block_size with learned or sinusoidal positions: continue from the last half of the
    block, or slide by one token each time, which is slower. auto slides for nanoGPT checkpoints
    (in float32 on a CPU), as nanoGPT does"""
    stop: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """end a sample before this string; may be given several times"""
    blank: str = "_"
    """encoder: the character of the prompt that stands for one to fill in"""
    denoise_steps: int = 0
    """encoder: steps in which the blanks of a block_size are filled; 0 for one per blank, the best
    and the slowest"""
    unknown: Literal["error", "skip"] = "error"
    """what to do with characters of the prompt that are not in the vocabulary"""
    interactive: bool = False
    """read prompts from the keyboard, one per line, until Ctrl-D"""
    output: Literal["text", "jsonl"] = "text"
    """text, or one JSON object per sample with log-probabilities"""
    each_line: Literal["auto"] | bool = "auto"
    """encoder_decoder: translate each line of --start, in batches; False: all lines as one source;
    auto refuses several lines"""
    beam_size: int = 1
    """encoder_decoder: beam search with this many beams, of which num_samples come out; 1 samples,
    or without --temperature always takes the likeliest token"""
    length_penalty: float = 1.0
    """encoder_decoder: targets are scored by log-probability / length^length_penalty; 0 favours
    short ones, above 1 long ones"""


@dataclass
class ExplainSettings:
    """Look inside a trained model as it reads a text: queries, keys, values, scores, attention
    weights, and its predictions."""

    out_dir: str = "out"
    """folder of the checkpoint (its ckpt.pt), or a checkpoint file"""
    text: str = "The cat sat on the mat."
    """the text to read, FILE:path, or - for standard input; at most block_size tokens; for an
    encoder-decoder, the source"""
    target: str = ""
    """encoder-decoder: the target to read, or FILE:path; without it, what the model writes"""
    format: Literal["html", "text", "png", "json"] = "html"
    """explain.html, a page to explore; one head and its figures in the terminal; explain.png, all
    heads; explain.json, all numbers"""
    blank: str = "_"
    """encoder: the character of the text that stands for one to fill in"""
    step: int = -1
    """0 for the model before training; -1 for the trained one"""
    against: str = ""
    """html: a second folder or checkpoint file, shown beside the first"""
    open: Literal["auto"] | bool = "auto"
    """open the page or picture in the browser; auto: the page, in a terminal on a machine with a
    screen"""
    layer: int = -1
    """layer of the head to show first; -1 for the head with the lowest entropy"""
    head: int = -1
    """the head to show first; -1 as for layer"""


@dataclass
class ExportSettings:
    """Export a trained model: Hugging Face, llama.cpp, nanoGPT, ONNX; or merge a sharded checkpoint
    into one file."""

    out_dir: str = "out"
    """folder of the checkpoint (its ckpt.pt), or a checkpoint file"""
    format: Literal["huggingface", "gguf", "nanogpt", "onnx", "safetensors", "checkpoint"] = (
        "huggingface"
    )
    """a folder for transformers; a file for llama.cpp; a folder with ckpt.pt and meta.pkl; a file
    for ONNX runtimes; weights and settings in one file; or the checkpoint as one file, where a run
    with --fsdp=True wrote a folder of shards"""
    to: str = ""
    """folder or file to write; by default in out_dir: huggingface/, nanogpt/, model.gguf,
    model.onnx, model.safetensors or model.pt"""
    dtype: Literal["f32", "f16", "q8_0"] = "f32"
    """gguf: precision of the matrices, 32, 16 or 8 bits"""


EXPORT_SUFFIXES = {
    "gguf": ".gguf",
    "onnx": ".onnx",
    "safetensors": ".safetensors",
    "checkpoint": ".pt",
}  # of the formats that are one file; the others are a folder

SETTINGS: dict[str, type] = {
    "train.py": TrainSettings,
    "sample.py": SampleSettings,
    "explain.py": ExplainSettings,
    "compare.py": CompareSettings,
    "export.py": ExportSettings,
}
