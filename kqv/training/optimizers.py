"""Muon for the matrices inside the blocks, AdamW for the rest, one schedule for both.

Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon) replaces the momentum of a matrix by the
nearest matrix with orthonormal rows or columns: every direction that the gradient shows is followed
equally far, however weak. Embeddings, the head, norms and biases are no such maps and keep AdamW.
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
from kqv.machine.wrapping import local
from kqv.options.settings import TrainSettings

# For each step x ← ax + bx³ + cx⁵ on the singular values the a, b, c that leave the least error of all, given the interval
# that the step before leaves: from 0.01..1 to 0.71..1.29 in three steps (Amsel et al. 2025, arXiv 2505.16932, section 3;
# each interval widened by 1 % for the rounding of bfloat16). Jordan's five equal steps end at 0.68..1.2.
NEWTON_SCHULZ = ((8.0934, -23.6206, 17.4463), (3.6135, -2.6554, 0.5134), (2.6727, -1.9599, 0.4395))


def orthogonalize(matrices: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """The orthogonal factor UVᵀ of each matrix USVᵀ (count, rows, columns), approximately. Returns the same shape.

    Newton-Schulz iteration of X ← aX + (bA + cA²)X with A = XXᵀ, which needs matrix products only. A singular value of at
    least 1/100 of the Frobenius norm comes out in 0.7..1.3. A smaller one stays small: 70 to 78 times its share of that norm.

    So it depends on the spectrum how near the result is to UVᵀ. Measured on 128 × 128 matrices, beside the five steps of
    torch.optim.Muon (3.4445, -4.775, 2.0315). In training those bought no loss in the default recipe, and 0.012 nats in 300
    steps of 512 tokens at width 256 (docs/log.md):

        singular values       come out in     cosine to UVᵀ    torch's five steps
        Gaussian matrix       0.00 to 1.28    0.97             0.98
        from 1 to 1/1000      0.03 to 1.28    0.81             0.94
        1/n²                  0.00 to 1.28    0.43             0.65

    The rounding of bfloat16 is far below the error of the iteration, so `dtype` is a matter of speed.
    """
    x = matrices.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    if tall:  # XXᵀ is the smaller product when rows are the shorter side
        x = x.mT
    x = x / (
        1.01 * x.norm(dim=(-2, -1), keepdim=True) + 1e-7
    )  # singular values below 1, rounding included
    for a, b, c in NEWTON_SCHULZ:
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


def orthogonalize_divided(matrices: Tensor, dtype: torch.dtype, rank: int, count: int) -> Tensor:
    """`orthogonalize` of matrices that all of `count` processes have, each of which does its share. (Results that come out in
    `dtype` travel in it, which loses nothing.)"""
    each = math.ceil(len(matrices) / count)
    padded = F.pad(matrices, (0, 0, 0, 0, 0, each * count - len(matrices))).to(dtype)
    results = torch.empty_like(padded)
    mine = orthogonalize(
        padded[rank * each :][:each], dtype
    ).contiguous()  # nccl takes nothing else
    dist.all_gather(list(results.chunk(count)), mine)
    return results[: len(matrices)].to(matrices.dtype)


def orthogonalize_sharded(parts: Tensor, dtype: torch.dtype, count: int, rows: int) -> Tensor:
    """`orthogonalize` of matrices of so many rows of which each process has some, parts (matrices, own rows, columns): each
    receives all rows of its share of the matrices, and sends back what comes of them. Returns the same shape."""
    matrices, own, columns = parts.shape
    each, most = (
        math.ceil(matrices / count),
        math.ceil(rows / count),
    )  # FSDP2 cuts as torch.chunk does: the last have fewer rows
    outgoing = F.pad(parts, (0, 0, 0, most - own, 0, each * count - matrices)).to(dtype)
    incoming = torch.empty_like(outgoing)
    dist.all_to_all_single(incoming, outgoing)
    mine = (
        incoming.view(count, each, most, columns)
        .transpose(0, 1)
        .reshape(each, count * most, columns)[:, :rows]
    )
    mine = F.pad(orthogonalize(mine, dtype), (0, 0, 0, count * most - rows))
    outgoing = mine.view(each, count, most, columns).transpose(0, 1).reshape(outgoing.shape)
    dist.all_to_all_single(incoming, outgoing.contiguous())
    return incoming[:matrices, :own].to(parts.dtype)


def _laid_out(moment: Tensor, weights: Tensor) -> Tensor:
    """A whole moment, or this process's shard of it if the weights are sharded."""
    if not hasattr(weights, "to_local"):
        return moment
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(weights, DTensor)
    return distribute_tensor(moment, weights.device_mesh, weights.placements)


class Optimizer:
    """What the training loop needs of a torch.optim.Optimizer. Building one of those imports torch's compiler, which
    takes as long as importing torch."""

    moments: Sequence[str]  # what is kept for each weight, once there was a step

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        """Each group has `params`, `lr` and what else the step needs; its lr at the start is kept as `initial_lr`."""
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
        """Forget the gradients."""
        for weights in self.parameters():
            weights.grad = None

    def state_dict(self) -> dict[str, Any]:
        """The moments, by the number of their weights in `parameters()`."""
        return {
            "state": {
                number: self.state[weights] for number, weights in enumerate(self.parameters())
            }
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the moments of a `state_dict`. Raises ValueError, LookupError, TypeError or AttributeError for others."""
        for number, weights in enumerate(self.parameters()):
            moments = state["state"][number]
            if not isinstance(moments, dict) or moments.keys() not in (set(), {*self.moments}):
                raise ValueError("its moments are others")
            # a fused kernel would read and write beyond the end of a moment that is too short
            for name, moment in moments.items():
                if (
                    moment.shape != (() if name == "step" else weights.shape)
                    or moment.dtype != weights.dtype
                ):
                    raise ValueError("its shapes are not the model's")
            # contiguous, as the weights are: the kernel goes through both as they lie in memory
            own = {
                name: moment.to(weights.device, copy=True, memory_format=torch.contiguous_format)
                for name, moment in moments.items()
            }
            self.state[weights] = {
                name: moment if name == "step" else _laid_out(moment, weights)
                for name, moment in own.items()
            }
        if len(state["state"]) != len(self.parameters()):
            raise ValueError("it has the moments of other weights")


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
                    moments = {
                        name: torch.zeros_like(weights) for name in ("exp_avg", "exp_avg_sq")
                    }
                    self.state[weights] = {
                        "step": torch.zeros((), device=weights.device),
                        **moments,
                    }
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
    """Momentum, orthogonalised. All matrices of one shape are taken through the iteration as one batch: for the
    many small matrices of a small model that takes half the time of torch.optim.Muon or less. Where several processes train
    one model each orthogonalises its share of the matrices, and always whole ones."""

    moments = ("momentum",)

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.bfloat16,
        rank: int = 0,
        count: int = 1,
    ) -> None:
        """`dtype` is that of the matrix products of `orthogonalize`; this is process number `rank` of `count`."""
        self.dtype, self.rank, self.count = dtype, rank, count
        super().__init__(
            [dict(params=matrices, lr=lr, momentum=momentum, weight_decay=weight_decay)]
        )

    @torch.no_grad()
    def step(self) -> None:
        """Update each matrix that has a gradient. The step is as long as in Jordan's: lr · √max(1, rows/columns)."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape[matrix.shape].append(matrix)
            for (rows, columns), matrices in by_shape.items():
                gradients = torch.stack(
                    [local(matrix.grad) for matrix in matrices if matrix.grad is not None]
                )
                for matrix in matrices:
                    if not self.state[matrix]:
                        self.state[matrix]["momentum"] = torch.zeros_like(matrix)
                momenta = [local(self.state[matrix]["momentum"]) for matrix in matrices]
                torch._foreach_lerp_(momenta, list(gradients), 1 - group["momentum"])
                # Nesterov: look one step ahead along the momentum
                looks = gradients.lerp(torch.stack(momenta), group["momentum"])
                if self.count == 1:
                    updates = orthogonalize(looks, self.dtype)
                elif hasattr(matrices[0], "to_local"):
                    updates = orthogonalize_sharded(looks, self.dtype, self.count, rows)
                else:
                    updates = orthogonalize_divided(looks, self.dtype, self.rank, self.count)
                parts = [local(matrix) for matrix in matrices]
                if group["weight_decay"]:
                    torch._foreach_mul_(parts, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(
                    parts, list(updates), alpha=-group["lr"] * math.sqrt(max(1, rows / columns))
                )


def make_optimizers(
    model: nn.Module,
    settings: TrainSettings,
    muon_dtype: torch.dtype = torch.bfloat16,
    rank: int = 0,
    count: int = 1,
) -> list[Optimizer]:
    """The optimizers of a model: AdamW and Muon, or AdamW alone with --optimizer=adamw; for process `rank` of `count`.

    Weight decay pulls on matrices only, as in nanoGPT.
    """
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        inner = settings.optimizer == "muon" and "blocks." in name and parameter.ndim == 2
        (matrices if inner else others).append(parameter)
    options: dict[str, Any] = dict(
        lr=settings.learning_rate, betas=(settings.beta1, settings.beta2)
    )
    groups: list[dict[str, Any]] = [
        {
            "params": [p for p in others if p.ndim >= 2],
            "weight_decay": settings.weight_decay,
            **options,
        },
        {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0, **options},
    ]
    optimizers: list[Optimizer] = [AdamW(group for group in groups if group["params"])]
    if matrices:
        options = dict(
            lr=settings.muon_learning_rate,
            momentum=settings.muon_momentum,
            weight_decay=settings.weight_decay,
        )
        optimizers.append(Muon(matrices, dtype=muon_dtype, rank=rank, count=count, **options))
    return optimizers


def restore_optimizers(optimizers: Sequence[Optimizer], states: Sequence[dict[str, Any]]) -> None:
    """Give each optimizer the moments of a checkpoint; rates and decay stay those of the settings.

    Raises UserError if the checkpoint was written by other optimizers.
    """
    try:
        for optimizer, state in zip(optimizers, states, strict=True):
            optimizer.load_state_dict(state)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"the checkpoint's optimizer state does not fit ({error}): keep its --optimizer"
        ) from None
