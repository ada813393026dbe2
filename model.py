"""The transformer: a decoder-only language model.

    ids ─▶ embedding ─▶ [ x + attention(norm(x)) ─▶ x + mlp(norm(x)) ] × n_layer ─▶ norm ─▶ head

Notable:
- `attend` is the attention of the paper, written out; `attend_fused` and `causal_linear_attention`
  compute the same faster;
- what a reader may want to vary is an option of `GPTConfig`, looked up in a small table;
- two combinations of options are the families of known models: Qwen3 (the default) and GPT-2;
- projections into the residual stream start at zero, so an untrained block is the identity
  (`weight_init` has GPT-2's initialisation, too);
- decoding runs these same classes with a KV cache, on a copy of the model with faster parts
  (kqv/generation/fast_copy.py).

Shapes: (batch, time, n_embd) along the residual stream, (batch, heads, time, d_k) in attention.
"""

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kqv import kernels
from kqv.initialization import initialize
from kqv.kernels import Dropout, attend_fused, causal_linear_attention, drop
from kqv.options.config import GPT2, GPTConfig  # noqa: F401 (other files import both from here)
from kqv.positions import Rotary, Rotation, rotate, sinusoids

RMSNORM_EPSILON = 1e-6  # Qwen3's; LayerNorm keeps torch's 1e-5, which is GPT-2's


class RMSNorm(nn.Module):
    """x / √(mean(x²) + ε) · weight (Zhang & Sennrich 2019).

    Always in float32: more exact than bfloat16, and no slower on a CPU (docs/log.md).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., width) of any float type to the same shape in float32."""
        return kernels.rms_norm(x.float(), self.weight, RMSNORM_EPSILON)


NORMS = {
    "rmsnorm": lambda config: RMSNorm(config.n_embd),
    "layernorm": lambda config: nn.LayerNorm(config.n_embd, bias=config.bias),
}


def dot_score(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """query · key · scale (Vaswani et al. 2017, eq. 1). Scaling queries is cheaper than scores."""
    return (query * scale) @ key.mT


def squared_score(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """(query · key)² · scale: a score that cannot be negative."""
    return (query @ key.mT).square() * scale


def feature_map(x: Tensor) -> Tensor:
    """φ(x) = elu(x) + 1, always positive (Katharopoulos et al. 2020, eq. 7)."""
    return F.elu(x) + 1


def linear_score(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """log(φ(query) · φ(key)) · scale: with scale 1, softmax gives weights in proportion to φ·φ."""
    similarity = feature_map(query) @ feature_map(key).mT
    return similarity.clamp_min(kernels.SMALLEST_SUM).log() * scale


# (batch, heads, time, d_k) and (batch, heads, seen, d_k) to scores (batch, heads, time, seen).
SCORES = {"dot": dot_score, "squared": squared_score, "linear": linear_score}
HAVE_FAST_BODY = ("dot", "linear")  # scores that attend_fused or causal_linear_attention compute

SCALES = {
    "sqrt": lambda d_k: 1 / math.sqrt(d_k),
    "dim": lambda d_k: 1 / d_k,
    "none": lambda d_k: 1.0,
}


def causal_mask(distance: Tensor) -> Tensor:
    """A query sees its own position and those before it."""
    return distance >= 0


def no_mask(distance: Tensor) -> Tensor:
    """A query sees every position, as in an encoder."""
    return torch.ones_like(distance, dtype=torch.bool)


def future_mask(distance: Tensor) -> Tensor:
    """A query sees its own position and those after it: the causal mask, transposed by mistake."""
    return distance <= 0


# May a query see a key that stands `distance` positions before it (negative: after it)?
MASKS = {"causal": causal_mask, "none": no_mask, "future": future_mask}


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    score: str = "dot",
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """softmax(query @ keyᵀ · scale + mask) @ value (Vaswani et al. 2017, section 3.2.1).

    query (batch, heads, time, d_k), key and value (batch, heads, seen, d_k), mask (time, seen),
    True where the query may look, or None. Returns the output (batch, heads, time, d_k) and the
    attention weights (batch, heads, time, seen).
    """
    scores = SCORES[score](query, key, scale)
    if mask is not None:
        scores = scores + torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, -math.inf)
    weights = torch.softmax(scores, dim=-1)
    return drop(weights, dropout) @ value, weights


class Observer(Protocol):
    """Receives a layer's query, key and value: to fill a KV cache, or to display them."""

    def see(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Take those of new tokens, each (batch, heads, time, d_k), normalised and rotated.

        Returns the keys and values to attend over: these, or with earlier ones from a KV cache.
        """
        ...


class Attention(nn.Module):
    """Multi-head self-attention: each token asks (query) which others (key) to hear (value)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.query = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.key = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.value = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.output = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.query_norm = RMSNorm(config.d_k) if config.qk_norm else nn.Identity()
        self.key_norm = RMSNorm(config.d_k) if config.qk_norm else nn.Identity()
        scale = config.attention_scale if config.attention_score != "linear" else "none"
        self.scale = SCALES[scale](config.d_k) if isinstance(scale, str) else float(scale)
        self.causal = (
            config.mask == "causal" and not config.window
        )  # kernels have this mask built in
        self.fused = config.attention_score in HAVE_FAST_BODY  # see GPT.fuse_attention

    def forward(
        self,
        x: Tensor,
        rotation: Rotation | None,
        mask: Tensor | None,
        observer: Observer | None = None,
    ) -> Tensor:
        """x (batch, time, n_embd) to the same shape."""
        query, key, value = self.project(x, rotation)
        if observer is not None:
            key, value = observer.see(query, key, value)
        causal = self.causal and mask is not None
        score, dropout = self.config.attention_score, self.config.dropout if self.training else 0.0
        if self.fused and score == "dot":
            output = attend_fused(query, key, value, mask, self.scale, dropout, causal)
        elif self.fused and score == "linear" and causal:  # it has no weights to drop
            output = causal_linear_attention(feature_map(query), feature_map(key), value)
        else:
            output, _ = attend(query, key, value, mask, self.scale, score, dropout)
        return self.output(output.transpose(1, 2).reshape(x.shape))

    def project(self, x: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of x (batch, time, n_embd), each (batch, heads, time, d_k)."""
        query = self.query_norm(self.heads(self.query(x)))
        key = self.key_norm(self.heads(self.key(x)))
        value = self.heads(self.value(x))
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        return query, key, value

    def heads(self, x: Tensor) -> Tensor:
        """x (batch, time, n_embd) cut into heads: (batch, heads, time, d_k)."""
        batch, time, _ = x.shape
        heads = x.view(batch, time, self.config.n_head, self.config.d_k)
        return heads.transpose(1, 2).contiguous()


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "swiglu": F.silu,  # of the gate
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),  # OpenAI trained GPT-2 with this one
    "relu2": lambda x: F.relu(x).square(),  # So et al. 2021
}


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x)) (Shazeer 2020)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.n_embd, config.hidden, bias=config.bias)
        self.up = nn.Linear(config.n_embd, config.hidden, bias=config.bias)
        self.down = nn.Linear(config.hidden, config.n_embd, bias=config.bias)
        self.activation = ACTIVATIONS[config.mlp]

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, time, n_embd) to the same shape."""
        gate, up = self.project(x)
        return self.down(self.activation(gate) * up)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (batch, time, n_embd) twice at the hidden width: the gate, and what it lets through."""
        return self.gate(x), self.up(x)


class MLP(nn.Module):
    """down(activation(up(x))) (Vaswani et al. 2017, section 3.3)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.mlp]
        self.up = nn.Linear(config.n_embd, config.hidden, bias=config.bias)
        self.down = nn.Linear(config.hidden, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, time, n_embd) to the same shape."""
        return self.down(self.activation(self.up(x)))


class Block(nn.Module):
    """Attention moves information between tokens, the MLP transforms each; both add to x."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.attention_norm = NORMS[config.norm](config)
        self.attention = Attention(config)
        self.mlp_norm = NORMS[config.norm](config)
        self.mlp = SwiGLU(config) if config.mlp == "swiglu" else MLP(config)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        rotation: Rotation | None,
        mask: Tensor | None,
        observer: Observer | None = None,
    ) -> Tensor:
        """x (batch, time, n_embd) to the same shape."""
        attended = self.attention(self.attention_norm(x), rotation, mask, observer)
        x = x + self.dropout(attended)
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class GPT(nn.Module):
    """Token ids in, logits of the next token out."""

    sinusoids: Tensor

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        # Store only each block's input in training and recompute the block in the backward pass
        # (Chen et al. 2016, section 3): less memory, a third more work.
        self.activation_checkpointing = False
        self.embedding = nn.Embedding(config.vocab_size, config.n_embd)
        if config.position == "learned":
            self.positions = nn.Embedding(config.block_size, config.n_embd)
        if config.position == "sinusoidal":  # computed, so not part of a checkpoint
            self.register_buffer("sinusoids", sinusoids(config), persistent=False)
        self.rotary = Rotary(config) if config.position == "rope" else None
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = NORMS[config.norm](config)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if config.tie_weights:
            self.head.weight = self.embedding.weight
        initialize(self, config)

    def fuse_attention(self, fused: bool) -> None:
        """Attend in every block by the fast body, if the scores have one, or else by `attend`."""
        for module in self.modules():
            if isinstance(module, Attention):
                module.fused = fused and self.config.attention_score in HAVE_FAST_BODY

    def allowed(self, time: int) -> Tensor | None:
        """Which keys each query may see: (time, time) bool, queries by keys; None means all."""
        config = self.config
        if not config.window and config.mask == "none":
            return None
        place = torch.arange(time, device=self.embedding.weight.device)
        distance = place[:, None] - place
        mask = MASKS[config.mask](distance)
        return mask & (distance.abs() < config.window) if config.window else mask

    def embed(self, ids: Tensor, start: int) -> Tensor:
        """ids (batch, time) to x (batch, time, n_embd), with positions that are added to x."""
        time = ids.shape[1]
        x = self.embedding(ids)
        if self.config.position == "learned":
            x = x + self.positions.weight[start : start + time]
        elif self.config.position == "sinusoidal":
            x = x + self.sinusoids[start : start + time]
        return self.dropout(x)

    def forward(
        self,
        ids: Tensor,
        observers: Sequence[Observer] | None = None,
        targets: Tensor | None = None,
        start: int = 0,
    ) -> Tensor:
        """Logits (batch, time, vocab_size) for the token after each of ids (batch, time), int64.

        Given `targets` (batch, time), these next tokens, the mean loss instead: a float32 scalar in
        nats per token. `observers`, one per layer, see its queries, keys and values. `start` is the
        position of ids: above 0 they are one token per text, and observers are KV caches that hold
        the tokens before it. start + time must not exceed block_size, except for rope and none.
        """
        config, time = self.config, ids.shape[1]
        x = self.embed(ids, start)
        rotation = self.rotary(start, time) if self.rotary is not None else None
        mask = self.allowed(time) if start == 0 else None  # a cache holds only what may be seen
        for layer, block in enumerate(self.blocks):
            if self.activation_checkpointing and self.training:
                x = checkpoint(block, x, rotation, mask, use_reentrant=False)
            else:
                x = block(x, rotation, mask, observers[layer] if observers else None)
        if targets is None:
            return self.head(self.norm(x))
        if targets.numel() * config.vocab_size <= kernels.LOGITS_AT_ONCE:  # simpler, and as fast
            return kernels.cross_entropy(self.head(self.norm(x)), targets)
        return kernels.linear_cross_entropy(self.norm(x), self.head.weight, targets)

    def parameter_count(self) -> int:
        """Number of trained parameters; a tied head counts once."""
        return sum(parameter.numel() for parameter in self.parameters())
