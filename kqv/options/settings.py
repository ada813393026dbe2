"""All options of the scripts as dataclasses, and what no option may be.

Names and meanings are nanoGPT's wherever nanoGPT has the option. The text below a field is its help. torch is
not imported here: `--help` and mistakes are answered at once.
"""

import ast
import difflib
import functools
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from typing import Any, Literal

import tyro

from kqv.errors import UserError
from kqv.project import ROOT

LARGEST_SEED = 2**62  # generators take 64 bits, and training adds the step
LARGEST_SIZE = 2**40  # as in model.py; no run has as many steps
WIDEST = 2**20  # numbers in the residual stream, or inside an MLP
DEEPEST = 1000  # blocks; of what was published DeepNet is the deepest (Wang et al. 2022), with 1,000 layers
LARGEST_BATCH = 2**26  # tokens in a micro-batch: no GPU holds them all at once
# With three times this rate neither optimizer learns: after 100 steps of tiny Shakespeare the loss was 17 and 65 nats.
LARGEST_RATE = 1.0
LARGEST_DECAY = 1e6

MODEL = ROOT / "model.py"


@functools.cache
def _model_source() -> ast.Module:
    return ast.parse(MODEL.read_bytes())


def keys_of(table: str) -> tuple[str, ...]:
    """The keys of a table of model.py, in its order: the choices of an option. They are read from its
    source, because importing it would take torch's second.

    >>> keys_of("SCALES")
    ('sqrt', 'dim', 'none')
    """
    for node in _model_source().body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if ast.unparse(target) == table:
                return tuple(ast.literal_eval(key) for key in node.value.keys if key is not None)
    raise LookupError(
        f"{MODEL} has no {table} = {{...}} whose keys could be the choices of an option"
    )


@dataclass
class MachineSettings:
    """Where and how to compute; every script that runs a model has these."""

    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes the fastest one present"""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """precision of the matrix products; weights are kept in float32"""
    compile: Literal["auto"] | bool = "auto"
    """torch.compile the model: slow to start, faster on a GPU; auto compiles on a GPU only"""
    seed: int = 1337
    """same seed, same machine, same result"""


@dataclass
class TrainSettings(MachineSettings):
    """Train a character-level GPT on text. Without arguments: tiny Shakespeare, about a minute on two cores.

    TEXT is a file (.txt, .jsonl, .parquet or any other; .gz and .zst are unpacked), a folder of such files (see endings), or
    - for standard input; CONFIG.py sets options by assignment. --version says which kqv, torch and Python this is.
    """

    # what to read and write
    text: InitVar[tyro.conf.UseAppendAction[tuple[str, ...]]] = ()
    """a TEXT whatever its name ends in, such as --text=mycode.py; may be given several times"""
    out_dir: str = "out"
    """folder of the checkpoints, metrics.jsonl and loss.png"""
    dataset: str = "shakespeare_char"
    """folder under data/ to train on when no text file is named"""
    encoding: str = "utf-8"
    """encoding of the text files"""
    endings: str = ""
    """which files of a folder to read, packed or not: md,py takes .md and .py instead of .txt,
    .jsonl and .parquet"""
    text_field: str = "text"
    """where the lines of .jsonl and the rows of .parquet files have their text"""
    tokenizer: str = "char"
    """what a token is: char, bytes, gpt2 (or another encoding of tiktoken's), or bpe:1024, that many learnt from the text"""
    init_from: str = "scratch"
    """scratch, resume (go on with the run in out_dir), gpt2, gpt2-medium, gpt2-large, gpt2-xl, or a checkpoint or a folder of
    a Hugging Face model to start from (fine-tuning)"""
    like: Literal["kqv", "nanogpt"] = "kqv"
    """the defaults for all that is not given: those shown here, or nanoGPT's (OpenWebText, GPT-2's
    shape and first weights, AdamW, cosine schedule). A config file may call it defaults"""
    max_iters: int = 1000
    """training steps"""
    eval_interval: int = 200
    """steps between two evaluations, each followed by a checkpoint and a sample"""
    eval_iters: int = 20
    """batches in an estimate of the loss, spread evenly over the split"""
    log_interval: int = 10
    """steps between two lines of metrics.jsonl"""
    dry_run: bool = False
    """only say what the run will take: parameters, memory, FLOPs, tokens, time; nothing is written"""
    rate: float = 0.0
    """dry_run: tokens per second of all processes, for the time; 0 measures it here, in less than a minute"""
    eval_only: bool = False
    """only measure the loss of the model on the whole validation split, then stop"""
    always_save_checkpoint: bool = False
    """write ckpt.pt at each evaluation, not only when the loss is the lowest so far"""
    checkpoint_minutes: float = 10.0
    """write last.pt also when this long has passed since it was written; 0 for at evaluations only"""
    on_write_error: Literal["stop", "continue"] = "stop"
    """when a checkpoint or the metrics cannot be written: end with status 1, or say so, train on, and try again"""
    sample_chars: int = 200
    """tokens (characters) in the sample printed at each evaluation; 0 for none"""

    # how much text a step sees
    batch_size: int = 32
    """windows of text in one (micro-)batch"""
    block_size: int = 64
    """tokens (characters) in a window: how far back the model can look"""
    gradient_accumulation_steps: int = 1
    """micro-batches that make one step, whatever the number of processes, which share them"""
    order: Literal["random", "epoch"] = "random"
    """windows of text at random, as nanoGPT does, or each of them once before one comes again"""
    activation_checkpointing: bool = False
    """keep only what goes into each block and compute the rest again for the gradient: less memory, a third more work"""

    # the model, see GPTConfig in model.py, whose fields and defaults these are
    n_layer: int = 3
    """blocks of attention and MLP"""
    n_head: int = 4
    """attention heads in a block"""
    n_embd: int = 128
    """width of the residual stream; each head has d_k = n_embd / n_head"""
    dropout: float = 0.0
    """share of activations dropped in training"""
    bias: bool = False
    """biases in linear layers and LayerNorm"""
    position: Literal["rope", "learned", "sinusoidal", "none"] = "rope"
    """how the model knows where a character stands"""
    rope_base: float = 10_000.0
    """rope: the slowest pair turns about this many times slower than the fastest; larger for longer texts"""
    norm: Literal[keys_of("NORMS")] = "rmsnorm"  # type: ignore[valid-type]
    """normalisation before attention, MLP and the output"""
    mlp: Literal[keys_of("ACTIVATIONS")] = "swiglu"  # type: ignore[valid-type]
    """the feed-forward part of a block"""
    mlp_width: int = 0
    """width inside it; 0 for the usual: 4 n_embd, swiglu 8/3 n_embd in multiples of 32"""
    qk_norm: bool = True
    """RMSNorm on each query and key"""
    attention_scale: Literal[keys_of("SCALES")] | float = "sqrt"  # type: ignore[valid-type]
    """what scores are multiplied by: sqrt is 1/sqrt(d_k), dim 1/d_k, none 1, or a number"""
    attention_score: Literal[keys_of("SCORES")] = "dot"  # type: ignore[valid-type]
    """query . key, its square, or phi(query) . phi(key) without softmax and scale: linear attention"""
    mask: Literal[keys_of("MASKS")] = "causal"  # type: ignore[valid-type]
    """who may look at whom: the past, all, or only what comes"""
    window: int = 0
    """how many characters back attention reaches, itself included; 0 for all"""
    tie_weights: bool = False
    """one matrix for the embedding and the output head"""
    weight_init: Literal["zero_residual", "gpt2"] = "zero_residual"
    """first weights: zero_residual is N(0, 1/inputs), and 0 where they write into the residual
    stream; gpt2 is N(0, 0.02^2), divided by sqrt(2 n_layer) there"""

    # several processes, started with torchrun
    backend: Literal["auto", "gloo", "nccl"] = "auto"
    """how processes reach each other: nccl for GPUs, gloo for CPUs"""
    fsdp: bool = False
    """shard weights, gradients and moments over the processes (FSDP2), for a model that is too large for one"""

    # the optimizer
    optimizer: Literal["muon", "adamw"] = "muon"
    """muon trains the matrices of the blocks with Muon and the rest with AdamW"""
    learning_rate: float = 2e-2
    """peak rate of AdamW"""
    muon_learning_rate: float = 0.04
    """peak rate of Muon"""
    muon_momentum: float = 0.9
    """Muon: decay of the gradient's average; longer runs like 0.95"""
    weight_decay: float = 0.0
    """decoupled weight decay of all matrices"""
    beta1: float = 0.9
    """AdamW: decay of the gradient's average"""
    beta2: float = 0.95
    """AdamW: decay of the squared gradient's average"""
    grad_clip: float = 1.0
    """clip the norm of the gradient to this; 0 for never"""
    decay_lr: bool = True
    """follow the schedule below; False keeps the rates constant"""
    lr_schedule: Literal["linear", "cosine"] = "linear"
    """shape of the decay: constant then linear, or cosine as in nanoGPT"""
    warmup_iters: int = 10
    """steps over which the rates rise to their peak"""
    lr_decay_iters: int = 0
    """step at which the decay ends; 0 means max_iters"""
    min_lr: float = 0.0
    """learning_rate at the end of the decay; Muon's rate falls in the same proportion"""
    cooldown: float = 0.6
    """linear schedule: share of the steps in which the rates fall"""

    # reports
    inner_figures: bool = False
    """also write, at each evaluation, the figures of each layer: score variance, entropy and saturation of attention, norm of
    the gradient"""
    tensorboard: bool = False
    """also write event files to out_dir/tensorboard (pip install tensorboard)"""
    wandb_log: bool = False
    """also log to Weights & Biases (pip install wandb); without an account the run is kept in out_dir/wandb"""
    wandb_project: str = "kqv"
    """Weights & Biases project"""
    wandb_run_name: str = "run"
    """name of the run in both"""


@dataclass
class CompareSettings(TrainSettings):
    """Train configurations side by side, on the same batches, and draw the difference: out_dir/report.html and report.md.

    Each CONFIG.py is trained from scratch with each seed, on TEXT if one is named (a file, a folder, or - for standard
    input). All options but out_dir, seed, seeds and open are those of train.py, and are laid over every configuration; what a
    configuration itself says of out_dir, seed, sample_chars and inner_figures is not used. What was trained before into the
    same out_dir is not trained again: after a change of the code, take another out_dir.
    """

    out_dir: str = "out-compare"
    """folder of the report and of the runs"""
    seeds: int = 1
    """how many seeds each configuration is trained with: seed, seed + 1, ..."""
    open: Literal["auto"] | bool = "auto"
    """open the report in the browser; auto opens it where this is a terminal on a machine with a screen"""


@dataclass
class SampleSettings(MachineSettings):
    """Write text with a trained model, as it is generated."""

    init_from: str = "resume"
    """resume (the checkpoint in out_dir), gpt2, gpt2-medium, gpt2-large, gpt2-xl, or a folder or file of another model"""
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] = "auto"  # type: ignore[assignment]
    """precision of the matrix products; int8 keeps large matrices in 8 bits, on a CPU: the fastest for one text"""
    out_dir: str = "out"
    """folder of the checkpoint (its ckpt.pt), or a checkpoint file"""
    start: str = "\n"
    """the prompt: text, FILE:path, or - for standard input"""
    num_samples: int = 1
    """texts to write; they are generated as one batch"""
    max_new_tokens: int = 500
    """tokens (characters) in each"""
    temperature: float = 0.8
    """below 1 likelier, above 1 more surprising; 0 always takes the likeliest"""
    top_k: int = 0
    """draw from the k likeliest only; 0 for all"""
    top_p: float = 1.0
    """draw from the likeliest that together have this probability"""
    min_p: float = 0.0
    """draw from those at least this times as likely as the likeliest"""
    repetition_penalty: float = 1.0
    """above 1 makes what stood in the text before less likely"""
    past_block: Literal["auto", "half", "slide"] = "auto"
    """when learned or sinusoidal positions end: go on from the last half of the block, or move the block by one token each
    time, which takes longer; auto slides for a checkpoint of nanoGPT's (and computes it in float32 on a CPU), as nanoGPT does"""
    stop: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """end a sample before this string; may be given several times"""
    unknown: Literal["error", "skip"] = "error"
    """what to do with a character of the prompt that the model does not know"""
    interactive: bool = False
    """read prompts from the keyboard, one a line, until Ctrl-D"""
    output: Literal["text", "jsonl"] = "text"
    """text, or one JSON object a sample with its log-probabilities"""


@dataclass
class ExplainSettings:
    """Look inside a trained model as it reads a text: queries, keys, values, scores, weights, and what it would say."""

    out_dir: str = "out"
    """folder of the checkpoint (its ckpt.pt), or a checkpoint file"""
    text: str = "The cat sat on the mat."
    """what the model reads, FILE:path, or - for standard input; at most block_size tokens (characters)"""
    format: Literal["html", "text", "png", "json"] = "html"
    """explain.html, a page to explore; a map and figures in the terminal; explain.png, all heads; explain.json, all numbers"""
    step: int = -1
    """0 for the model as it was before training; -1 for the trained one"""
    against: str = ""
    """html: a second folder or checkpoint file, shown beside the first"""
    open: Literal["auto"] | bool = "auto"
    """open the page, or the picture, in the browser; auto opens the page where this is a terminal on a machine with a screen"""
    layer: int = -1
    """the layer of the head that is shown first; -1 takes the head that is surest where to look (the lowest entropy)"""
    head: int = -1
    """the head that is shown first"""


@dataclass
class ExportSettings:
    """Hand a trained model to others: Hugging Face, llama.cpp, nanoGPT, ONNX; or make one file of a sharded checkpoint."""

    out_dir: str = "out"
    """folder of the checkpoint (its ckpt.pt), or a checkpoint file"""
    format: Literal["huggingface", "gguf", "nanogpt", "onnx", "safetensors", "checkpoint"] = (
        "huggingface"
    )
    """a folder for transformers; a file for llama.cpp; a folder with ckpt.pt and meta.pkl; a file for ONNX runtimes; weights and
    settings in one file; the checkpoint itself as one file, where a run with --fsdp=True made a folder of shards"""
    to: str = ""
    """the folder or file to write; if not given it is in out_dir: huggingface/, nanogpt/, model.gguf, model.onnx,
    model.safetensors or model.pt"""
    dtype: Literal["f32", "f16", "q8_0"] = "f32"
    """gguf: the numbers of the matrices, of 32, 16 or 8 bits"""


SETTINGS: dict[str, type] = {
    "train.py": TrainSettings, "sample.py": SampleSettings, "explain.py": ExplainSettings, "compare.py": CompareSettings,
    "export.py": ExportSettings,
}  # fmt: skip

# What other programs call our options, for who writes one of these names.
ALSO_CALLED = {
    "start": "prompt text prefix",
    "max_new_tokens": "length max_length max_len max_tokens num_tokens n_tokens n_predict tokens chars",
    "num_samples": "samples n_samples num_return_sequences n count",
    "temperature": "temp",
    "repetition_penalty": "repeat_penalty penalty",
    "text": "prompt start sentence",
    "to": "output output_dir output_path outfile out o",
    "out_dir": "model model_path model_dir checkpoint checkpoint_path ckpt output output_dir save_dir run m o",
    "max_iters": "epochs epoch num_epochs n_epochs steps max_steps num_steps n_steps train_steps iterations iters",
    "learning_rate": "lr max_lr",
    "muon_learning_rate": "muon_lr",
    "lr_schedule": "schedule scheduler lr_scheduler lr_scheduler_type",
    "warmup_iters": "warmup warmup_steps",
    "weight_decay": "wd l2",
    "grad_clip": "clip clip_grad max_grad_norm gradient_clip",
    "optimizer": "optim opt",
    "batch_size": "batch bs micro_batch_size per_device_train_batch_size",
    "gradient_accumulation_steps": "accumulation grad_accum grad_accum_steps accumulate",
    "block_size": "context context_length context_size ctx ctx_size n_ctx seq_len seq_length sequence_length max_seq_len",
    "n_layer": "layers layer num_layers n_layers depth num_hidden_layers",
    "n_head": "heads num_heads n_heads nhead num_attention_heads",
    "n_embd": "width dim d_model hidden_size hidden emb embd n_embed n_emb embed_dim embedding_dim",
    "position": "pos positional positions",
    "mlp": "activation act hidden_act",
    "norm": "normalization normalisation",
    "tie_weights": "tie tied tie_word_embeddings weight_tying",
    "eval_interval": "eval_every eval_steps save_interval save_every save_steps",
    "log_interval": "log_every logging_steps print_every",
    "activation_checkpointing": "gradient_checkpointing checkpointing",
    "tokenizer": "tok vocab",
    "init_from": "pretrained finetune",
    "dtype": "precision float16 bfloat16 half amp quantize",
    "wandb_log": "wandb",
}  # fmt: skip
# Names that others have for a value of ours.
WRITTEN = {
    "resume": "--init_from=resume", "cuda": "--device=cuda", "gpu": "--device=cuda", "cpu": "--device=cpu",
    "mps": "--device=mps", "fp16": "--dtype=float16", "bf16": "--dtype=bfloat16",
}  # fmt: skip
# Names that other programs have for the text to train on.
NAMES_OF_TEXTS = (
    "data data_dir data_path data_file input input_file file train_file train_data corpus"
)


def check_training(settings: TrainSettings) -> None:
    """Refuse settings that no model or run can have. Raises UserError naming the option and a value that works."""
    _check_named(settings, "out_dir", "dataset", "init_from")
    _check_start(settings.init_from, "scratch", "resume")
    _check_between(settings, 1, DEEPEST, "n_layer")
    _check_between(settings, 1, WIDEST, "n_head", "n_embd")
    _check_between(settings, 1, LARGEST_SIZE, "block_size", "batch_size", "eval_interval")
    _check_between(
        settings, 1, LARGEST_SIZE, "eval_iters", "log_interval", "gradient_accumulation_steps"
    )
    _check_between(
        settings, 0, LARGEST_SIZE, "max_iters", "warmup_iters", "lr_decay_iters", "sample_chars"
    )
    _check_between(settings, 0, LARGEST_SIZE, "window", "mlp_width")
    _check_between(settings, 1, LARGEST_SIZE, "rope_base")
    _check_between(settings, 0, LARGEST_SEED, "seed")
    _check_rates(settings, "learning_rate", "muon_learning_rate", "min_lr")
    _check_between(settings, 0, LARGEST_DECAY, "weight_decay")
    check_at_least(settings, 0, "grad_clip", "rate")
    check_at_least(settings, 0, "checkpoint_minutes")
    _check_between(settings, 0, 1, "dropout", "beta1", "beta2", "muon_momentum", below=True)
    _check_between(settings, 0, 1, "cooldown")
    if settings.batch_size * settings.block_size > LARGEST_BATCH:
        fewer = f"--batch_size={LARGEST_BATCH // settings.block_size} or less, and more --gradient_accumulation_steps="
        raise UserError(
            f"batch_size={settings.batch_size} windows of block_size={settings.block_size} are more than any machine holds at "
            f"once: take {fewer if settings.block_size <= LARGEST_BATCH else f'--block_size={LARGEST_BATCH} or less'}"
        )
    if settings.rate and not settings.dry_run:
        raise UserError("rate says how fast a run would be: write --dry_run=True with it")
    for option, package in {"tensorboard": "tensorboard", "wandb_log": "wandb"}.items():
        if getattr(settings, option) and not importlib.util.find_spec(package):
            raise UserError(f"{option} needs the package {package}: pip install {package}")
    if settings.n_embd % settings.n_head:
        pair = 2 if settings.position == "rope" else 1  # rotary positions need an even d_k
        possible = [
            n
            for n in range(1, min(settings.n_embd, 10_000) + 1)
            if settings.n_embd % (n * pair) == 0
        ]
        nearest = min(possible, key=lambda n: abs(n - settings.n_head), default=None)
        unit = settings.n_head * pair
        raise UserError(
            f"n_embd={settings.n_embd} does not divide into n_head={settings.n_head} heads: take "
            f"{f'--n_head={nearest} or ' if nearest else ''}--n_embd={-(-settings.n_embd // unit) * unit}"
        )
    if settings.position == "rope" and settings.n_embd // settings.n_head % 2:
        raise UserError(
            f"rotary positions turn pairs of numbers, and d_k = n_embd / n_head = "
            f"{settings.n_embd // settings.n_head} is odd: take --n_embd={2 * settings.n_embd} or --position=learned"
        )


def check_endings(endings: str, words: Sequence[str]) -> None:
    """Refuse endings for words of which none is a folder. Raises UserError."""
    if endings and not any(map(os.path.isdir, words)):
        raise UserError(
            "endings chooses among the files of a folder, and none is named: name one, or leave it out"
        )


def check_comparing(settings: CompareSettings) -> None:
    """Refuse what cannot be compared. Raises UserError."""
    check_at_least(settings, 1, "seeds")
    _check_between(settings, 0, LARGEST_SEED - settings.seeds, "seed")


def check_sampling(settings: SampleSettings) -> None:
    """Refuse sampling options out of their range. Raises UserError."""
    _check_between(settings, 1, 10_000, "num_samples")
    _check_named(settings, "out_dir", "init_from")
    _check_start(settings.init_from, "resume")
    _check_between(settings, 0, LARGEST_SIZE, "max_new_tokens", "temperature", "top_k")
    _check_between(settings, 0, LARGEST_SEED, "seed")
    _check_between(settings, 0, 1, "top_p", "min_p")
    if settings.top_p == 0:
        raise UserError(
            "top_p=0 leaves nothing to draw from: take --top_k=1 for the likeliest character"
        )
    _check_between(settings, 0.01, 100, "repetition_penalty")
    if "" in settings.stop:
        raise UserError("an empty --stop= would end every sample at once: leave it out")


def check_explaining(settings: ExplainSettings) -> None:
    """Refuse a step that is not kept, places that no model has, and two models where one is shown. Raises UserError."""
    _check_named(settings, "out_dir")
    if settings.against and settings.format != "html":
        raise UserError(
            f"--against= puts two models on one page: leave out --format={settings.format}"
        )
    if settings.open is True and settings.format not in ("html", "png"):
        raise UserError(
            f"--open shows a page or a picture in the browser: leave out --format={settings.format}, or --open"
        )
    if settings.step not in (-1, 0):
        raise UserError(
            f"step={settings.step} is not kept: take --step=0 for the untrained model, or leave it out"
        )
    check_at_least(settings, -1, "layer", "head")


SUFFIXES = {
    "gguf": ".gguf",
    "onnx": ".onnx",
    "safetensors": ".safetensors",
    "checkpoint": ".pt",
}  # the formats that are one file


def check_exporting(settings: ExportSettings) -> None:
    """Refuse a name that its format does not have, and a format whose package is missing. Raises UserError."""
    _check_named(settings, "out_dir")
    if settings.dtype != "f32" and settings.format != "gguf":
        raise UserError(
            f"dtype={settings.dtype} is for --format=gguf: {settings.format} is written in f32"
        )
    suffix = SUFFIXES.get(settings.format, "")
    if settings.to and suffix and not settings.to.endswith(suffix):
        raise UserError(
            f"to={settings.to} would be a file of the format {settings.format}: let its name end in {suffix}"
        )
    for package in {"gguf": ["gguf"], "onnx": ["onnx", "onnxscript"]}.get(settings.format, []):
        if not importlib.util.find_spec(package):
            raise UserError(
                f"format={settings.format} needs the package {package}: pip install {package}"
            )


def check_at_least(settings: Any, least: float, *names: str) -> None:
    """Refuse settings below `least`. Raises UserError naming the option."""
    for name in names:
        if getattr(settings, name) < least:
            raise UserError(f"{name}={_brief(getattr(settings, name))} must be {least} or more")


def _check_between(
    settings: Any, low: float, high: float, *names: str, below: bool = False
) -> None:
    for name in names:
        value = getattr(settings, name)
        if not (low <= value < high if below else low <= value <= high):
            limits = f"from {low} to {'below ' if below else ''}{high:,}"
            if (
                high == LARGEST_SIZE and value < low
            ):  # the upper end is there for numbers that nobody means
                limits = f"{low} or more"
            raise UserError(f"{name}={_brief(value)} must be {limits}")


def _check_start(init_from: str, *words: str) -> None:
    """Refuse a slip of the pen for one of the `words` that init_from takes beside a path. Raises UserError."""
    near = difflib.get_close_matches(
        init_from[:60], [*words, "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"], n=1
    )
    if near and init_from != near[0] and not os.path.exists(init_from):
        raise UserError(f"init_from={init_from} is no checkpoint; did you mean {near[0]}?")


def _check_rates(settings: TrainSettings, *names: str) -> None:
    for name in names:
        value, usual = getattr(settings, name), getattr(TrainSettings, name)
        if not 0 <= value <= LARGEST_RATE:
            raise UserError(
                f"{name}={value} is not from 0 to {LARGEST_RATE}, where models train: take --{name}={usual}"
            )


def _brief(number: float) -> str:
    """A number as an error quotes it; a whole one can have thousands of digits."""
    digits = int(abs(number)).bit_length() * 30103 // 100_000
    return (
        f"{'-' if number < 0 else ''}1e{digits}"
        if digits > 30 and isinstance(number, int)
        else str(number)
    )


def _check_named(settings: Any, *names: str) -> None:
    """Refuse an empty name, which a path takes for this folder. Raises UserError."""
    for name in names:
        if not getattr(settings, name):
            raise UserError(
                f"{name}= is empty (a variable of the shell that is not set?): leave it out, or give it a value"
            )
