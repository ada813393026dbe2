"""What no option may be: each check raises UserError naming the option and a value that works."""

import difflib
import importlib.util
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kqv.errors import UserError
from kqv.options.model_options import ModelOptions
from kqv.options.option_types import LONGEST_QUOTE, check_types
from kqv.options.settings import (
    EXPORT_SUFFIXES,
    PAIR_TOKENIZERS,
    CompareSettings,
    ExplainSettings,
    ExportSettings,
    SampleSettings,
    TrainSettings,
)

LARGEST_SEED = 2**62  # generators take 64 bits, and training adds the step
LARGEST_SIZE = 2**40  # no window, width or number of steps; tensors cannot count beyond 2^63
LARGEST_WIDTH = 2**20  # of the residual stream
LARGEST_FEATURES = 1024  # d_k of random features, which are made of d_k × d_k matrices
LARGEST_BEAM = 1000  # beams; the literature takes 4 to 10
LARGEST_DEPTH = 1000  # blocks; the deepest published model, DeepNet (Wang et al. 2022), has 1,000
LARGEST_BATCH = 2**26  # tokens in a micro-batch: no GPU holds more
# With three times this rate neither optimizer learns: after 100 steps of tiny Shakespeare the loss
# was 17 and 65 nats.
LARGEST_RATE = 1.0
LARGEST_DECAY = 1e6

HUGGING_FACE_NAMES = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
EXPORT_PACKAGES = {"gguf": ["gguf"], "onnx": ["onnx", "onnxscript"]}
# Options that mean something to some architectures only.
ONLY_FOR = {
    "mask_rate": ("encoder",),
    "order": ("decoder", "encoder"),
    "text_field": ("decoder", "encoder"),
    "source_field": ("encoder_decoder",),
    "target_field": ("encoder_decoder",),
    "blank": ("encoder",),
    "denoise_steps": ("encoder",),
    "each_line": ("encoder_decoder",),
    "beam_size": ("encoder_decoder",),
    "length_penalty": ("encoder_decoder",),
    "past_block": ("decoder",),
    "repetition_penalty": ("decoder", "encoder_decoder"),
    "stop": ("decoder",),
}


def check_model(options: ModelOptions) -> None:
    """Refuse options that no model can have: a wrong type, an unknown choice, an impossible size.

    Used for the options of train.py and for every `GPTConfig`, also one from a checkpoint, whose
    values can be anything. Raises UserError.
    """
    check_types(type(options), vars(options))
    _check_between(options, 1, LARGEST_DEPTH, "n_layer")
    _check_between(options, 1, LARGEST_WIDTH, "n_head", "n_embd")
    _check_between(options, 1, LARGEST_SIZE, "block_size", "rope_base")
    _check_between(options, 0, LARGEST_SIZE, "window", "mlp_width")
    _check_between(options, 0, 1, "dropout", "label_smoothing", "norm_epsilon", below=True)
    _check_architecture(options)
    if not isinstance(options.attention_scale, str):
        _check_between(options, -LARGEST_SIZE, LARGEST_SIZE, "attention_scale")
    _check_heads(options)
    _check_efficient_attention(options)


def _check_architecture(options: ModelOptions) -> None:
    """Refuse options that the architecture does not have."""
    _check_between(options, 0, LARGEST_DEPTH, "encoder_layers")
    architecture = options.architecture
    if options.encoder_layers and architecture != "encoder_decoder":
        raise UserError(
            f"encoder_layers={options.encoder_layers} is for --architecture=encoder_decoder: an "
            f"architecture={architecture} has n_layer blocks; leave it out"
        )
    if architecture == "encoder" and options.mask == "future":
        raise UserError("an encoder attends to every position: leave out --mask=future")


def _check_efficient_attention(options: ModelOptions) -> None:
    """Refuse global tokens, projections along time and random features that no model can have."""
    _check_between(options, 0, options.block_size, "global_tokens", below=True)
    _check_between(options, 0, options.block_size, "linformer_rank")
    if options.global_tokens and not options.window:
        raise UserError(
            f"global_tokens={options.global_tokens} are seen from beyond a sliding window, and "
            f"there is none: add --window=64, or leave them out"
        )
    rank, d_k = options.linformer_rank, options.n_embd // options.n_head
    if rank and options.architecture == "decoder":
        raise UserError(
            f"linformer_rank={rank} mixes all positions, and a decoder must not see later ones: "
            f"take --architecture=encoder, or leave it out"
        )
    if rank and (options.window or options.position == "relative"):
        other = f"window={options.window}" if options.window else "position=relative"
        raise UserError(
            f"linformer_rank={rank} mixes all positions, and {other} needs to know each: leave one "
            f"of them out"
        )
    if options.attention_score == "performer" and d_k > LARGEST_FEATURES:
        raise UserError(
            f"performer has features of up to {LARGEST_FEATURES:,} numbers, and d_k = n_embd / "
            f"n_head = {d_k:,}: take more heads"
        )


def _check_heads(options: ModelOptions) -> None:
    """Refuse a width that does not divide into heads, of an even d_k for rotary positions."""
    n_embd, n_head = options.n_embd, options.n_head
    rope = options.position == "rope"
    if n_embd % n_head:
        divisor = 2 if rope else 1  # of d_k
        possible = [n for n in range(1, min(n_embd, 10_000) + 1) if n_embd % (n * divisor) == 0]
        nearest = min(possible, key=lambda n: abs(n - n_head), default=None)
        unit = n_head * divisor
        fewer_heads = f"--n_head={nearest} or " if nearest else ""
        raise UserError(
            f"n_embd={n_embd} does not divide into n_head={n_head} heads: take "
            f"{fewer_heads}--n_embd={-(-n_embd // unit) * unit}"
        )
    if rope and n_embd // n_head % 2:
        raise UserError(
            f"rotary positions rotate pairs of numbers, and d_k = n_embd / n_head = "
            f"{n_embd // n_head} is odd: take --n_embd={2 * n_embd} or --position=learned"
        )


def check_training(settings: TrainSettings) -> None:
    """Refuse settings that no model or run can have. Raises UserError."""
    check_model(settings)
    _check_not_empty(settings, "out_dir", "dataset", "init_from", "source_field", "target_field")
    _check_init_from(settings.init_from, "scratch", "resume")
    if "" in settings.val_text:
        raise UserError("--val_text= is empty (a shell variable that is not set?): name a file")
    if settings.source_field == settings.target_field:
        raise UserError(
            f"source_field and target_field are both {settings.source_field!r}: name the two fields"
        )
    sizes = ("batch_size", "gradient_accumulation_steps", "eval_interval", "eval_iters")
    _check_between(settings, 1, LARGEST_SIZE, *sizes, "log_interval")
    counts = ("max_iters", "warmup_iters", "lr_decay_iters", "sample_chars")
    _check_between(settings, 0, LARGEST_SIZE, *counts)
    _check_between(settings, 0, LARGEST_SEED, "seed")
    _check_rates(settings, "learning_rate", "muon_learning_rate", "min_lr")
    _check_between(settings, 0, LARGEST_DECAY, "weight_decay")
    check_at_least(settings, 0, "grad_clip", "rate", "checkpoint_minutes")
    _check_between(settings, 0, 1, "beta1", "beta2", "muon_momentum", below=True)
    _check_between(settings, 0, 1, "cooldown")
    _check_between(settings, 1, LARGEST_BEAM, "beam_size")
    _check_between(settings, -100, 100, "length_penalty")
    if settings.mask_rate != "uniform" and not 0 < settings.mask_rate <= 1:
        raise UserError(f"mask_rate={settings.mask_rate} must be above 0 and at most 1, or uniform")
    _check_batch(settings)
    if settings.rate and not settings.dry_run:
        raise UserError("--rate is the speed that --dry_run=True plans with: add that, or leave it")
    for option, package in {"tensorboard": "tensorboard", "wandb_log": "wandb"}.items():
        if getattr(settings, option):
            _check_package(option, package)


def _check_batch(settings: TrainSettings) -> None:
    """Refuse a micro-batch that no machine can hold."""
    batch_size, block_size = settings.batch_size, settings.block_size
    if batch_size * block_size <= LARGEST_BATCH:
        return
    advice = f"--block_size={LARGEST_BATCH} or less"
    if block_size <= LARGEST_BATCH:
        most = LARGEST_BATCH // block_size
        advice = f"--batch_size={most} or less, and more --gradient_accumulation_steps="
    raise UserError(
        f"batch_size={batch_size} windows of block_size={block_size} are more than any machine "
        f"holds at once: take {advice}"
    )


def check_pair_options(settings: TrainSettings) -> None:
    """Refuse options of pairs for an architecture that learns from a text. Raises UserError."""
    if settings.architecture == "encoder_decoder":
        return
    wrong = f"--target_tokenizer={settings.target_tokenizer}" if settings.target_tokenizer else ""
    if settings.tokenizer in PAIR_TOKENIZERS:
        wrong = f"--tokenizer={settings.tokenizer}"
    if wrong:
        raise UserError(
            f"{wrong} is for pairs: name a .tsv file, add --architecture=encoder_decoder, or "
            f"leave it out"
        )


def check_endings(endings: str, words: Sequence[str]) -> None:
    """Refuse --endings if none of the texts named is a folder. Raises UserError."""
    if endings and not any(map(os.path.isdir, words)):
        raise UserError(
            "--endings chooses among the files of a folder, and no folder is named: name one, "
            "or leave it out"
        )


def check_comparing(settings: CompareSettings) -> None:
    """Refuse seeds that cannot be compared. Raises UserError."""
    check_at_least(settings, 1, "seeds")
    _check_between(settings, 0, LARGEST_SEED - settings.seeds, "seed")


def check_sampling(settings: SampleSettings) -> None:
    """Refuse sampling options out of their range. Raises UserError."""
    _check_between(settings, 1, 10_000, "num_samples")
    _check_not_empty(settings, "out_dir", "init_from")
    _check_init_from(settings.init_from, "resume")
    _check_between(settings, 0, LARGEST_SIZE, "max_new_tokens", "temperature", "top_k")
    _check_between(settings, 0, LARGEST_SEED, "seed")
    _check_between(settings, 0, 1, "top_p", "min_p")
    if settings.top_p == 0:
        raise UserError(
            "top_p=0 leaves nothing to sample from: take --top_k=1 for the likeliest token"
        )
    _check_between(settings, 0.01, 100, "repetition_penalty")
    check_blank(settings.blank)
    check_at_least(settings, 0, "denoise_steps")
    _check_between(settings, 1, LARGEST_BEAM, "beam_size")
    _check_between(settings, -100, 100, "length_penalty")
    if "" in settings.stop:
        raise UserError("an empty --stop= would end every sample at once: leave it out")


def check_architecture(given: Iterable[str], architecture: str) -> None:
    """Refuse options given that mean nothing to a model of this architecture. Raises UserError."""
    for name in given:
        meant = ONLY_FOR.get(name, (architecture,))
        if architecture not in meant:
            raise UserError(
                f"--{name}= is for --architecture={' or '.join(meant)}, and this model has "
                f"architecture={architecture}: leave it out"
            )


def check_translating(
    settings: SampleSettings, given: Mapping[str, Any], architecture: str
) -> None:
    """Refuse what an encoder-decoder cannot write; without --temperature it takes the likeliest
    token, and so gets temperature 0. Raises UserError."""
    if architecture != "encoder_decoder":
        return
    if "start" not in given and not settings.interactive:
        raise UserError("an encoder-decoder needs a source: give one with --start=")
    check_at_least(settings, 1, "max_new_tokens")
    if settings.interactive and settings.each_line is True:
        raise UserError("--interactive=True reads a source a line: leave out --each_line=True")
    if settings.beam_size > 1:
        drawn = [name for name in ("temperature", "top_k", "top_p", "min_p") if name in given]
        if drawn:
            raise UserError(f"beam search draws nothing: leave out --{drawn[0]}=, or --beam_size=")
        if settings.num_samples > settings.beam_size:
            raise UserError(
                f"num_samples={settings.num_samples} targets need as many beams: take "
                f"--beam_size={settings.num_samples}"
            )
    elif "temperature" not in given:
        if settings.num_samples > 1:
            raise UserError(
                "the likeliest targets are all alike: add --beam_size=5, or --temperature=0.8"
            )
        settings.temperature = 0.0


def check_explaining(settings: ExplainSettings) -> None:
    """Refuse what explain.py cannot show. Raises UserError."""
    _check_not_empty(settings, "out_dir")
    if settings.against and settings.format != "html":
        raise UserError(
            f"--against= puts two models on one page: leave out --format={settings.format}"
        )
    if settings.open is True and settings.format not in ("html", "png"):
        raise UserError(
            f"--open shows a page or a picture in the browser: leave out "
            f"--format={settings.format}, or --open"
        )
    if settings.step not in (-1, 0):
        raise UserError(
            f"the model of step={settings.step} is not kept: take --step=0 for the untrained "
            f"model, or leave it out"
        )
    check_blank(settings.blank)
    check_at_least(settings, -1, "layer", "head")


def check_blank(blank: str) -> None:
    """Refuse a blank that is not one character. Raises UserError."""
    if len(blank) != 1:
        raise UserError(f"blank={blank[:LONGEST_QUOTE]} must be one character, such as --blank=_")


def check_exporting(settings: ExportSettings) -> None:
    """Refuse a file name or precision that its format does not have, and a format whose package is
    missing. Raises UserError."""
    _check_not_empty(settings, "out_dir")
    if settings.dtype != "f32" and settings.format != "gguf":
        raise UserError(
            f"dtype={settings.dtype} is for --format=gguf: {settings.format} is written in f32"
        )
    suffix = EXPORT_SUFFIXES.get(settings.format, "")
    if settings.to and suffix and not settings.to.endswith(suffix):
        raise UserError(
            f"to={settings.to} must end in {suffix}, as files of the format {settings.format} do"
        )
    for package in EXPORT_PACKAGES.get(settings.format, []):
        _check_package(f"format={settings.format}", package)


def check_at_least(settings: Any, least: float, *names: str) -> None:
    """Refuse settings below `least`. Raises UserError naming the option."""
    for name in names:
        value = getattr(settings, name)
        if value < least:
            raise UserError(f"{name}={_number(value)} must be {least} or more")


def _check_between(
    settings: Any, low: float, high: float, *names: str, below: bool = False
) -> None:
    """Refuse settings that are not from `low` to `high`, or with `below` to just below `high`."""
    for name in names:
        value = getattr(settings, name)
        if low <= value < high or (value == high and not below):
            continue
        limits = f"from {low} to {'below ' if below else ''}{high:,}"
        if high == LARGEST_SIZE and value < low:
            limits = f"{low} or more"  # the upper limit is for numbers that nobody means
        raise UserError(f"{name}={_number(value)} must be {limits}")


def _check_init_from(init_from: str, *words: str) -> None:
    """Refuse a misspelling of one of the `words` that init_from takes besides a path."""
    known = [*words, *HUGGING_FACE_NAMES]
    near = difflib.get_close_matches(init_from[:LONGEST_QUOTE], known, n=1)
    if near and init_from != near[0] and not os.path.exists(init_from):
        raise UserError(f"init_from={init_from} is no checkpoint; did you mean {near[0]}?")


def _check_rates(settings: TrainSettings, *names: str) -> None:
    for name in names:
        value, usual = getattr(settings, name), getattr(TrainSettings, name)
        if not 0 <= value <= LARGEST_RATE:
            raise UserError(
                f"{name}={value} is not from 0 to {LARGEST_RATE}, where models train: "
                f"take --{name}={usual}"
            )


def _check_package(option: str, package: str) -> None:
    if not importlib.util.find_spec(package):
        raise UserError(f"{option} needs the package {package}: pip install {package}")


def _check_not_empty(settings: Any, *names: str) -> None:
    """Refuse an empty name, which a path would take for the current folder."""
    for name in names:
        if not getattr(settings, name):
            raise UserError(
                f"{name}= is empty (a shell variable that is not set?): leave it out, "
                f"or give it a value"
            )


def _number(value: float) -> str:
    """A number as an error quotes it; a whole number can have thousands of digits."""
    if isinstance(value, float):
        return str(value)
    digits = abs(value).bit_length() * 30103 // 100_000  # log10(2) = 0.30103
    return f"{'-' if value < 0 else ''}1e{digits}" if digits > 30 else str(value)
