"""A copy of a model whose parts are faster for one token per text.

A decode step is bound by the number of operations and by the bytes of weights that they read. So
the copy has norms of few operations, query, key and value in one product, and weights in the
precision asked for, laid out for the processor. What connects the parts, GPT.forward, Block.forward
and so on, is model.py's own.
"""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kqv.kernels import Dropout
from kqv.positions import Rotation, rotate
from model import GPT, RMSNORM_EPSILON, Attention, RMSNorm, SwiGLU

Function = Callable[..., Any]

# A matrix of fewer numbers stays in the caches of a CPU: reading fewer bytes of it gains less than
# calling oneDNN costs (docs/log.md), so it is used in float32 as it is.
SMALL_MATRIX = 2**17


def fast_copy(model: GPT, dtype: torch.dtype) -> Function:
    """The forward of a copy of the model with faster parts, for ids (batch, 1).

    Large matrices, and the products with them, are in `dtype` (int8 too); all else is float32.
    """
    forward = _fast(model, dtype)
    twin = forward.__self__
    embed = twin.embed
    vars(twin)["embed"] = lambda ids, start: embed(ids, start).squeeze(1)
    return forward


def _fast(module: nn.Module, dtype: torch.dtype) -> Any:
    """What computes the same as a module, faster. A class that is not known here, such as a subclass
    of nn.Linear, is copied as it is, with its own parts replaced."""
    kind = type(module)
    if kind is nn.Linear:
        return joined_linear([module], dtype)
    if kind is RMSNorm:
        return fast_rms_norm(module.weight)
    if kind is nn.LayerNorm:
        return fast_layer_norm(module)
    if kind is Dropout or kind is nn.Identity:
        return _identity
    if kind is nn.ModuleList:
        return [_fast(child, dtype) for child in module]
    if kind is nn.Embedding:
        return FastEmbedding(module.weight)
    twin = copy.copy(module)
    parts = {name: _fast(child, dtype) for name, child in module.named_children()}
    vars(twin).update(parts, _modules={}, training=False)
    if isinstance(module, Attention):
        vars(twin)["project"] = joined_projection(module, dtype)
    if isinstance(module, SwiGLU):
        joined = joined_linear([module.gate, module.up], dtype)
        vars(twin)["project"] = lambda x: joined(x).chunk(2, dim=-1)
    return twin.forward


def _identity(x: Tensor) -> Tensor:
    return x


def joined_projection(attention: Attention, dtype: torch.dtype) -> Function:
    """`Attention.project` for one token per text, with query, key and value in one product, and both
    norms and both rotations at once."""
    config = attention.config
    linear = joined_linear([attention.query, attention.key, attention.value], dtype)
    shape = (-1, 3, config.n_head, 1, config.d_k)
    norm = None
    if config.qk_norm:
        weights = torch.stack([attention.query_norm.weight, attention.key_norm.weight])
        norm = fast_rms_norm(weights[:, None, None])  # (2, 1, 1, d_k)

    def project(x: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        projected = linear(x).float().view(shape)
        if norm is None and rotation is None:
            return projected.unbind(1)
        query_key = projected[:, :2]
        if norm is not None:
            query_key = norm(query_key)
        if rotation is not None:
            query_key = rotate(query_key, rotation)
        return *query_key.unbind(1), projected.select(1, 2)

    return project


def joined_linear(linears: Sequence[nn.Linear], dtype: torch.dtype) -> Function:
    """Linear layers of one input as one: x (..., inputs) to their outputs side by side."""
    weight = torch.cat([linear.weight for linear in linears])
    bias = None if linears[0].bias is None else torch.cat([linear.bias for linear in linears])
    on_cpu = weight.device.type == "cpu"
    if on_cpu and weight.numel() < SMALL_MATRIX:
        columns = weight.t().contiguous()  # the fastest layout for one row times a matrix
        if bias is None:
            return lambda x: x.float() @ columns
        weight = columns.t()
        return lambda x: F.linear(x.float(), weight, bias)
    if dtype == torch.int8:
        return int8_linear(weight, bias)
    weight, bias = weight.to(dtype), bias if bias is None else bias.to(dtype)
    if on_cpu and _onednn_knows(dtype):
        # oneDNN lays a matrix out for the processor each time it is used, unless that was done before.
        onednn: Any = torch.ops.mkldnn
        laid_out = onednn._reorder_linear_weight(weight)
        return lambda x: onednn._linear_pointwise(x.to(dtype), laid_out, bias, "none", [], "")
    return lambda x: F.linear(x.to(dtype), weight, bias)


def _onednn_knows(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (
        dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def int8_linear(weight: Tensor, bias: Tensor | None) -> Function:
    """x @ weightᵀ + bias with weights of 8 bits: each row is whole numbers from -127 to 127 times its own scale."""
    scale = (
        (weight.abs().amax(dim=1) / 127).clamp_min(1e-30).bfloat16()
    )  # the kernel's precision for x and scales
    numbers = (weight / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8)
    def linear(x: Tensor) -> Tensor:
        product = torch._weight_int8pack_mm(x.bfloat16(), numbers, scale)
        return product if bias is None else product + bias
    return linear


def fast_layer_norm(norm: nn.LayerNorm) -> Function:
    shape, weight, bias, epsilon = norm.normalized_shape, norm.weight, norm.bias, norm.eps
    return lambda x: torch.layer_norm(x, shape, weight, bias, epsilon)


def fast_rms_norm(weight: Tensor) -> Function:
    """RMSNorm over the last dimension, in four operations: torch's own takes six."""
    root = math.sqrt(weight.shape[-1])
    scaled = weight * root
    floor = torch.tensor(root * math.sqrt(RMSNORM_EPSILON), device=weight.device)

    def norm(x: Tensor) -> Tensor:
        length = torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), floor)
        return x / length * scaled

    return norm


class FastEmbedding:
    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __call__(self, ids: Tensor) -> Tensor:
        return self.weight[ids]
