"""What a training step takes, counted while the step is rehearsed.

No formula is used, which could forget an option: the step of kqv/training/trainer.py itself runs on
tensors that have a shape and no numbers (torch's FakeTensorMode), while it is counted

    how many bytes of tensors live at once     LiveBytes
    how much the matrix products compute       torch's FlopCounterMode

All blocks are alike: of a deep model a few are rehearsed, and the rest extrapolated.
"""

import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from torch.utils.weak import WeakIdKeyDictionary

from kqv.machine.device import Machine
from kqv.machine.ranks import Ranks
from kqv.options.settings import TrainSettings
from kqv.text.batches import Batch
from kqv.training.trainer import Trainer
from model import GPT, GPTConfig

MOST_BLOCKS = 12  # the memory of a deeper model is extrapolated from this many and half of them


@dataclass
class Memory:
    """Bytes of tensors in one process, when there are most."""

    peak: int
    weights: int
    optimizer: int
    gradients: int
    """those that exist at the peak"""
    all_gradients: int

    @property
    def activations(self) -> int:
        """Everything else at the peak: what the backward pass needs, and temporaries."""
        return self.peak - self.weights - self.optimizer - self.gradients


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that are made while it is on and still exist, each storage
    once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.weights: Sequence[nn.Parameter] = ()  # whose gradients are counted at the peak
        self.gradients = 0
        self.known: Any = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and count the tensors that it makes."""
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            if storage not in self.known:
                self.known[storage] = None
                self.now += storage.nbytes()
                weakref.finalize(storage, self._forget, storage.nbytes())
        if self.now > self.peak:
            self.peak = self.now
            self.gradients = _bytes(w.grad for w in self.weights if w.grad is not None)
        return result

    def _forget(self, size: int) -> None:
        self.now -= size


def lone_trainer(settings: TrainSettings, config: GPTConfig, machine: Machine) -> Trainer:
    """A trainer of a new model, of one rank, not sharded, and without gradient scaling (which looks
    at numbers)."""
    # mps has no float64, in which tables of positions are computed
    with torch.device("cpu") if machine.device.type == "mps" else machine.device:
        model = GPT(config)
    trainer = Trainer(model, replace(settings, fsdp=False), machine, Ranks())
    trainer.scaler = torch.amp.GradScaler(machine.device.type, enabled=False)
    return trainer


def random_batches(trainer: Trainer, windows: int, count: int = 1) -> Iterator[Batch]:
    """Micro-batches of random ids, each (windows, block_size) int64. Pairs are as long as they can
    be on either side."""
    config, device = trainer.model.config, trainer.machine.device
    shape = (windows, config.block_size)
    weights = source = None
    for _ in range(count):
        ids = torch.randint(config.vocab_size, (2, *shape), device=device)
        if config.architecture != "decoder":
            weights = torch.ones(shape, device=device)
        if config.has_cross_attention:
            source = torch.randint(config.encoder.vocab_size, shape, device=device)
        yield Batch(ids[0], ids[1], weights, source, windows / trainer.settings.step_windows)


def count_memory(
    settings: TrainSettings,
    config: GPTConfig,
    machine: Machine,
    windows: int,
    micro_batches: int,
    gradients_stay: bool = False,
) -> Memory:
    """The memory of a training step of `micro_batches` of `windows` each. `gradients_stay`: DDP
    keeps gradients in buckets from step to step."""
    plan = (settings, machine, windows, micro_batches, gradients_stay)
    if config.n_layer <= MOST_BLOCKS:
        return rehearse_memory(config, *plan)
    half = MOST_BLOCKS // 2
    few = astuple(rehearse_memory(replace(config, n_layer=half), *plan))
    more = astuple(rehearse_memory(replace(config, n_layer=MOST_BLOCKS), *plan))
    pairs = zip(few, more, strict=True)
    return Memory(*(at_depth(config.n_layer, (half, a), (MOST_BLOCKS, b)) for a, b in pairs))


def at_depth(blocks: int, few: tuple[int, int], more: tuple[int, int]) -> int:
    """Extrapolate to `blocks` what grows by as much with each block, from two pairs of a number of
    blocks and a value.

    >>> at_depth(48, (1, 100), (2, 110))
    570
    """
    (first, less), (second, much) = few, more
    return less + (blocks - first) * (much - less) // (second - first)


def rehearse_memory(
    config: GPTConfig,
    settings: TrainSettings,
    machine: Machine,
    windows: int,
    micro_batches: int,
    gradients_stay: bool,
) -> Memory:
    """The memory of a step with all blocks rehearsed; see `count_memory`."""
    with FakeTensorMode(), LiveBytes() as live:
        trainer = lone_trainer(settings, config, _rehearsed(machine))
        live.weights = list(trainer.model.parameters())
        for step in range(2):  # the first step makes the moments
            # the first micro-batch makes the gradients, and the second one adds to them
            batches = random_batches(trainer, windows, min(2, micro_batches))
            trainer.forward_backward(batches, step)
            gradients = _bytes(w.grad for w in live.weights if w.grad is not None)
            trainer.clip_gradients()
            trainer.update(finite=True, keep_gradients=gradients_stay)
        states = [state for optimizer in trainer.optimizers for state in optimizer.state.values()]
        moments = [moment for state in states for moment in state.values()]
        tables = [buffer for buffer in trainer.model.buffers() if buffer is not None]
        weights = _bytes(live.weights) + _bytes(tables)
        return Memory(live.peak, weights, _bytes(moments), live.gradients, gradients)


def count_flops(settings: TrainSettings, config: GPTConfig, machine: Machine) -> tuple[int, int]:
    """Floating-point operations of the matrix products for one window, forward and backward
    (recomputed activations included), and for an update. Attention counts as if every position
    attended to every other, as in PaLM."""
    one, two = (rehearse_flops(settings, replace(config, n_layer=n), machine) for n in (1, 2))
    pairs = zip(one, two, strict=True)
    window, update = (at_depth(config.n_layer, (1, a), (2, b)) for a, b in pairs)
    return window, update


def rehearse_flops(settings: TrainSettings, config: GPTConfig, machine: Machine) -> tuple[int, int]:
    """The FLOPs of a window and of an update with all blocks rehearsed; see `count_flops`."""
    aten = torch.ops.aten
    kernels = {  # which torch's counter does not know
        aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
        aten.addmm_: _addmm_flops,
    }
    settings = replace(settings, batch_size=1, gradient_accumulation_steps=1)
    with FakeTensorMode(), FlopCounterMode(display=False, custom_mapping=kernels) as counter:
        trainer = lone_trainer(settings, config, _rehearsed(machine))
        trainer.forward_backward(random_batches(trainer, windows=1), step=0)
        window = counter.get_total_flops()
        trainer.update(finite=True)
        return window, counter.get_total_flops() - window


def _rehearsed(machine: Machine) -> Machine:
    """The machine as a rehearsal needs it: nothing is compiled, and mps cannot make all tensors."""
    device = torch.device("cpu") if machine.device.type == "mps" else machine.device
    return replace(machine, device=device, compile=False)


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward_flops(
    gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any
) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)


def _addmm_flops(_: Any, left: Any, right: Any, *__: Any, **___: Any) -> int:
    return 2 * left[0] * left[1] * right[1]


def formula_flops(config: GPTConfig, in_matrices: int) -> int:
    """FLOPs per token of training by the usual formula: 6 for each weight in a matrix, and 12·d·T
    for each attention (Chowdhery et al. 2022, PaLM, appendix B).

    Of a pair, the tokens of either side go through the matrices of about one half of the model:
    those of the encoder, and the keys and values of cross-attention, read the source.
    """
    attentions = config.n_layer
    if config.has_cross_attention:
        attentions = config.encoder.n_layer + 2 * config.n_layer
    of_position = 6 * in_matrices + 12 * attentions * config.n_embd * config.block_size
    return of_position * config.block_size // window_tokens(config)


def window_tokens(config: GPTConfig) -> int:
    """Tokens of a window: block_size, or of a pair at most that on either side."""
    return config.block_size * (2 if config.has_cross_attention else 1)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
