"""What a run will take, said before anything of it is done: python train.py ... --dry_run=True

No formula is asked, which could forget an option: a training step itself is rehearsed, with tensors that have a shape and no
numbers (torch's FakeTensorMode), while it is counted

    how many bytes of tensors live at once     LiveBytes
    how much the matrix products compute       torch's FlopCounterMode

The time is tokens by tokens per second, given with --rate= or measured on a few real micro-batches.
All blocks are alike: where there are many, a few are rehearsed or measured and the others reckoned,
so that a plan takes less than a minute.
"""

import math
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from torch.utils.weak import WeakIdKeyDictionary

from kqv.errors import UserError
from kqv.machine.device import Machine, choose_machine, memory_there
from kqv.machine.launching import Launch
from kqv.machine.ranks import Ranks
from kqv.options.settings import TrainSettings
from kqv.project import DATA
from kqv.sizes import format_bytes
from kqv.text.registry import find_vocabulary, load_tokenizer
from kqv.text.tokenizer import pad_vocab_size
from kqv.text.tokenizer_names import named_vocab_size
from kqv.training.communication import Sizes, sent_bytes
from kqv.training.optimizers import Optimizer, make_optimizers
from kqv.training.remarks import duration
from model import GPT, GPTConfig

CHARACTERS = 100  # that a text has which was not read; they weigh little
IN_GPT2S = ("openwebtext", "shakespeare")  # datasets whose prepare.py takes GPT-2's vocabulary
# On Linux glibc's heap keeps holes between what comes and goes: measured for ten models of 10 to 124 million parameters, that
# took 1.5 to 2 times its bytes (docs/log.md).
HOLES = 1.8
REHEARSED = 12  # blocks; of a deeper model the memory of the others is reckoned
SECONDS = 20.0  # that a measurement of the speed aims at
# Micro-batches that fit into this time: one to warm up, one to time, three to measure,
# and about one for the updates.
MICRO_BATCHES = 6


@dataclass
class Memory:
    """Bytes of tensors in one process when most of them live."""

    peak: int
    weights: int
    optimizer: int
    gradients: int
    """those that live at the peak"""
    all_gradients: int

    @property
    def activations(self) -> int:
        """All else at the peak: what the backward pass needs, and temporaries."""
        return self.peak - self.weights - self.optimizer - self.gradients


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that are made while it is on and still live, each storage once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.weights: Sequence[nn.Parameter] = ()  # whose gradients are looked for at the peak
        self.gradients = 0
        self.known: Any = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do what is asked for, and count what comes of it."""
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if (
                isinstance(tensor, Tensor)
                and (storage := tensor.untyped_storage()) not in self.known
            ):
                self.known[storage] = None
                self.now += storage.nbytes()
                weakref.finalize(storage, self._forget, storage.nbytes())
        if self.now > self.peak:
            self.peak, self.gradients = (
                self.now,
                _bytes(w.grad for w in self.weights if w.grad is not None),
            )
        return result

    def _forget(self, size: int) -> None:
        self.now -= size


def count_memory(
    settings: TrainSettings,
    config: GPTConfig,
    machine: Machine,
    windows: int,
    parts: int,
    gradients_stay: bool = False,
) -> Memory:
    """The memory of training steps of so many parts of so many windows, in all precisions, with all options. Gradients of
    DistributedDataParallel stand in buckets, which stay from step to step."""

    def rehearsed(blocks: int) -> Memory:
        shallow = replace(config, n_layer=blocks)
        return _rehearse(settings, shallow, machine, windows, parts, gradients_stay)

    if config.n_layer <= REHEARSED:
        return rehearsed(config.n_layer)
    half = REHEARSED // 2
    few, more = astuple(rehearsed(half)), astuple(rehearsed(REHEARSED))
    pairs = zip(few, more, strict=True)
    return Memory(*(_at_depth(config.n_layer, (half, a), (REHEARSED, b)) for a, b in pairs))


def _at_depth(blocks: int, few: tuple[int, int], more: tuple[int, int]) -> int:
    """What grows by as much with each block, at so many blocks, from two pairs of blocks and value.

    >>> _at_depth(48, (1, 100), (2, 110))
    570
    """
    (first, less), (second, much) = few, more
    return less + (blocks - first) * (much - less) // (second - first)


def _rehearse(
    settings: TrainSettings,
    config: GPTConfig,
    machine: Machine,
    windows: int,
    parts: int,
    gradients_stay: bool,
) -> Memory:
    with FakeTensorMode(), LiveBytes() as live:
        model, optimizers = _prepare(settings, config, machine)
        live.weights = list(model.parameters())
        for _ in range(2):  # the first step makes the moments that are there in all others
            for _ in range(min(2, parts)):  # the first one makes the gradients
                _micro_batch(model, windows, machine)
            gradients = _bytes(w.grad for w in live.weights if w.grad is not None)
            nn.utils.clip_grad_norm_(live.weights, settings.grad_clip or torch.inf)
            for optimizer in optimizers:
                optimizer.step()
                if not gradients_stay:
                    optimizer.zero_grad()
        moments = [
            moment
            for optimizer in optimizers
            for state in optimizer.state.values()
            for moment in state.values()
        ]
        tables = (buffer for buffer in model.buffers() if buffer is not None)
        return Memory(
            live.peak,
            _bytes(live.weights) + _bytes(tables),
            _bytes(moments),
            live.gradients,
            gradients,
        )


def count_flops(settings: TrainSettings, config: GPTConfig, machine: Machine) -> tuple[int, int]:
    """Floating-point operations of the matrix products for one window, forward and backward, what is computed again
    included; and of an update. Attention is counted as if all pairs were looked at, as in PaLM."""
    one, two = (_count_flops(settings, replace(config, n_layer=n), machine) for n in (1, 2))
    pairs = zip(one, two, strict=True)
    window, update = (_at_depth(config.n_layer, (1, a), (2, b)) for a, b in pairs)
    return window, update


def _count_flops(settings: TrainSettings, config: GPTConfig, machine: Machine) -> tuple[int, int]:
    aten = torch.ops.aten
    kernels = {  # what the counter does not know by itself
        aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(
            q, k, v
        ),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_, **__: (
            sdpa_backward_flop_count(g, q, k, v)
        ),
        aten.addmm_: lambda _, left, right, *__, **___: 2 * left[0] * left[1] * right[1],
    }
    with FakeTensorMode(), FlopCounterMode(display=False, custom_mapping=kernels) as counter:
        model, optimizers = _prepare(settings, config, machine)
        _micro_batch(model, 1, machine)
        window = counter.get_total_flops()
        for optimizer in optimizers:
            optimizer.step()
        return window, counter.get_total_flops() - window


def formula(config: GPTConfig, in_matrices: int) -> int:
    """FLOPs per token of training by the usual formula: 6 for each weight in a matrix, and 12·l·d·T for attention (Chowdhery
    et al. 2022, PaLM, appendix B)."""
    return 6 * in_matrices + 12 * config.n_layer * config.n_embd * config.block_size


class Trial:
    """A model that is trained a little to see how long that takes."""

    def __init__(self, settings: TrainSettings, config: GPTConfig, machine: Machine) -> None:
        self.machine, self.clip = machine, settings.grad_clip or math.inf
        self.model, self.optimizers = _prepare(settings, config, machine)
        self.forward = machine.prepare(self.model)

    def micro_batch(self, windows: int) -> float:
        """Seconds of a micro-batch of so many windows, forward and backward."""
        return self._seconds(lambda: _micro_batch(self.forward, windows, self.machine))

    def warm_up(self, windows: int) -> float:
        """The first micro-batch of so many windows. Returns how long compiling took, which is not
        counted."""
        seconds = self.micro_batch(windows)
        return seconds if self.machine.compile else 0.0

    def update(self) -> float:
        """Seconds of an update."""
        return self._seconds(lambda: _update(self.model, self.optimizers, self.clip))

    def _seconds(self, work: Callable[[], None]) -> float:
        began = time.perf_counter()
        work()
        if self.machine.device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter() - began


def measure_rate(
    settings: TrainSettings, config: GPTConfig, machine: Machine, most: int, parts: int
) -> tuple[float, int, int]:
    """Tokens per second of training here in one process, in steps of so many parts of `most`
    windows; with how many windows at once that was measured, these or as many as a second or two
    are enough for; and with how many blocks.

    Takes about SECONDS. Of a model that is too slow for that fewer blocks are measured, and the
    time of a micro-batch is reckoned from that by the FLOPs of all, the time of an update by the
    parameters. One window of one block takes what it takes.
    """
    one_block = replace(config, n_layer=1)
    work, work_of_one = (count_flops(settings, each, machine)[0] for each in (config, one_block))
    trial = Trial(settings, one_block, machine)
    one = trial.micro_batch(1)  # the first of all is slow
    left = SECONDS
    if machine.compile or one < SECONDS / MICRO_BATCHES:
        one = trial.micro_batch(1)
        left -= one
    end = time.perf_counter() + left
    windows, times = 1, [one]
    blocks = affordable_blocks(config.n_layer, one, work_of_one, work, left)
    measured = replace(config, n_layer=blocks)
    work_measured = count_flops(settings, measured, machine)[0]
    if one * MICRO_BATCHES < left:
        if blocks > 1:
            del trial  # its memory first
            trial = Trial(settings, measured, machine)
            end += trial.warm_up(1)
            one = trial.micro_batch(1)
        windows = max(1, min(most, int(SECONDS / 8 / one)))
        if windows > 1:
            end += trial.warm_up(windows)
        times = [trial.micro_batch(windows)]
        while len(times) < 3 or (sum(times) < SECONDS / 2 and len(times) < 20):
            if time.perf_counter() + times[-1] > end:
                break
            times.append(trial.micro_batch(windows))
    updates = [trial.update()]
    while len(updates) < 3 and time.perf_counter() + updates[-1] < end:
        updates.append(trial.update())  # the first one makes the moments
    sizes = [_parameters(each) for each in (config, measured)]
    window = median(times) / windows * work / work_measured
    update = min(updates) * sizes[0] / sizes[1]
    step_windows = most * parts
    return step_windows * config.block_size / (step_windows * window + update), windows, blocks


def affordable_blocks(blocks: int, one: float, work_of_one: int, work: int, seconds: float) -> int:
    """Of how many blocks, at most `blocks`, the speed can be measured in so many seconds, if a
    window of one takes `one` seconds. `work_of_one` and `work` are the FLOPs of one and of all.

    >>> [affordable_blocks(12, one, 30, 30 + 11 * 5, seconds=18.0) for one in (0.1, 2.0, 5.0)]
    [12, 4, 1]
    """
    if blocks == 1:
        return 1
    each = (work - work_of_one) / (blocks - 1) / work_of_one * one  # seconds of one more
    return max(1, min(blocks, 1 + int((seconds / MICRO_BATCHES - one) / max(each, 1e-12))))


def _parameters(config: GPTConfig) -> int:
    """How many parameters a model has. All blocks are alike."""
    with torch.device("meta"):
        one, two = (GPT(replace(config, n_layer=blocks)).parameter_count() for blocks in (1, 2))
    return _at_depth(config.n_layer, (1, one), (2, two))


def _prepare(
    settings: TrainSettings, config: GPTConfig, machine: Machine
) -> tuple[GPT, list[Optimizer]]:
    with (
        torch.device("cpu") if machine.device.type == "mps" else machine.device
    ):  # mps has no float64, which positions take
        model = GPT(config).train()
    model.activation_checkpointing = settings.activation_checkpointing
    machine.choose_attention(model)
    return model, make_optimizers(model, settings, machine.muon_dtype)


def _micro_batch(forward: Any, windows: int, machine: Machine) -> None:
    model = getattr(forward, "_orig_mod", forward)  # the one that is compiled
    size = (2, windows, model.config.block_size)
    ids = torch.randint(model.config.vocab_size, size, device=model.embedding.weight.device)
    with machine.autocast():
        loss = forward(ids[0], targets=ids[1])
    loss.backward()


def _update(model: GPT, optimizers: Sequence[Optimizer], clip: float) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    for optimizer in optimizers:
        optimizer.step()


def _bytes(tensors: Any) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def vocabulary_size(dataset: str, tokenizer: str, texts: Sequence[str]) -> tuple[int, str]:
    """How many ids the model of a run has, and where that is known from: the prepared dataset, else the name of the
    `tokenizer` ("" where none is named). The texts are not read."""
    folder = DATA / dataset
    if not texts and find_vocabulary(folder):
        there = load_tokenizer(folder)
        if tokenizer in ("", there.name):
            return there.padded_size, f"{there.vocab_size:,} of {dataset}"
    in_gpt2s = not texts and (dataset in IN_GPT2S or (folder / "val.bin").exists())
    name = tokenizer or ("gpt2" if in_gpt2s else "char")
    size = named_vocab_size(name)
    if size is None:
        return CHARACTERS, "assumed: the text was not read"
    return (size if name == "bytes" else pad_vocab_size(size)), f"{size:,} of {name}"


def print_plan(settings: TrainSettings, config: GPTConfig, vocabulary: str, launch: Launch) -> None:
    """Say what a run of these processes will take. `vocabulary` says where config.vocab_size comes from.

    Raises UserError where the speed cannot be measured, because the model is too large for this machine.
    """
    ranks, count = Ranks(launch), launch.world_size
    machine = choose_machine(settings, ranks.local_rank if count > 1 else None)
    with torch.device("meta"):
        model = GPT(config)
    in_matrices = sum(
        module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear)
    )
    step_windows = settings.batch_size * settings.gradient_accumulation_steps
    parts, windows = ranks.micro_batches(step_windows, settings.batch_size)
    memory = count_memory(
        settings, config, machine, windows, parts, gradients_stay=count > 1 and not settings.fsdp
    )
    window_flops, update_flops = count_flops(settings, config, machine)
    tokens = step_windows * config.block_size * settings.max_iters
    flops = window_flops * step_windows * settings.max_iters + update_flops * settings.max_iters

    def say(what: str, text: str) -> None:
        print(f"{what:18}{text}", flush=True)

    say(
        "parameters",
        f"{model.parameter_count():,}, of them {in_matrices:,} in matrix products; {ranks}{machine}",
    )
    say("vocabulary", f"{config.vocab_size:,} ids ({vocabulary})")
    say(
        "tokens",
        f"{step_windows * config.block_size:,} a step, {tokens:,} in {settings.max_iters:,} steps",
    )
    usual = formula(config, in_matrices)
    say(
        "FLOPs",
        f"{window_flops / config.block_size:.4g} a token (6N + 12·l·d·T: {usual:.4g}), {flops:.4g} in all",
    )

    share = count if settings.fsdp else 1
    lines = {
        "weights": memory.weights // share,
        f"gradients ({format_bytes(memory.all_gradients // share)} in all)": memory.gradients
        // share,
        f"optimizer, {settings.optimizer}": memory.optimizer // share,
        "activations and temporaries": memory.activations,
    }
    if settings.fsdp:
        blocks = [
            4 * sum(weights.numel() for weights in block.parameters()) for block in model.blocks
        ]
        lines["gathered weights"] = (
            memory.weights - sum(blocks) + 2 * blocks[0]
        )  # outside the blocks, one block, the next one
    total = sum(lines.values())
    say(
        "memory",
        f"{format_bytes(total)} at the peak"
        + (f" in each of {count} processes" if count > 1 else ""),
    )
    for what, size in lines.items():
        say("", f"{format_bytes(size):>9}  {what}")
    if (
        machine.device.type == "cpu" and not settings.fsdp
    ):  # with it weights come and go too, and holes follow no rule
        stays = (memory.weights + memory.optimizer) // share
        whole = format_bytes(int(stays + HOLES * (total - stays)))
        say(
            "",
            f"{whole:>9}  about, with the holes in glibc's heap; Python and torch take 0.3 GB more",
        )
    if count > 1:
        muon_bytes = machine.muon_dtype.itemsize
        sizes, gloo = Sizes.of(model, settings.optimizer == "muon"), machine.device.type == "cpu"
        sent = sent_bytes(
            sizes, count, settings.fsdp, parts, machine.dtype.itemsize, muon_bytes, gloo
        )
        say("sent", f"{format_bytes(int(sent))} a step by each process")

    rate, how = settings.rate, "given"
    if not rate:
        there = memory_there(machine)
        if (
            there is not None
            and memory.weights + memory.all_gradients + memory.optimizer > 0.8 * there
        ):
            raise UserError(
                "the model is too large to measure its speed here: give --rate=TOKENS_PER_SECOND, of all processes"
            )
        rate, measured, depth = measure_rate(settings, config, machine, windows, parts)
        how = f"measured here with {measured} of {windows} windows"
        how += f" and {depth} of {config.n_layer} blocks" if depth < config.n_layer else ""
        how += f", times {count}" if count > 1 else ""
        rate *= count
    speed = f"{rate:,.0f} tokens/s ({how})"
    say("time", f"{duration(tokens / rate)} at {speed}; evaluations and checkpoints come on top")
