"""A model trained by several ranks: replicated here, or sharded (kqv/machine/sharding.py).

DistributedDataParallel keeps all weights on every rank and averages gradients (Li et al. 2020).
"""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from kqv.machine.device import Machine
from kqv.machine.ranks import Ranks


def replicate(forward: Callable[..., Any], machine: Machine, ranks: Ranks) -> Callable[..., Any]:
    """Wrap a model in DistributedDataParallel; one rank alone needs no wrapper."""
    if ranks.world_size == 1:
        return forward
    device_ids = [machine.device] if machine.device.type == "cuda" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.13 is to rename broadcast_buffers
        return DistributedDataParallel(
            forward, device_ids, broadcast_buffers=False, gradient_as_bucket_view=True
        )


def no_sync_until(last: bool, forward: Callable[..., Any]) -> AbstractContextManager[Any]:
    """A context for the backward pass of one micro-batch: DDP averages gradients over the ranks
    with the last one, and accumulates them on each rank until then. (FSDP reduces every time, since
    no rank has room for whole gradients.)"""
    return nullcontext() if last or not hasattr(forward, "no_sync") else forward.no_sync()


def sharding() -> Any:
    """The module kqv/machine/sharding.py. Only sharded runs import it: that takes half a second."""
    from kqv.machine import sharding

    return sharding


def local(tensor: Tensor) -> Tensor:
    """This rank's shard of a tensor, or all of a tensor that is not sharded."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be sharded as an ordinary tensor, whole on every rank."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
