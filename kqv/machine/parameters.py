"""Count the parameters of a model without making it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from model import GPT, Block, GPTConfig


class _SkipInit(TorchFunctionMode):
    """Leave new weights as they are: functions of torch.nn.init return their tensor unchanged.

    Drawing random numbers on the device "meta" would import sympy first, which takes a second.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def count_parameters(config: GPTConfig) -> int:
    """Number of trained parameters of `GPT(config)`; a tied head counts once.

    Takes about 2 ms and no memory for a config of any size: one block is made, on the device
    "meta", and all blocks have the same shape. It counts what model.py really makes, so that it
    also holds for a model.py that was changed.

    Raises OverflowError if a single weight has more bytes than an int64 counts.
    """
    encoder_layers = config.encoder.n_layer if config.has_cross_attention else 0
    one_block = replace(config, n_layer=1, encoder_layers=min(1, encoder_layers))
    if config.position in ("rope", "sinusoidal"):
        # These tables hold no parameters, and computing them on "meta" would import sympy too.
        one_block = replace(one_block, position="none")
    try:
        with torch.device("meta"), _SkipInit():
            model = GPT(one_block)
    except RuntimeError as error:
        raise OverflowError("a weight of this model has more than 2**63 bytes") from error
    count = model.parameter_count() + (config.n_layer - 1) * _count(model.blocks[0])
    if encoder_layers:
        count += (encoder_layers - 1) * _count(model.encoder.blocks[0])
    return count


def blocks_of(model: GPT) -> list[Block]:
    """All blocks of a model, those of an encoder, too."""
    return [module for module in model.modules() if isinstance(module, Block)]


def _count(block: nn.Module) -> int:
    return sum(weight.numel() for weight in block.parameters())
