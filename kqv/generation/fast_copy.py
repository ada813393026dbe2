"""A copy of a model whose parts are faster for one token per text.

A decode step is bound by operator overhead and by the bytes of weights that are read. So the copy
has norms of few operations, query, key and value in one product, gate and up in another, and
weights in the precision asked for, laid out for the processor. What connects these parts,
GPT.forward, Block.forward and so on, is model.py's own.

Inside the copy x is (batch, n_embd): the time dimension of 1 is dropped after the embedding.
"""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kqv.kernels import Dropout
from kqv.machine.device import onednn_has_bfloat16
from kqv.positions import Rotation, rotate
from model import GPT, Attention, GatedMLP, RMSNorm

Function = Callable[..., Any]

# A matrix of fewer numbers stays in the caches of a CPU: halving its bytes gains less than calling
# oneDNN costs (docs/log.md), so it is used in float32 as it is.
SMALL_MATRIX = 2**17


def fast_copy(model: GPT, dtype: torch.dtype) -> Function:
    """GPT.forward of a copy of `model` with faster parts.

    It takes ids (batch, 1) and returns logits (batch, vocab_size). Large matrices are copies in
    `dtype` (int8, too), as are the products with them; all else is float32.
    """
    twin = _twin(model, dtype)
    embed = twin.embed
    vars(twin)["embed"] = lambda ids, start: embed(ids, start).squeeze(1)
    return twin.forward


def _twin(module: nn.Module, dtype: torch.dtype) -> Any:
    """A shallow copy of a module in evaluation mode, with its children replaced by faster ones.

    These are plain functions in the copy's own attributes: nn.Module's lookups and calls would take
    as long as the arithmetic of a small model.
    """
    twin = copy.copy(module)
    parts = dict(module.named_children())
    parts.pop("encoder", None)  # it runs once, before the first step
    children = {name: _faster(child, dtype) for name, child in parts.items()}
    # A rotary table moves along with the text: the copy has its own dictionary of buffers.
    vars(twin).update(children, _modules={}, _buffers=dict(module._buffers), training=False)
    if isinstance(module, Attention):
        project = cached_query if module.cross else joined_query_key_value
        vars(twin)["project"] = project(module, dtype)
    if isinstance(module, GatedMLP):
        joined = joined_linear([module.gate, module.up], dtype)
        vars(twin)["project"] = lambda x: joined(x).chunk(2, dim=-1)
    return twin


def _faster(module: nn.Module, dtype: torch.dtype) -> Any:
    """What replaces a module in the copy.

    Of a class that is not known here, such as a subclass of nn.Linear, it is its own forward.
    """
    if isinstance(module, nn.ModuleList):
        return [_faster(child, dtype) for child in module]
    if type(module) is nn.Linear:
        return joined_linear([module], dtype)
    if type(module) is nn.Embedding:
        return FastEmbedding(module.weight)
    if type(module) is RMSNorm:
        return fast_rms_norm(module.weight, module.epsilon)
    if type(module) is nn.LayerNorm:
        return fast_layer_norm(module)
    if type(module) in (Dropout, nn.Identity):
        return identity
    return _twin(module, dtype).forward


def identity(x: Tensor) -> Tensor:
    """x itself: what dropout computes when nothing is trained."""
    return x


class FastEmbedding:
    """nn.Embedding by one indexing operation."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __call__(self, ids: Tensor) -> Tensor:
        """ids of any shape, int64, to rows of weight: (..., n_embd)."""
        return self.weight[ids]


def joined_query_key_value(attention: Attention, dtype: torch.dtype) -> Function:
    """`Attention.project` with query, key and value in one product, both norms and both rotations
    in one operation each.

    This repeats the formula of `Attention.project`; kqv/generation/checks.py compares the two.
    """
    config = attention.config
    linear = joined_linear([attention.query, attention.key, attention.value], dtype)
    shape = (-1, 3, config.n_head, 1, config.d_k)
    norm = None
    if config.qk_norm:
        norms: Any = (attention.query_norm, attention.key_norm)
        weights = torch.stack([each.weight for each in norms])
        norm = fast_rms_norm(weights[:, None, None], norms[0].epsilon)  # (2, 1, 1, d_k)

    def project(x: Tensor, source: Tensor, rotation: Rotation | None) -> tuple[Tensor, ...]:
        """x (batch, n_embd) to query, key and value, each (batch, heads, 1, d_k)."""
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


def cached_query(attention: Attention, dtype: torch.dtype) -> Function:
    """`Attention.project` of cross-attention whose keys and values are in a cache: the query only.

    Texts that translate one source are its queries, side by side: their keys are the same.
    """
    config = attention.config
    query, norm = (_faster(each, dtype) for each in (attention.query, attention.query_norm))

    def project(x: Tensor, source: Tensor, rotation: None) -> tuple[Tensor, None, None]:
        """x (batch, n_embd) to the query (sources, heads, batch / sources, d_k); source (sources,
        source_time, n_embd)."""
        projected = query(x).float().view(len(source), -1, config.n_head, config.d_k)
        return norm(projected.transpose(1, 2)), None, None

    return project


def joined_linear(linears: Sequence[nn.Linear], dtype: torch.dtype) -> Function:
    """Linear layers of one input as one: x (batch, inputs) to their outputs side by side.

    A small matrix stays in float32, whatever `dtype` is.
    """
    weight = torch.cat([linear.weight for linear in linears])
    bias = None if linears[0].bias is None else torch.cat([linear.bias for linear in linears])
    on_cpu = weight.device.type == "cpu"
    if on_cpu and weight.numel() < SMALL_MATRIX:
        weight = weight.t().contiguous().t()  # the fastest layout for one row times a matrix
        return lambda x: F.linear(x.float(), weight, bias)
    if dtype == torch.int8:
        return int8_linear(weight, bias)
    weight, bias = weight.to(dtype), bias if bias is None else bias.to(dtype)
    if on_cpu and onednn_packs(dtype):
        # oneDNN lays a matrix out for the processor each time it is used, unless that was done.
        onednn: Any = torch.ops.mkldnn
        packed = onednn._reorder_linear_weight(weight)
        return lambda x: onednn._linear_pointwise(x.to(dtype), packed, bias, "none", [], "")
    return lambda x: F.linear(x.to(dtype), weight, bias)


def onednn_packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies by packed matrices of this type here."""
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and onednn_has_bfloat16())


def int8_linear(weight: Tensor, bias: Tensor | None) -> Function:
    """x @ weightᵀ + bias, where each row of the weights is whole numbers from -127 to 127 times a
    scale of its own.

    x (batch, inputs) is rounded to bfloat16, as are the scales: the kernel has no other precision.
    """
    scale = (weight.abs().amax(dim=1) / 127).clamp_min(1e-30).bfloat16()
    numbers = (weight / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8)
    if bias is None:
        return lambda x: torch._weight_int8pack_mm(x.bfloat16(), numbers, scale)
    return lambda x: torch._weight_int8pack_mm(x.bfloat16(), numbers, scale) + bias


def fast_layer_norm(norm: nn.LayerNorm) -> Function:
    """nn.LayerNorm as one operator."""
    shape, weight, bias, epsilon = norm.normalized_shape, norm.weight, norm.bias, norm.eps
    return lambda x: torch.layer_norm(x, shape, weight, bias, epsilon)


def fast_rms_norm(weight: Tensor, epsilon: float) -> Function:
    """RMSNorm over the last dimension in four operations; torch's own takes six.

    With n numbers, √(mean(x²) + ε) = hypot(|x|, √(n·ε)) / √n.
    """
    root = math.sqrt(weight.shape[-1])
    scaled = weight * root
    floor = torch.tensor(root * math.sqrt(epsilon), device=weight.device)

    def norm(x: Tensor) -> Tensor:
        """x (..., width), float32, to the same shape."""
        length = torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), floor)
        return x / length * scaled

    return norm
