"""The model one token at a time: what GPT.forward computes for a whole text, for its next position only.

Keys and values of earlier tokens do not change, so they are kept, in a ring of as many as a query may look back.
One position is little work, so that what counts is how many operations it takes and how many bytes of weights they
read: matrices that read the same input are one here, in the precision asked for, laid out for the processor.

So `Layer.step` repeats the formula of Block.forward. Whoever changes one and not the other is told, and gets what
model.py computes: `checked` compares them.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kqv.progress import say_once
from model import (
    GPT,
    RMSNORM_EPSILON,
    Block,
    GPTConfig,
    RMSNorm,
    SwiGLU,
    attend,
    attend_fused,
    rotate,
    rotation_table,
)

# A matrix of fewer numbers stays in a CPU's caches: reading it in half the bytes gains less than starting oneDNN costs
# (docs/log.md), so that it is used as it is, in float32.
SMALL = 2**17


class Decoder:
    """The logits of the next token as a text grows."""

    def __init__(
        self,
        model: GPT,
        dtype: torch.dtype = torch.float32,
        slide: bool = False,
        fast: bool | None = None,
    ) -> None:
        """`dtype` is that of the large matrices, a copy of the model's, and of the products with them; all else is
        float32. With int8 the text that is there already is read in bfloat16 where that is fast, else in float32.

        `slide` is for positions that end with the block: read the last block_size tokens anew for each token, as nanoGPT
        does, and not half of them now and then.

        `fast` steps with a KV cache; else the whole model reads the last block_size tokens for each new one. By default it is
        fast if that computes the same; that it does not is said on stderr.
        """
        config = model.config
        self.model, self.block_size = model, config.block_size
        self.reading = dtype
        if dtype == torch.int8:
            self.reading = torch.bfloat16 if _onednn_knows(torch.bfloat16) else torch.float32
        # A key that looks at later characters changes when they come: only the causal mask can be cached.
        self.cacheable = (_trusted(model) if fast is None else fast) and config.mask == "causal"
        # Keys that know no place, or only their distance, can stay for ever. The others count from the block's beginning.
        self.endless = config.position in ("rope", "none")
        self.reach = min(
            config.window or config.block_size, config.block_size
        )  # how far back a query looks
        self.layers = (
            [Layer(cast(Block, block), self.reach, dtype) for block in model.blocks]
            if self.cacheable
            else []
        )
        if self.cacheable:
            self.norm, self.head = row_norm(model.norm), fused_linear([model.head], dtype)
        self.kept = (
            config.block_size if slide else max(1, config.block_size // 2)
        )  # tokens that a new block begins with
        self.seen = 0  # tokens in the cache, those that the ring has lost included
        self.rotation, self.rotation_start = model.rotation, 0

    def next_logits(self, ids: Tensor) -> Tensor:
        """Logits (batch, vocab_size), float32, after the whole text ids (batch, time), of which the last block_size are
        enough. Successive calls must extend the same text by one token."""
        if not self.cacheable or self.seen == 0:
            return self._read(ids[:, -self.block_size :])
        if self.seen == self.block_size and not self.endless:  # the block is full: begin a new one
            return self._read(ids[:, -self.kept :])
        return self._step(ids[:, -1])

    def _read(self, ids: Tensor) -> Tensor:
        """The whole model on a text of at most block_size tokens; the cache is filled with it."""
        self.seen = ids.shape[1]
        with torch.autocast(ids.device.type, self.reading, enabled=self.reading != torch.float32):
            logits = self.model(ids, self.layers) if self.cacheable else self.model(ids)
            return logits[:, -1].float()

    def _step(self, ids: Tensor) -> Tensor:
        """One more token of each text, ids (batch,)."""
        model, config, position = self.model, self.model.config, self.seen
        x = model.embedding.weight[ids]
        if config.position == "learned":
            x = x + model.positions.weight[position]
        elif config.position == "sinusoidal":
            x = x + model.sinusoids[position]
        rotation = self._rotation_at(position) if config.position == "rope" else None
        for layer in self.layers:
            x = layer.step(x, rotation, position)
        self.seen += 1
        return self.head(self.norm(x)).float()

    def _rotation_at(self, position: int) -> Tensor:
        if position >= self.rotation_start + self.block_size:
            self.rotation_start = position
            self.rotation = rotation_table(self.model.config, position).to(self.rotation.device)
        return self.rotation[:, position - self.rotation_start]


class Layer:
    """One block of the model, with its keys and values: (batch, heads, reach, d_k), that of position p in slot p % reach."""

    def __init__(self, block: Block, reach: int, dtype: torch.dtype) -> None:
        self.attention, self.reach = block.attention, reach
        self.project = fused_linear(
            [self.attention.query, self.attention.key, self.attention.value], dtype
        )
        self.output = fused_linear([self.attention.output], dtype)
        mlp: Any = block.mlp
        self.gated, self.activation = isinstance(mlp, SwiGLU), mlp.activation
        self.widen = fused_linear([mlp.gate, mlp.up] if self.gated else [mlp.up], dtype)
        self.down = fused_linear([mlp.down], dtype)
        self.attention_norm, self.mlp_norm = (
            row_norm(block.attention_norm),
            row_norm(block.mlp_norm),
        )
        self.query_key_norm: Callable[[Tensor], Tensor] | None = None
        if self.attention.config.qk_norm:
            norms: Any = (self.attention.query_norm, self.attention.key_norm)
            self.query_key_norm = rms_norm(
                torch.stack([norm.weight for norm in norms]).unsqueeze(1)
            )  # (2, 1, d_k)

    def see(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        """Begin with the keys and values (batch, heads, time, d_k) of a text that the model reads."""
        batch, heads, time, d_k = key.shape
        slots = torch.arange(time)[-self.reach :] % self.reach
        self.keys = torch.zeros(batch, heads, self.reach, d_k, device=key.device)
        self.values = torch.zeros_like(self.keys)
        self.keys[:, :, slots] = key[:, :, -self.reach :].float()
        self.values[:, :, slots] = value[:, :, -self.reach :].float()

    def step(self, x: Tensor, rotation: Tensor | None, position: int) -> Tensor:
        """x (batch, n_embd) at `position` to the same shape; rotation (2, d_k)."""
        config, batch = self.attention.config, x.shape[0]
        projected = (
            self.project(self.attention_norm(x)).float().view(batch, 3, config.n_head, config.d_k)
        )
        query_key = projected[:, :2]
        if self.query_key_norm is not None:
            query_key = self.query_key_norm(query_key)
        if rotation is not None:
            query_key = rotate(query_key, rotation)
        query, key = query_key.unbind(1)
        slot, seen = position % self.reach, min(position + 1, self.reach)
        self.keys[:, :, slot] = key
        self.values[:, :, slot] = projected[:, 2]
        keys, values, query = self.keys[:, :, :seen], self.values[:, :, :seen], query.unsqueeze(2)
        if config.attention_score == "dot":
            found = attend_fused(query, keys, values, None, self.attention.scale)
        else:
            found, _ = attend(
                query, keys, values, None, self.attention.scale, config.attention_score
            )
        x = x + self.output(found.reshape(batch, -1))
        hidden = self.widen(self.mlp_norm(x))
        if self.gated:
            gate, up = hidden.chunk(2, dim=-1)
            hidden = self.activation(gate) * up
        else:
            hidden = self.activation(hidden)
        return x + self.down(hidden)


def fused_linear(linears: Sequence[nn.Linear], dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Several linear layers of one input as one function: x (batch, inputs) to their outputs side by side, in `dtype`
    or, of a small matrix, in float32."""
    weight = torch.cat([linear.weight for linear in linears])
    bias = None if linears[0].bias is None else torch.cat([linear.bias for linear in linears])
    on_cpu = weight.device.type == "cpu"
    if on_cpu and weight.numel() < SMALL:
        weight = (
            weight.t().contiguous().t()
        )  # the layout in which one row times a matrix is fastest
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


def int8_linear(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """x @ weightᵀ + bias with weights of 8 bits: each row is whole numbers from -127 to 127 times its own scale."""
    scale = (
        (weight.abs().amax(dim=1) / 127).clamp_min(1e-30).bfloat16()
    )  # the kernel's precision for x and scales
    numbers = (weight / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8)
    if bias is None:
        return lambda x: torch._weight_int8pack_mm(x.bfloat16(), numbers, scale)
    return lambda x: torch._weight_int8pack_mm(x.bfloat16(), numbers, scale) + bias


def row_norm(norm: nn.Module) -> Callable[[Tensor], Tensor]:
    """The norm of a block in few operations, for x (batch, width) float32."""
    if isinstance(norm, RMSNorm):
        return rms_norm(norm.weight)
    if not isinstance(norm, nn.LayerNorm):
        return norm
    shape, weight, bias, epsilon = norm.normalized_shape, norm.weight, norm.bias, norm.eps
    return lambda x: torch.layer_norm(x, shape, weight, bias, epsilon)


def rms_norm(weight: Tensor) -> Callable[[Tensor], Tensor]:
    """RMSNorm over the last dimension, in four operations: torch's own takes six."""
    root = math.sqrt(weight.shape[-1])
    scaled, floor = (
        weight * root,
        torch.tensor(root * math.sqrt(RMSNORM_EPSILON), device=weight.device),
    )
    return lambda x: (
        x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), floor) * scaled
    )


# --- whether the fast bodies compute what model.py's formulas do ----------------------------------------------------

TOLERANCE = 3e-5  # of the largest logit; float32 rounding stays below a tenth of that
TIME, VOCABULARY = 6, 32  # of the small model that is asked


@dataclass(frozen=True)
class Checked:
    """How far the fast bodies are from the formulas, in words; "" where they agree."""

    attention: str
    """attend_fused and attend_linear from attend"""
    step: str
    """Decoder from GPT.forward"""


def checked(model: GPT) -> Checked:
    """Compare them, by a small model of the same options with random weights, on a few tokens.

    An untrained model would hide every difference, since its blocks add nothing; a large one would take seconds, and a GPU
    or bfloat16 would blur small ones. The small one takes milliseconds, once in a process.
    """
    config = model.config
    n_head, d_k = min(config.n_head, 4), min(config.d_k, 8)
    small = replace(
        config, vocab_size=VOCABULARY, block_size=TIME, n_layer=min(config.n_layer, 6), n_head=n_head, n_embd=n_head * d_k,
        mlp_width=min(config.mlp_width, 32), window=min(config.window, 3),
        attention_scale=config.attention_scale if isinstance(config.attention_scale, str) else 0.3,
    )  # fmt: skip
    return _compared(tuple(vars(small).items()), frozenset(map(type, model.modules())))


def attend_as_written(model: GPT) -> None:
    """Have a model attend by `attend` if its fast body computes something else, and say so."""
    if differs := checked(model).attention:
        say_once(
            f"attend in model.py and its fast body differ ({differs}): attending with attend, which is slower"
        )
        model.fuse_attention(False)


def _trusted(model: GPT) -> bool:
    """Whether the fast decoder computes what the model does; that it does not is said."""
    attend_as_written(model)
    if model.config.mask == "causal" and (differs := checked(model).step):
        say_once(
            f"the fast decoder does not compute what model.py's forward does ({differs}): sampling with the plain forward, "
            f"which is slower; kqv/generation/decoder.py repeats Block.forward's formula, see docs/code.md"
        )
        return False
    return True


@functools.cache
@torch.inference_mode()
@torch.autocast("cpu", enabled=False)
def _compared(options: tuple[tuple[str, Any], ...], parts: frozenset[type]) -> Checked:
    """`checked` for a model of these options, made of modules of these classes."""
    attention = ""
    try:
        with torch.random.fork_rng(
            devices=[]
        ):  # the run that asks continues with its own random numbers
            model = GPT(GPTConfig(**dict(options))).eval()
        generator = torch.Generator().manual_seed(0)
        for weight in model.parameters():
            matrix = weight.ndim > 1
            weight.normal_(
                0.0 if matrix else 0.5,
                weight.shape[-1] ** -0.5 if matrix else 0.2,
                generator=generator,
            )
        ids = (5 * torch.arange(2 * TIME) % VOCABULARY).view(2, TIME)
        fused = model(ids)
        model.fuse_attention(False)
        attention = _apart(fused, model(ids))
        model.fuse_attention(not attention)
        if other := parts - set(map(type, model.modules())):
            return Checked(
                attention,
                f"it has a module of another class, {min(each.__name__ for each in other)}",
            )
        if model.config.mask != "causal":
            return Checked(attention, "")
        fast, plain = Decoder(model, fast=True), Decoder(model, fast=False)
        steps = [
            (fast.next_logits(ids[:, :n]), plain.next_logits(ids[:, :n]))
            for n in range(2, TIME + 1)
        ]
        return Checked(attention, _apart(*map(torch.stack, zip(*steps, strict=True))))
    except Exception as error:  # whatever a changed model raises, the plain forward may yet do
        return Checked(attention, f"{type(error).__name__}: {' '.join(str(error).split())[:100]}")


def _apart(found: Tensor, expected: Tensor) -> str:
    """By how much logits differ, in words; "" if by rounding only."""
    largest, apart = float(expected.abs().max()), float((found - expected).abs().max())
    return (
        ""
        if apart <= TOLERANCE * largest
        else f"logits of up to {largest:.3g} differ by {apart:.2g}"
    )
