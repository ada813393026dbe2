"""Muon for the matrices inside the blocks, AdamW for the rest.

Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon) replaces the momentum of a matrix by
the nearest matrix with orthonormal rows or columns: the update goes equally far in every direction
that the gradient shows, however weak. Embeddings, the head, norms and biases are not such linear
maps: AdamW trains them.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.adamw import adamw

from kqv.errors import UserError
from kqv.machine.wrapping import local, sharding
from kqv.options.settings import TrainSettings

# Coefficients a, b, c of three Newton-Schulz steps x ← ax + bx³ + cx⁵ on singular values. Each step
# is optimal for the interval that the step before leaves: 0.01..1 becomes 0.71..1.29 (Amsel et al.
# 2025, arXiv 2505.16932, section 3; each interval widened by 1 % for bfloat16's rounding). Jordan's
# five equal steps end at 0.68..1.2.
NEWTON_SCHULZ = (
    (8.0934, -23.6206, 17.4463),
    (3.6135, -2.6554, 0.5134),
    (2.6727, -1.9599, 0.4395),
)


def orthogonalize(matrices: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Approximately the orthogonal factor UVᵀ of each matrix USVᵀ, (count, rows, columns) to the
    same shape.

    Newton-Schulz iteration X ← aX + (bA + cA²)X with A = XXᵀ, which needs matrix products only. A
    singular value of at least 1/100 of the Frobenius norm becomes 0.7..1.3; a smaller one becomes
    70 to 78 times its ratio to that norm.

    How close the result is to UVᵀ therefore depends on the spectrum. Measured on 128 × 128
    matrices, beside the five steps of torch.optim.Muon (3.4445, -4.775, 2.0315), which lowered the
    loss by nothing in the default recipe, and by 0.012 nats in 300 steps of 512 tokens at width 256
    (docs/log.md):

        singular values       become          cosine to UVᵀ    torch's five steps
        Gaussian matrix       0.00 to 1.28    0.97             0.98
        from 1 to 1/1000      0.03 to 1.28    0.81             0.94
        1/n²                  0.00 to 1.28    0.43             0.65

    The rounding of bfloat16 is far below the error of the iteration: `dtype` is a matter of speed.
    """
    x = matrices.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    if tall:  # XXᵀ is the smaller product when rows are the shorter side
        x = x.mT
    # singular values below 1, with a margin for rounding
    x = x / (1.01 * x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for a, b, c in NEWTON_SCHULZ:
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


def orthogonalize_divided(
    matrices: Tensor, dtype: torch.dtype, rank: int, world_size: int
) -> Tensor:
    """`orthogonalize` of matrices that every rank has: each rank orthogonalizes its part of them,
    and an all-gather in `dtype` collects the results, which loses nothing."""
    each = math.ceil(len(matrices) / world_size)
    missing = each * world_size - len(matrices)
    padded = F.pad(matrices, (0, 0, 0, 0, 0, missing)).to(dtype)
    results = torch.empty_like(padded)
    own = orthogonalize(padded[rank * each :][:each], dtype).contiguous()  # nccl demands it
    dist.all_gather(list(results.chunk(world_size)), own)
    return results[: len(matrices)].to(matrices.dtype)


def orthogonalize_sharded(shards: Tensor, dtype: torch.dtype, world_size: int, rows: int) -> Tensor:
    """`orthogonalize` of row-sharded matrices, (matrices, own rows, columns) to the same shape:
    all-to-all, orthogonalize whole matrices, all-to-all back. A whole matrix has `rows`."""
    matrices, own, columns = shards.shape
    each = math.ceil(matrices / world_size)
    most = math.ceil(rows / world_size)  # FSDP2 shards as torch.chunk does: the last have fewer
    missing = each * world_size - matrices
    outgoing = F.pad(shards, (0, 0, 0, most - own, 0, missing)).to(dtype)
    incoming = torch.empty_like(outgoing)
    dist.all_to_all_single(incoming, outgoing)
    by_rank = incoming.view(world_size, each, most, columns)
    whole = by_rank.transpose(0, 1).reshape(each, world_size * most, columns)[:, :rows]
    whole = F.pad(orthogonalize(whole, dtype), (0, 0, 0, world_size * most - rows))
    outgoing = whole.view(each, world_size, most, columns).transpose(0, 1).reshape(outgoing.shape)
    dist.all_to_all_single(incoming, outgoing.contiguous())
    return incoming[:matrices, :own].to(shards.dtype)


class Optimizer:
    """What the training loop needs of a torch.optim.Optimizer. Constructing one of those imports
    torch's compiler, which takes as long as importing torch."""

    moments: Sequence[str]
    """names of the state of each weight, once there was a step"""

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        """Each group has `params`, its peak rate `lr` (remembered as `initial_lr`), and what else
        the step needs."""
        self.param_groups = [
            {**group, "params": list(group["params"]), "initial_lr": group["lr"]}
            for group in groups
        ]
        self.state: dict[Tensor, dict[str, Tensor]] = {weights: {} for weights in self.parameters()}

    def parameters(self) -> list[nn.Parameter]:
        """All weights that this optimizer trains."""
        return [weights for group in self.param_groups for weights in group["params"]]

    def step(self) -> None:
        """Update each weight that has a gradient."""
        raise NotImplementedError

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for weights in self.parameters():
            weights.grad = None

    def state_dict(self) -> dict[str, Any]:
        """The moments, by the index of their weights in `parameters()`."""
        moments = (self.state[weights] for weights in self.parameters())
        return {"state": dict(enumerate(moments))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the moments of a `state_dict`. Raises ValueError, LookupError, TypeError or
        AttributeError if it does not fit."""
        for number, weights in enumerate(self.parameters()):
            moments = state["state"][number]
            if not isinstance(moments, dict) or moments.keys() not in (set(), {*self.moments}):
                raise ValueError("its moments are others")
            self.state[weights] = {
                name: _restored(name, moment, weights) for name, moment in moments.items()
            }
        if len(state["state"]) != len(self.parameters()):
            raise ValueError("it has the moments of other weights")


def _restored(name: str, moment: Tensor, weights: nn.Parameter) -> Tensor:
    """A moment of a checkpoint as the optimizer holds it: on the device of its weights, and sharded
    if they are. Raises ValueError for another shape or dtype: a fused kernel would read and write
    beyond its end."""
    shape = () if name == "step" else weights.shape
    if moment.shape != shape or moment.dtype != weights.dtype:
        raise ValueError("its shapes are not the model's")
    # contiguous, as the weights are: the kernel goes through both as they lie in memory
    own = moment.to(weights.device, copy=True, memory_format=torch.contiguous_format)
    if name == "step" or not hasattr(weights, "to_local"):
        return own
    return sharding().distribute_like(own, weights)


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), in torch's fused kernel."""

    moments = ("step", "exp_avg", "exp_avg_sq")

    @torch.no_grad()
    def step(self) -> None:
        """Update each weight that has a gradient."""
        for group in self.param_groups:
            trained = [weights for weights in group["params"] if weights.grad is not None]
            for weights in trained:
                if not self.state[weights]:
                    moments = {name: torch.zeros_like(weights) for name in self.moments[1:]}
                    step = torch.zeros((), device=weights.device)
                    self.state[weights] = {"step": step, **moments}
            states = [self.state[weights] for weights in trained]
            adamw(
                [local(weights) for weights in trained],
                [local(weights.grad) for weights in trained if weights.grad is not None],
                [local(state["exp_avg"]) for state in states],
                [local(state["exp_avg_sq"]) for state in states],
                [],
                [state["step"] for state in states],
                fused=True,
                amsgrad=False,
                maximize=False,
                eps=1e-8,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
            )


class Muon(Optimizer):
    """Orthogonalized momentum (Jordan 2024).

    All matrices of one shape go through the iteration as one batch: for the many small matrices of
    a small model that takes half the time of torch.optim.Muon or less. Several ranks divide the
    matrices among them.
    """

    moments = ("momentum",)

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.bfloat16,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """`dtype` is the precision of the matrix products of `orthogonalize`."""
        self.dtype, self.rank, self.world_size = dtype, rank, world_size
        super().__init__(
            [dict(params=matrices, lr=lr, momentum=momentum, weight_decay=weight_decay)]
        )

    @torch.no_grad()
    def step(self) -> None:
        """Update each matrix that has a gradient, by lr · √max(1, rows/columns) as in Jordan's."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape[matrix.shape].append(matrix)
            for (rows, columns), matrices in by_shape.items():
                updates = self._updates(matrices, group["momentum"])
                own = [local(matrix) for matrix in matrices]
                if group["weight_decay"]:
                    torch._foreach_mul_(own, 1 - group["lr"] * group["weight_decay"])
                rate = group["lr"] * math.sqrt(max(1, rows / columns))
                torch._foreach_add_(own, list(updates), alpha=-rate)

    def _updates(self, matrices: Sequence[Tensor], decay: float) -> Tensor:
        """The orthogonalized momenta of matrices of one shape, (count, own rows, columns)."""
        gradients = torch.stack([local(m.grad) for m in matrices if m.grad is not None])
        for matrix in matrices:
            if not self.state[matrix]:
                self.state[matrix]["momentum"] = torch.zeros_like(matrix)
        momenta = [local(self.state[matrix]["momentum"]) for matrix in matrices]
        torch._foreach_lerp_(momenta, list(gradients), 1 - decay)
        ahead = gradients.lerp(torch.stack(momenta), decay)  # Nesterov: one step along the momentum
        if self.world_size == 1:
            return orthogonalize(ahead, self.dtype)
        if hasattr(matrices[0], "to_local"):
            return orthogonalize_sharded(
                ahead, self.dtype, self.world_size, rows=matrices[0].shape[0]
            )
        return orthogonalize_divided(ahead, self.dtype, self.rank, self.world_size)


def make_optimizers(
    model: nn.Module,
    settings: TrainSettings,
    muon_dtype: torch.dtype = torch.bfloat16,
    rank: int = 0,
    world_size: int = 1,
) -> list[Optimizer]:
    """The optimizers of a model: AdamW and Muon, or AdamW alone with --optimizer=adamw. Weight
    decay applies to matrices only, as in nanoGPT."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        in_block = "blocks." in name and parameter.ndim == 2
        (matrices if in_block and settings.optimizer == "muon" else others).append(parameter)
    options: dict[str, Any] = dict(
        lr=settings.learning_rate, betas=(settings.beta1, settings.beta2)
    )
    decayed = [parameter for parameter in others if parameter.ndim >= 2]
    free = [parameter for parameter in others if parameter.ndim < 2]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": settings.weight_decay, **options},
        {"params": free, "weight_decay": 0.0, **options},
    ]
    optimizers: list[Optimizer] = [AdamW(group for group in groups if group["params"])]
    if matrices:
        muon = Muon(
            matrices,
            lr=settings.muon_learning_rate,
            momentum=settings.muon_momentum,
            weight_decay=settings.weight_decay,
            dtype=muon_dtype,
            rank=rank,
            world_size=world_size,
        )
        optimizers.append(muon)
    return optimizers


def restore_optimizers(optimizers: Sequence[Optimizer], states: Sequence[dict[str, Any]]) -> None:
    """Load the moments of a checkpoint; rates and decay stay those of the settings.

    Raises UserError if the checkpoint was written by other optimizers.
    """
    try:
        for optimizer, state in zip(optimizers, states, strict=True):
            optimizer.load_state_dict(state)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"the checkpoint's optimizer state does not fit ({error}): keep its --optimizer"
        ) from None
