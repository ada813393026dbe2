"""What a run will take, said before anything of it is done: python train.py ... --dry_run=True

Memory and FLOPs come from a rehearsed step (kqv/training/rehearsal.py), the time from --rate= or
from a measurement (kqv/training/speed.py). Nothing is written, and the texts are not read.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from kqv.errors import UserError
from kqv.machine.device import Machine, choose_machine, memory_there
from kqv.machine.launching import Launch
from kqv.machine.parameters import blocks_of
from kqv.machine.ranks import Ranks
from kqv.options.settings import TrainSettings
from kqv.project import DATA
from kqv.sizes import format_bytes
from kqv.text.prepared import holds_pairs
from kqv.text.registry import find_vocabulary, load_source_tokenizer, load_tokenizer
from kqv.text.tokenizer import MASK, pad_vocab_size
from kqv.text.tokenizer_names import named_vocab_size
from kqv.training.communication import Sizes, sent_bytes
from kqv.training.rehearsal import (
    Memory,
    count_flops,
    count_memory,
    formula_flops,
    window_tokens,
)
from kqv.training.remarks import duration
from kqv.training.request import Request
from kqv.training.speed import measure_speed
from model import GPT, GPTConfig

ASSUMED_CHARACTERS = 100  # in the vocabulary of a text that was not read; they weigh little
GPT2_DATASETS = ("openwebtext", "shakespeare")  # whose prepare.py takes GPT-2's vocabulary
# On Linux glibc's heap keeps holes between the tensors that come and go: for ten models of 10 to
# 124 million parameters they took 1.5 to 2 times the tensors' bytes (docs/log.md).
HEAP_FACTOR = 1.8
Line = tuple[str, str]  # of the plan: what, and how much


def plan_run(request: Request, config: GPTConfig | None, path: Path, launch: Launch) -> None:
    """Print the plan of a run on rank 0. `config` is that of the model in the checkpoint at `path`,
    None for a new model.

    Raises UserError as `print_plan` does.
    """
    settings, given = request.settings, request.given
    if config:
        vocabulary = Vocabulary(config.vocab_size, config.source_vocab_size, f"those of {path}")
    elif settings.architecture == "encoder_decoder":
        names = given.get("tokenizer", ""), settings.target_tokenizer
        vocabulary = pair_vocabulary(settings.dataset, *names, request.texts)
    else:
        markers = MASK if settings.architecture == "encoder" else ""
        tokenizer = given.get("tokenizer", "")
        vocabulary = text_vocabulary(settings.dataset, tokenizer, request.texts, markers=markers)
    config = config or GPTConfig.of(settings, vocabulary.size, vocabulary.source_size)
    if launch.is_main:
        print_plan(settings, config, vocabulary.how, launch)


class Vocabulary(NamedTuple):
    """How many ids the model of a run has, and how that is known."""

    size: int
    source_size: int
    """of an encoder-decoder whose sources have a vocabulary of their own; else 0"""
    how: str


def text_vocabulary(
    dataset: str, tokenizer: str, texts: Sequence[str], data: Path = DATA, markers: str = ""
) -> Vocabulary:
    """The vocabulary of a text: from the prepared dataset in the folder `data`, else from the name
    of the `tokenizer` ("" where none is given). The model adds `markers` to it. The texts are not
    read."""
    folder, more = data / dataset, " and a mask" if markers else ""
    if not texts and find_vocabulary(folder):
        there = load_tokenizer(folder)
        if tokenizer in ("", there.name):
            size = there.with_markers(markers).padded_size
            return Vocabulary(size, 0, f"{there.vocab_size:,} of {dataset}{more}")
    in_gpt2s = not texts and (dataset in GPT2_DATASETS or (folder / "val.bin").exists())
    name = tokenizer or ("gpt2" if in_gpt2s else "char")
    return Vocabulary(*_named_vocabulary(name, len(markers)))


def pair_vocabulary(
    dataset: str, tokenizer: str, target_tokenizer: str, texts: Sequence[str], data: Path = DATA
) -> Vocabulary:
    """The vocabularies of pairs: from a prepared dataset of them, else from the names of the
    tokenizers ("" where none is given). The texts are not read."""
    folder = data / dataset
    if not texts and holds_pairs(folder):
        target, source = load_tokenizer(folder), load_source_tokenizer(folder)
        own = source.padded_size if source else 0
        return Vocabulary(target.padded_size, own, f"those of {dataset}")
    size, _, how = _named_vocabulary(tokenizer or "char")
    if not target_tokenizer:
        return Vocabulary(size, 0, how)
    target_size, _, target_how = _named_vocabulary(target_tokenizer)
    both = how if how == target_how else f"{how}; {target_how}"
    return Vocabulary(target_size, size, both)


def _named_vocabulary(name: str, markers: int = 0) -> Vocabulary:
    """The vocabulary of the tokenizer of this name, to which the model adds `markers`."""
    size = named_vocab_size(name)
    if size is None:
        return Vocabulary(ASSUMED_CHARACTERS, 0, "assumed: the text was not read")
    ids = size if name == "bytes" else pad_vocab_size(size + markers)  # bytes are markers, too
    return Vocabulary(ids, 0, f"{size:,} of {name}")


def print_plan(settings: TrainSettings, config: GPTConfig, vocabulary: str, launch: Launch) -> None:
    """Print what a run of these ranks will take. `vocabulary` says how config.vocab_size is known.

    Raises UserError where the speed cannot be measured, because the model is too large.
    """
    for what, text in plan_lines(settings, config, vocabulary, Ranks(launch)):
        print(f"{what:18}{text}", flush=True)


def plan_lines(
    settings: TrainSettings, config: GPTConfig, vocabulary: str, ranks: Ranks
) -> Iterator[Line]:
    """The lines of a plan, as soon as each is known."""
    machine = choose_machine(settings, ranks.local_rank if ranks.world_size > 1 else None)
    with torch.device("meta"):
        model = GPT(config)
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    in_matrices = sum(linear.weight.numel() for linear in linears)
    step_windows = settings.step_windows
    micro_batches, windows = ranks.micro_batches(step_windows, settings.batch_size)
    step_tokens = step_windows * window_tokens(config)
    tokens = step_tokens * settings.max_iters

    ddp = ranks.world_size > 1 and not settings.fsdp
    memory = count_memory(settings, config, machine, windows, micro_batches, gradients_stay=ddp)
    window_flops, update_flops = count_flops(settings, config, machine)
    flops = (window_flops * step_windows + update_flops) * settings.max_iters
    token_flops, usual = window_flops / window_tokens(config), formula_flops(config, in_matrices)

    parameters = f"{model.parameter_count():,}, of them {in_matrices:,} in matrix products"
    yield "parameters", f"{parameters}; {ranks}{machine}"
    sources = f"{config.source_vocab_size:,} of sources, " if config.source_vocab_size else ""
    yield "vocabulary", f"{sources}{config.vocab_size:,} ids ({vocabulary})"
    amount = f"{step_tokens:,} a step, {tokens:,} in {settings.max_iters:,} steps"
    if pairs := config.has_cross_attention:
        amount = f"at most {amount}; a pair has at most {config.block_size:,} on either side"
    yield "tokens", amount
    formula = "3N + 6·d·T for each attention" if pairs else "6N + 12·l·d·T"
    each = f"{token_flops:.4g} a token ({formula}: {usual:.4g})"
    yield "FLOPs", f"{each}, {flops:.4g} in all"
    yield from _memory_lines(settings, model, memory, machine, ranks)
    if ranks.world_size > 1:
        sizes = Sizes.of(model, settings.optimizer == "muon")
        precision = machine.dtype.itemsize, machine.muon_dtype.itemsize
        gloo = machine.device.type == "cpu"
        shape = (ranks.world_size, settings.fsdp, micro_batches)
        sent = sent_bytes(sizes, *shape, *precision, gloo)
        yield "sent", f"{format_bytes(int(sent))} a step by each process"
    rate, how = settings.rate, "given"
    if not rate:
        rate, how = _measured(settings, config, machine, ranks, memory)
    speed = f"{rate:,.0f} tokens/s ({how})"
    most = "at most " if pairs else ""
    time = f"{most}{duration(tokens / rate)} at {speed}"
    yield "time", f"{time}; evaluations and checkpoints come on top"


def _memory_lines(
    settings: TrainSettings, model: GPT, memory: Memory, machine: Machine, ranks: Ranks
) -> Iterator[Line]:
    """What one process needs at the peak, and for what."""
    shards = ranks.world_size if settings.fsdp else 1
    gradients = f"gradients ({format_bytes(memory.all_gradients // shards)} in all)"
    parts = {
        "weights": memory.weights // shards,
        gradients: memory.gradients // shards,
        f"optimizer, {settings.optimizer}": memory.optimizer // shards,
        "activations and temporaries": memory.activations,
    }
    if settings.fsdp:
        blocks = blocks_of(model)
        block_bytes = [4 * sum(w.numel() for w in block.parameters()) for block in blocks]
        # those outside the blocks, of one block, and of the next one, which is gathered meanwhile
        parts["gathered weights"] = memory.weights - sum(block_bytes) + 2 * max(block_bytes)
    total = sum(parts.values())
    several = f" in each of {ranks.world_size} processes" if ranks.world_size > 1 else ""
    most = "at most " if model.config.has_cross_attention else ""
    yield "memory", f"{most}{format_bytes(total)} at the peak{several}"
    for what, size in parts.items():
        yield "", f"{format_bytes(size):>9}  {what}"
    # With FSDP weights come and go, too, and the holes follow no rule.
    if machine.device.type == "cpu" and not settings.fsdp:
        stays = (memory.weights + memory.optimizer) // shards
        whole = format_bytes(int(stays + HEAP_FACTOR * (total - stays)))
        holes = "about, with the holes in glibc's heap; Python and torch take 0.3 GB more"
        yield "", f"{whole:>9}  {holes}"


def _measured(
    settings: TrainSettings, config: GPTConfig, machine: Machine, ranks: Ranks, memory: Memory
) -> tuple[float, str]:
    """Tokens per second of all ranks, measured here, and how that was done."""
    there = memory_there(machine)
    needed = memory.weights + memory.all_gradients + memory.optimizer
    if there is not None and needed > 0.8 * there:
        raise UserError(
            "the model is too large to measure its speed here: give --rate=TOKENS_PER_SECOND, of "
            "all processes"
        )
    micro_batches, windows = ranks.micro_batches(settings.step_windows, settings.batch_size)
    speed = measure_speed(settings, config, machine, windows, micro_batches)
    how = f"measured here with {speed.windows} of {windows} windows"
    if speed.blocks < config.n_layer:
        how += f" and {speed.blocks} of {config.n_layer} blocks"
    if ranks.world_size > 1:
        how += f", times {ranks.world_size}"
    return speed.tokens_per_second * ranks.world_size, how
