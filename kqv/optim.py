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
from torch import Tensor, nn

from kqv.errors import UserError
from kqv.settings import TrainSettings

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of the quintic, tuned by Jordan for speed, not precision
NEWTON_SCHULZ_STEPS = 5


def orthogonalize(matrices: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """The orthogonal factor of each matrix (count, rows, columns), about: singular values come out in 0.7..1.2.

    Newton-Schulz iteration of X ← aX + (bA + cA²)X with A = XXᵀ, which needs matrix products only. The
    rounding of bfloat16 is far below its own error, so `dtype` is a matter of speed. Returns the same shape.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    if tall:  # XXᵀ is the smaller product when rows are the shorter side
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)  # singular values at most 1, where the iteration converges
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised. All matrices of one shape are taken through the iteration as one batch: for the
    many small matrices of a small model that takes little more than half the time of torch.optim.Muon."""

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        """`dtype` is that of the matrix products of `orthogonalize`."""
        self.dtype = dtype
        super().__init__(matrices, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update each matrix that has a gradient. The step is as long as in Jordan's: lr · √max(1, rows/columns)."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape[matrix.shape].append(matrix)
            for (rows, columns), matrices in by_shape.items():
                gradients = torch.stack([matrix.grad for matrix in matrices if matrix.grad is not None])
                for matrix in matrices:
                    if not self.state[matrix]:
                        self.state[matrix]["momentum"] = torch.zeros_like(matrix)
                momenta = [self.state[matrix]["momentum"] for matrix in matrices]
                torch._foreach_lerp_(momenta, list(gradients), 1 - group["momentum"])
                # Nesterov: look one step ahead along the momentum
                updates = orthogonalize(gradients.lerp(torch.stack(momenta), group["momentum"]), self.dtype)
                if group["weight_decay"]:
                    torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(matrices, list(updates), alpha=-group["lr"] * math.sqrt(max(1, rows / columns)))


def make_optimizers(
    model: nn.Module, settings: TrainSettings, muon_dtype: torch.dtype = torch.bfloat16
) -> list[torch.optim.Optimizer]:
    """The optimizers of a model: AdamW and Muon, or AdamW alone with --optimizer=adamw.

    Weight decay pulls on matrices only, as in nanoGPT. Each group keeps its peak rate as `initial_lr`.
    """
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        inner = settings.optimizer == "muon" and "blocks." in name and parameter.ndim == 2
        (matrices if inner else others).append(parameter)
    groups = [
        {"params": [p for p in others if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=settings.learning_rate,
            betas=(settings.beta1, settings.beta2),
            fused=True,
        )
    ]
    if matrices:
        options = dict(lr=settings.muon_learning_rate, momentum=settings.muon_momentum, weight_decay=settings.weight_decay)
        optimizers.append(Muon(matrices, dtype=muon_dtype, **options))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers


def restore_optimizers(optimizers: Sequence[torch.optim.Optimizer], states: Sequence[dict[str, Any]]) -> None:
    """Give each optimizer the moments of a checkpoint; rates and decay stay those of the settings.

    Raises UserError if the checkpoint was written by other optimizers.
    """
    try:
        for optimizer, state in zip(optimizers, states, strict=True):
            optimizer.load_state_dict({"state": state["state"], "param_groups": optimizer.state_dict()["param_groups"]})
            for weights, moments in optimizer.state.items():
                # a fused kernel would read and write beyond the end of a moment that is too short
                if any(moment.shape != weights.shape for name, moment in moments.items() if name != "step"):
                    raise ValueError("its shapes are not the model's")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"the checkpoint's optimizer state does not fit ({error}): keep its --optimizer") from None


def rate_factor(settings: TrainSettings, step: int) -> float:
    """What the peak rates are multiplied by in training step `step`: warm-up, then the chosen decay.

    The decay ends at min_lr / learning_rate, and stays there.
    """
    if not settings.decay_lr:
        return 1.0
    end = settings.lr_decay_iters or settings.max_iters
    if step < settings.warmup_iters:
        return (step + 1) / (settings.warmup_iters + 1)
    floor = min(1.0, settings.min_lr / settings.learning_rate) if settings.learning_rate else 1.0
    progress = min(1.0, (step - settings.warmup_iters) / max(1, end - settings.warmup_iters))
    if settings.lr_schedule == "cosine":
        height = 0.5 * (1 + math.cos(math.pi * progress))
    else:
        height = min(1.0, (1 - progress) / settings.cooldown) if settings.cooldown else float(progress < 1)
    return floor + height * (1 - floor)


def set_rates(optimizers: Iterable[torch.optim.Optimizer], factor: float) -> None:
    """Set each group's rate to `factor` times its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * group["initial_lr"]
