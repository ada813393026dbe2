"""A model trained by several ranks: replicated (DDP) or sharded (FSDP2).

DistributedDataParallel keeps all weights on every rank and averages gradients (Li et al. 2020).
Fully sharded data parallel keeps a shard of weights, gradients and optimizer state on each rank and
gathers the weights of one block at a time (ZeRO-3, Rajbhandari et al. 2020).
"""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from kqv.errors import UserError
from kqv.machine.device import Machine
from kqv.machine.ranks import Ranks
from model import GPT


def shard(model: GPT, machine: Machine, ranks: Ranks) -> None:
    """Shard the model with FSDP2, block by block, in place.

    Raises UserError for float16, whose gradients would have to be scaled.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard  # takes half a second

    if machine.dtype == torch.float16:
        raise UserError(
            "fsdp does not scale gradients, which float16 needs: take --dtype=bfloat16 or "
            "--dtype=float32"
        )
    if not dist.is_initialized():  # a sharded run can be resumed by one process
        backend = "gloo" if machine.device.type == "cpu" else "cpu:gloo,cuda:nccl"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    mesh = dist.init_device_mesh(machine.device.type, (ranks.world_size,))
    # Gather weights in the precision of the products: autocast would keep a whole copy of them in
    # that precision for the backward pass. Norms stay in float32, and gradients are reduced in it.
    policy = MixedPrecisionPolicy(machine.dtype, torch.float32, cast_forward_inputs=False)
    for block in model.blocks:
        norms = [norm for name, norm in block.named_modules() if name.endswith("_norm")]
        fully_shard(norms, mesh=mesh)
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh)


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


def gather(model: GPT, ranks: Ranks) -> GPT:
    """On rank 0 a copy of a sharded model with all its weights, on the CPU; elsewhere the model
    itself. All ranks call this together."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = get_model_state_dict(model, options=options)
    if not ranks.is_main:
        return model
    copy = GPT(model.config)
    copy.load_state_dict(weights)
    return copy


def local(tensor: Tensor) -> Tensor:
    """This rank's shard of a tensor, or all of a tensor that is not sharded."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be sharded as an ordinary tensor, whole on every rank."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
