"""The transformer: decoder (GPT), encoder (BERT), and both (the 2017 Transformer, T5).

    ids ─▶ embedding ─▶ [ x + attention(norm(x)) ─▶ x + mlp(norm(x)) ] × n_layer ─▶ norm ─▶ head

An encoder is the same without a mask. A decoder with an encoder attends to its output, too:

    source ─▶ encoder ──────────────────┐ keys and values
    ids ─▶ embedding ─▶ [ attention ─▶ cross-attention ─▶ mlp ] × n_layer ─▶ norm ─▶ head

Notable:
- `attend` is the attention of the paper, written out; `attend_fused` and the bodies of
  kqv/efficient.py compute the same faster;
- what a reader may want to vary is an option of `GPTConfig`, looked up in a small table;
- some combinations of options are the families of known models: Qwen3 (the default), GPT-2, BERT,
  T5, the Transformer of 2017 (config/ has each);
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

from kqv import efficient, kernels
from kqv.initialization import initialize
from kqv.kernels import Dropout, RMSNorm, drop
from kqv.options.config import GATED_MLPS, GPTConfig
from kqv.options.config import GPT2 as GPT2  # others import it from here
from kqv.positions import RelativeBias, Rotary, Rotation, rotate, sinusoids

PADDING = -1  # stands for an id beyond the end of a source

NORMS: dict[str, Callable[[GPTConfig], nn.Module]] = {
    "rmsnorm": lambda config: RMSNorm(config.n_embd, config.norm_epsilon),
    "layernorm": lambda config: nn.LayerNorm(config.n_embd, config.epsilon, bias=config.bias),
}


def dot_score(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """query · key · scale (Vaswani et al. 2017, eq. 1). Scaling queries is cheaper than scores."""
    return (query * scale) @ key.mT


def squared_score(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """(query · key)² · scale: a score that cannot be negative."""
    return (query @ key.mT).square() * scale


# (batch, heads, time, d_k) and (batch, heads, seen, d_k) to scores (batch, heads, time, seen).
SCORES = {
    "dot": dot_score,
    "squared": squared_score,
    "linear": efficient.linear_score,
    "performer": efficient.performer_score,
}
HAVE_FAST_BODY = ("dot", "linear", "performer")  # attend_fused or kqv/efficient.py compute these

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


def visible(config: GPTConfig, queries: Tensor, keys: Tensor) -> Tensor:
    """May queries at these positions (..., time) see keys at those (..., seen)? (..., time, seen)
    bool. With a sliding window, all see the global tokens, and these all (Beltagy et al. 2020)."""
    queries, keys = queries[..., :, None], keys[..., None, :]
    mask = MASKS[config.mask](queries - keys)
    if not config.window:
        return mask
    near = (queries - keys).abs() < config.window
    return mask & (near | (queries < config.global_tokens) | (keys < config.global_tokens))


def as_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as numbers to add to scores: -∞ where it is False. One of numbers stays as it is."""
    if mask.is_floating_point():
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, -math.inf)


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

    query (batch, heads, time, d_k), key and value (batch, heads, seen, d_k). mask, of a shape that
    broadcasts to that of the weights, is True where the query may look, or a number to add to the
    score; None lets it look anywhere. Returns the output (batch, heads, time, d_k) and the
    attention weights (batch, heads, time, seen).
    """
    scores = SCORES[score](query, key, scale)
    if mask is not None:
        scores = scores + as_bias(mask, scores.dtype)
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
    """Multi-head attention: each token of x asks (query) which of the source (key) to hear (value).

    The source is x itself in self-attention, and an encoder's output in cross-attention.
    """

    def __init__(self, config: GPTConfig, cross: bool = False) -> None:
        super().__init__()
        self.config, self.cross = config, cross
        self.query = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.key = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.value = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.output = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        epsilon = config.norm_epsilon
        self.query_norm = RMSNorm(config.d_k, epsilon) if config.qk_norm else nn.Identity()
        self.key_norm = RMSNorm(config.d_k, epsilon) if config.qk_norm else nn.Identity()
        if config.linformer_rank and config.architecture == "encoder":
            self.mix_keys = nn.Linear(config.block_size, config.linformer_rank, bias=False)
            self.mix_values = nn.Linear(config.block_size, config.linformer_rank, bias=False)
        scale = "none" if config.attention_score in efficient.FEATURES else config.attention_scale
        self.scale = SCALES[scale](config.d_k) if isinstance(scale, str) else float(scale)
        plain = config.mask == "causal" and not config.window and config.position != "relative"
        self.causal = plain and not cross  # kernels have this mask built in
        self.fused = config.attention_score in HAVE_FAST_BODY  # see GPT.fuse_attention

    def forward(
        self,
        x: Tensor,
        source: Tensor,
        rotation: Rotation | None,
        mask: Tensor | None,
        observer: Observer | None = None,
    ) -> Tensor:
        """x (batch, time, n_embd) to the same shape; source (batch, seen, n_embd)."""
        query, key, value = self.project(x, source, rotation)
        if observer is not None:
            key, value = observer.see(query, key, value)
        if hasattr(self, "mix_keys"):
            key = efficient.mix_positions(key, self.mix_keys.weight, mask)
            value = efficient.mix_positions(value, self.mix_values.weight, mask)
            mask = None
        score, dropout = self.config.attention_score, self.config.dropout if self.training else 0.0
        if self.fused:
            output = efficient.attend_fast(self, query, key, value, mask, dropout, attend, visible)
        else:
            output, _ = attend(query, key, value, mask, self.scale, score, dropout)
        return self.output(output.transpose(1, 2).reshape(x.shape))

    def project(
        self, x: Tensor, source: Tensor, rotation: Rotation | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The query of x (batch, time, n_embd), the key and value of source (batch, seen, n_embd);
        each (batch, heads, time or seen, d_k)."""
        query = self.query_norm(self.heads(self.query(x)))
        key = self.key_norm(self.heads(self.key(source)))
        value = self.heads(self.value(source))
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        return query, key, value

    def heads(self, x: Tensor) -> Tensor:
        """x (batch, time, n_embd) cut into heads: (batch, heads, time, d_k)."""
        heads = x.unflatten(-1, (self.config.n_head, self.config.d_k))
        return heads.transpose(1, 2).contiguous()


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "swiglu": F.silu,  # of the gate
    "geglu": lambda x: F.gelu(x, approximate="tanh"),  # of the gate, as in T5 v1.1
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),  # OpenAI trained GPT-2 with this one
    "relu2": lambda x: F.relu(x).square(),  # So et al. 2021
}


class GatedMLP(nn.Module):
    """down(activation(gate(x)) · up(x)) (Shazeer 2020)."""

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
        self.norm_first = config.norm_first
        self.attention_norm = NORMS[config.norm](config)
        self.attention = Attention(config)
        if config.has_cross_attention:
            self.cross_norm = NORMS[config.norm](config)
            self.cross_attention = Attention(config, cross=True)
        self.mlp_norm = NORMS[config.norm](config)
        self.mlp = GatedMLP(config) if config.mlp in GATED_MLPS else MLP(config)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        rotation: Rotation | None,
        mask: Tensor | None,
        observers: Sequence[Observer | None] = (None, None),
        source: Tensor | None = None,
        source_mask: Tensor | None = None,
    ) -> Tensor:
        """x (batch, time, n_embd) to the same shape. `source` (batch, source_time, n_embd) is the
        encoder's output; the first observer is of self-attention, the second of cross-attention.
        """
        h = self.before(self.attention_norm, x)
        x = self.after(self.attention_norm, x, self.attention(h, h, rotation, mask, observers[0]))
        if source is not None:
            h = self.before(self.cross_norm, x)
            attended = self.cross_attention(h, source, None, source_mask, observers[1])
            x = self.after(self.cross_norm, x, attended)
        return self.after(self.mlp_norm, x, self.mlp(self.before(self.mlp_norm, x)))

    def before(self, norm: nn.Module, x: Tensor) -> Tensor:
        """What a part of the block reads: norm(x), or with post-norm x itself."""
        return norm(x) if self.norm_first else x

    def after(self, norm: nn.Module, x: Tensor, change: Tensor) -> Tensor:
        """x + change (Xiong et al. 2020), or with post-norm norm(x + change) (Vaswani et al. 2017,
        section 3.1)."""
        x = x + self.dropout(change)
        return x if self.norm_first else norm(x)


class Stack(nn.Module):
    """Embedding, blocks, final norm: an encoder, or a decoder without its head."""

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
        self.relative = RelativeBias(config) if config.position == "relative" else None
        self.embedding_norm = NORMS[config.norm](config) if config.embedding_norm else nn.Identity()
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = NORMS[config.norm](config) if config.norm_first else nn.Identity()

    def embed(self, ids: Tensor, start: int) -> Tensor:
        """ids (batch, time) to x (batch, time, n_embd), with positions that are added to x."""
        config, time = self.config, ids.shape[1]
        x = self.embedding(ids)
        if config.scale_embedding:
            x = x * math.sqrt(config.n_embd)
        if config.position == "learned":
            x = x + self.positions.weight[start : start + time]
        elif config.position == "sinusoidal":
            x = x + self.sinusoids[start : start + time]
        return self.dropout(self.embedding_norm(x))

    def allowed(self, time: int, start: int = 0) -> Tensor | None:
        """Which keys each query from position `start` on may see: (time, start + time) bool,
        queries by keys; None means all."""
        if not self.config.window and self.config.mask == "none":
            return None
        places = torch.arange(start + time, device=self.embedding.weight.device)
        return visible(self.config, places[start:], places)

    def mask(self, start: int, time: int, padding: Tensor | None) -> Tensor | None:
        """The mask of self-attention, as `attend` takes it. padding (batch, 1, 1, time), False
        where a text has ended."""
        if start == 0 and efficient.slides(self.blocks[0].attention, time):
            return padding  # `attend_in_windows` makes the rest of the mask
        whole = start == 0 or self.config.global_tokens  # other caches hold only what may be seen
        mask = self.allowed(time, start) if whole else None
        if padding is not None and mask is not None:  # padding sees itself, so that it has weights
            mask = mask & (padding | torch.eye(time, dtype=torch.bool, device=padding.device))
        mask = padding if mask is None else mask
        if self.relative is None:
            return mask
        bias = self.relative(start, time)
        return bias if mask is None else bias + as_bias(mask, bias.dtype)

    def run(
        self,
        ids: Tensor,
        observers: Sequence[Observer] | None = None,
        start: int = 0,
        padding: Tensor | None = None,
        source: Tensor | None = None,
        source_mask: Tensor | None = None,
    ) -> Tensor:
        """ids (batch, time), int64, to hidden states (batch, time, n_embd).

        `observers` are one per attention, in the order of computation.
        """
        time = ids.shape[1]
        x = self.embed(ids, start)
        rotation = self.rotary(start, time) if self.rotary is not None else None
        mask = self.mask(start, time, padding)
        each = 1 if source is None else 2  # attentions of a block
        for layer, block in enumerate(self.blocks):
            seen_by = observers[layer * each : (layer + 1) * each] if observers else (None, None)
            inputs = (x, rotation, mask, seen_by, source, source_mask)
            recompute = self.activation_checkpointing and self.training
            x = checkpoint(block, *inputs, use_reentrant=False) if recompute else block(*inputs)
        return self.norm(x)


class GPT(Stack):
    """Token ids in, logits out: of the next token, or of an encoder, of the tokens themselves."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if config.tie_weights:
            self.head.weight = self.embedding.weight
        if config.has_cross_attention:
            self.encoder = Stack(config.encoder)
            if not config.source_vocab_size:
                self.encoder.embedding = self.embedding
        initialize(self, config)

    def fuse_attention(self, fused: bool) -> None:
        """Attend in every block by the fast body, if the scores have one, or else by `attend`."""
        for module in self.modules():
            if isinstance(module, Attention):
                module.fused = fused and self.config.attention_score in HAVE_FAST_BODY

    def encode(self, source: Tensor, observers: Sequence[Observer] | None = None) -> Tensor:
        """The encoder's output (batch, source_time, n_embd) for source (batch, source_time), int64,
        which ends with PADDING where others are longer."""
        return self.encoder.run(source.clamp_min(0), observers, padding=not_padding(source))

    def forward(
        self,
        ids: Tensor,
        observers: Sequence[Observer] | None = None,
        targets: Tensor | None = None,
        start: int = 0,
        weights: Tensor | None = None,
        source: Tensor | None = None,
        encoded: Tensor | None = None,
    ) -> Tensor:
        """Logits (batch, time, vocab_size) for the token after each of ids (batch, time), int64; of
        an encoder, for the token at each. Given `targets` (batch, time), these tokens, the mean
        loss instead: a float32 scalar in nats per token, weighted by `weights` (batch, time).

        `observers`, one per attention, see its queries, keys and values. `start` is the position of
        ids: above 0 they are one token per text, and observers are KV caches that hold the tokens
        before it. start + time must not exceed block_size, except for rope, relative and none. An
        encoder-decoder translates `source` (batch, source_time), or `encoded`, its `encode`.
        """
        if source is None and encoded is None and self.config.has_cross_attention:
            raise ValueError("an encoder-decoder needs a source, or the encoder's output of one")
        if source is not None and encoded is None:
            encoded = self.encode(source)
        source_mask = None if source is None else not_padding(source)
        hidden = self.run(ids, observers, start, source=encoded, source_mask=source_mask)
        if targets is None:
            return self.head(hidden)
        smoothing = self.config.label_smoothing if self.training else 0.0
        if targets.numel() <= kernels.positions_at_once(self.config.vocab_size, ids.device):
            return kernels.cross_entropy(self.head(hidden), targets, weights, smoothing)
        return kernels.linear_cross_entropy(hidden, self.head.weight, targets, weights, smoothing)

    def parameter_count(self) -> int:
        """Number of trained parameters; a tied head counts once."""
        return sum(parameter.numel() for parameter in self.parameters())


def not_padding(source: Tensor) -> Tensor:
    """Where a source (batch, source_time) has not ended: a mask (batch, 1, 1, source_time)."""
    return (source != PADDING)[:, None, None]
