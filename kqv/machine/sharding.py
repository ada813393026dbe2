"""A model sharded over the ranks with FSDP2.

Fully sharded data parallel keeps a shard of weights, gradients and optimizer state on each rank and
gathers the weights of one block at a time (ZeRO-3, Rajbhandari et al. 2020). The imports take half
a second: other rooms use this file through `kqv.machine.wrapping.sharding`.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from kqv.errors import UserError
from kqv.machine.device import Machine
from kqv.machine.parameters import blocks_of
from kqv.machine.ranks import Ranks
from model import GPT


def shard(model: GPT, machine: Machine, ranks: Ranks) -> None:
    """Shard the model with FSDP2, block by block, in place.

    Raises UserError for float16, whose gradients would have to be scaled.
    """
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
    for block in blocks_of(model):
        norms = [norm for name, norm in block.named_modules() if name.endswith("_norm")]
        fully_shard(norms, mesh=mesh)
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh)


def gather(model: GPT, ranks: Ranks) -> GPT:
    """On rank 0 a copy of a sharded model with all its weights, on the CPU; elsewhere the model
    itself. All ranks call this together."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = get_model_state_dict(model, options=options)
    if not ranks.is_main:
        return model
    copy = GPT(model.config)
    copy.load_state_dict(weights)
    return copy


def load_full(model: GPT, weights: dict[str, Any]) -> None:
    """Load whole weights into a sharded model. All ranks call this together."""
    set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True))


def distribute_like(tensor: Tensor, weights: Tensor) -> Tensor:
    """This rank's shard of a whole tensor that is sharded as `weights` are."""
    assert isinstance(weights, DTensor)
    return distribute_tensor(tensor, weights.device_mesh, weights.placements)
