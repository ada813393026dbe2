"""Fast bodies for what model.py writes as formulas: RMSNorm, dropout, attention, the loss.

Each function says which formula it computes; tests/test_model.py compares values and gradients.
docs/log.md has the measurements that led to them.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kqv.options.config import RMSNORM_EPSILON

# Logits that the chunked loss holds at a time: 64 MB in float32; on a CPU 4 MB, to fit its cache.
LOGITS_AT_ONCE, CPU_LOGITS_AT_ONCE = 2**24, 2**20
LEAST_POSITIONS = 256  # of a chunk on a CPU: the products of fewer are slow
LEAST_SUM = 1e-6  # of the weights of losses, which divides them: never 0


class _RMSNorm(torch.autograd.Function):
    """RMSNorm whose backward pass takes few passes over the data.

    It calls LayerNorm's fused backward kernel with a mean of 0, then takes out the centring term
    that this kernel adds. Autograd's own takes up to twice as long on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        normalized, scale = torch.ops.aten._fused_rms_norm(x, weight.shape, weight, epsilon)
        ctx.save_for_backward(x, weight, scale)
        return normalized

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        mean, bias, wanted = torch.zeros_like(scale), None, [True, True, False]
        x_gradient, weight_gradient, _ = torch.ops.aten.native_layer_norm_backward(
            gradient, x, weight.shape, mean, scale, weight, bias, wanted
        )
        centring = (gradient @ weight).unsqueeze(-1) * scale / x.shape[-1]
        return x_gradient.add_(centring), weight_gradient, None


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """x / √(mean(x²) + ε) · weight over the last dimension (Zhang & Sennrich 2019).

    x (..., width) and weight (width,) float32; the result has the shape of x.
    """
    return _RMSNorm.apply(x, weight, epsilon)


class RMSNorm(nn.Module):
    """x / √(mean(x²) + ε) · weight (Zhang & Sennrich 2019).

    Always in float32: more exact than bfloat16, and no slower on a CPU (docs/log.md).
    """

    def __init__(self, width: int, epsilon: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon or RMSNORM_EPSILON

    def forward(self, x: Tensor) -> Tensor:
        """x (..., width) of any float type to the same shape in float32."""
        return rms_norm(x.float(), self.weight, self.epsilon)


def drop(x: Tensor, share: float) -> Tensor:
    """Dropout (Srivastava et al. 2014): zero a random share of x, and scale up the rest.

    On a CPU torch draws random numbers one by one, which takes an eighth of a small model's
    training step per layer. Here 64 random bits decide about four elements, so `share` is rounded
    to a multiple of 1/65536.
    """
    if not share:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, share)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    dropped = min(round(share * 2**16), 2**16 - 1)
    kept = words.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - 2**15
    return x * kept.to(x.dtype).mul_(2**16 / (2**16 - dropped))


class Dropout(nn.Module):
    """`drop` in training, the identity otherwise."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape and float type to the same."""
        return drop(x, self.share) if self.training else x


def attend_fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    dropout: float = 0.0,
    causal: bool = False,
) -> Tensor:
    """The output of model.py's `attend` with dot-product scores, in one kernel.

    It never stores the attention weights. `causal` says that the mask is the plain causal one,
    which the kernel has built in.
    """
    mask = None if causal else mask
    if mask is not None and mask.is_floating_point():
        mask = mask.to(query.dtype)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=causal, scale=scale
    )


def cross_entropy(
    logits: Tensor, targets: Tensor, weights: Tensor | None = None, smoothing: float = 0.0
) -> Tensor:
    """Mean loss in nats per token: -log p(target), computed in float32.

    logits (batch, time, vocab_size), targets (batch, time) int64. The mean is weighted by `weights`
    (batch, time) if there are some. `smoothing` spreads this share of the target probability over
    all tokens (Szegedy et al. 2016, section 7).
    """
    logits, targets = logits.flatten(0, 1).float(), targets.flatten()
    if weights is None:
        return F.cross_entropy(logits, targets, label_smoothing=smoothing)
    losses = F.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
    weights = weights.flatten()
    # Not losses @ weights: autocast would make that product in bfloat16.
    return (losses * weights).sum() / weights.sum().clamp_min(LEAST_SUM)


def positions_at_once(vocab_size: int, device: torch.device) -> int:
    """Positions in a chunk of the chunked loss. Fewer need no chunks."""
    most = max(1, LOGITS_AT_ONCE // vocab_size)
    if device.type != "cpu":
        return most
    return min(most, max(LEAST_POSITIONS, CPU_LOGITS_AT_ONCE // vocab_size))


class _LinearCrossEntropy(torch.autograd.Function):
    """Output layer and loss in chunks of positions: only one chunk of logits exists at a time.

    Hsu et al. 2024 (arXiv 2410.10989), section 3.2; Wijmans et al. 2024 (arXiv 2411.09009). The
    gradients of a chunk, softmax(logits) minus the target's distribution times the other factor,
    are computed in the forward pass, while its logits are there.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        weights: Tensor,
        smoothing: float,
        dtype: torch.dtype,
        training: bool,
    ) -> Tensor:
        short, chunk = weight.to(dtype), positions_at_once(len(weight), weight.device)
        total, count = torch.zeros((), device=hidden.device), weights.sum().clamp_min(LEAST_SUM)
        hidden_gradients = []
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32) if training else None
        parts = zip(
            hidden.to(dtype).split(chunk), targets.split(chunk), weights.split(chunk), strict=True
        )
        for part, target, each in parts:
            # Not log_softmax(…, dtype=torch.float32): of bfloat16 that takes 15 times as long.
            log_probabilities = F.log_softmax((part @ short.mT).float(), dim=-1)
            losses = F.nll_loss(log_probabilities, target, reduction="none")
            if smoothing:
                losses = torch.lerp(losses, -log_probabilities.mean(-1), smoothing)
            total += losses @ each
            if weight_gradient is not None:
                at_target = torch.full_like(target, smoothing - 1, dtype=torch.float32)[:, None]
                slope = log_probabilities.exp_().scatter_add_(1, target[:, None], at_target)
                if smoothing:
                    slope -= smoothing / len(weight)
                slope = slope.mul_(each[:, None]).to(dtype)
                hidden_gradients.append(slope @ short)
                if dtype == torch.float32:
                    weight_gradient.addmm_(slope.mT, part)
                else:
                    weight_gradient += slope.mT @ part
        if weight_gradient is not None:
            ctx.save_for_backward(torch.cat(hidden_gradients), weight_gradient, count)
        return total / count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden_gradient, weight_gradient, count = ctx.saved_tensors
        # The mean is taken only here, in float32: a slope divided by the number of all tokens is
        # too small for float16.
        each = gradient / count
        return hidden_gradient.float() * each, weight_gradient * each, *(None,) * 5


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """Mean cross-entropy of hidden @ weightᵀ in nats, a float32 scalar, in the memory of a chunk.

    hidden (batch, time, n_embd) and weight (vocab_size, n_embd) float32, targets (batch, time)
    int64; `weights` and `smoothing` as in `cross_entropy`. Products are made in the precision of
    autocast. (torch has a function of this name from 2.13 on, which torch.compile cannot trace.)
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    if weights is None:
        weights = torch.ones_like(targets, dtype=torch.float32)
    with torch.autocast(device, enabled=False):
        return _LinearCrossEntropy.apply(
            hidden.flatten(0, 1), weight, targets.flatten(), weights.flatten(), smoothing, dtype,
            torch.is_grad_enabled(),
        )  # fmt: skip
