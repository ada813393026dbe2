"""The transformer: a decoder-only language model, its attention written for reading and for speed.

    ids ─▶ embedding ─▶ [ x + attention(norm(x)) ─▶ x + mlp(norm(x)) ] × n_layer ─▶ norm ─▶ head ─▶ logits

Notable:
- attention has two bodies that agree: `attend` is the formula of the paper, `attend_fused` one kernel
  (`attend_linear` where the scores allow it);
- each question of a curious reader is an option of `GPTConfig`, looked up in a small table;
- two combinations are families that the world runs: Qwen3's (the default) and GPT-2's;
- projections that write into the residual stream start at zero, so an untrained block changes
  nothing (`weight_init` has GPT-2's formula too).

Shapes: (batch, time, n_embd) along the residual stream, (batch, heads, time, d_k) inside attention.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kqv.options.checks import check_at_least, check_model
from kqv.options.model_options import ModelOptions


@dataclass
class Vocabulary:
    """What the text decides of a model."""

    vocab_size: int


@dataclass
class GPTConfig(ModelOptions, Vocabulary):
    """Everything that decides a model's shape and what it computes: vocab_size, then ModelOptions.

    The defaults are Qwen3's family; `GPT2` below turns them into GPT-2's. docs/code.md says what a
    new option takes.
    """

    def __post_init__(self) -> None:
        """Raises UserError for options that no model can have."""
        check_model(self)
        check_at_least(self, 1, "vocab_size")

    @classmethod
    def of(cls, options: ModelOptions, vocab_size: int) -> "GPTConfig":
        """The configuration with these options, which may be those of train.py."""
        chosen = {field.name: getattr(options, field.name) for field in fields(ModelOptions)}
        return cls(vocab_size=vocab_size, **chosen)

    @property
    def d_k(self) -> int:
        """Width of one head's queries, keys and values."""
        return self.n_embd // self.n_head

    @property
    def hidden(self) -> int:
        """Hidden width of an MLP: 4·n_embd; for SwiGLU 8/3·n_embd, rounded up to a multiple of 32
        (Shazeer 2020)."""
        if self.mlp_width:
            return self.mlp_width
        return 32 * math.ceil(self.n_embd * 8 / 3 / 32) if self.mlp == "swiglu" else 4 * self.n_embd


GPT2 = dict(
    position="learned", norm="layernorm", mlp="gelu", qk_norm=False, tie_weights=True,
    weight_init="gpt2",
)  # fmt: skip
"""What makes a GPTConfig a GPT-2: `GPTConfig(vocab_size=65, bias=True, **GPT2)`."""

RMSNORM_EPSILON = 1e-6  # Qwen3's; LayerNorm keeps torch's 1e-5, which is GPT-2's


class _RMSNorm(torch.autograd.Function):
    """RMSNorm with a derivative of few passes: LayerNorm's kernel with mean 0, less the centring that it adds. Autograd's
    own takes up to twice as long on a CPU (docs/log.md)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        normalized, scale = torch.ops.aten._fused_rms_norm(x, weight.shape, weight, RMSNORM_EPSILON)
        ctx.save_for_backward(x, weight, scale)
        return normalized

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight, scale = ctx.saved_tensors
        by_x, by_weight, _ = torch.ops.aten.native_layer_norm_backward(
            gradient,
            x,
            weight.shape,
            torch.zeros_like(scale),
            scale,
            weight,
            None,
            [True, True, False],
        )
        centring = (gradient @ weight).unsqueeze(-1) * scale / x.shape[-1]
        return by_x.add_(centring), by_weight


class RMSNorm(nn.Module):
    """x / √(mean(x²) + ε) · weight (Zhang & Sennrich 2019), always in float32: more exact than bfloat16, and on a
    CPU no slower (docs/log.md)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., width) of any float type to the same shape in float32."""
        return _RMSNorm.apply(x.float(), self.weight)


NORMS = {
    "rmsnorm": lambda config: RMSNorm(config.n_embd),
    "layernorm": lambda config: nn.LayerNorm(config.n_embd, bias=config.bias),
}

SCALES = {
    "sqrt": lambda d_k: 1 / math.sqrt(d_k),
    "dim": lambda d_k: 1 / d_k,
    "none": lambda d_k: 1.0,
}

SCORES = {
    "dot": lambda query, key, scale: (
        (query * scale) @ key.mT
    ),  # scaling the queries takes less than scaling the scores
    "squared": lambda query, key, scale: (query @ key.mT).square() * scale,
    # The softmax of a logarithm divides by the sum: weights in proportion to φ(q)·φ(k), where the scale is 1.
    "linear": lambda query, key, scale: (
        (feature_map(query) @ feature_map(key).mT).clamp_min(TINY).log() * scale
    ),
}
TINY = 1e-6
FAST = (
    "dot",
    "linear",
)  # the scores that have a fast body besides `attend`: attend_fused, attend_linear

# Whether a query may look at a key that stands `distance` characters before it (negative: after it).
MASKS = {
    "causal": lambda distance: distance >= 0,
    "none": lambda distance: torch.ones_like(distance, dtype=torch.bool),
    "future": lambda distance: distance <= 0,
}


class Observer(Protocol):
    """Who watches one layer at work: what keeps keys and values for later (kqv/generation/decoder.py), what shows them
    (kqv/inside/trace.py)."""

    def see(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        """Those of a whole text, each (batch, heads, time, d_k), normalised and rotated."""
        ...


def drop(x: Tensor, share: float) -> Tensor:
    """Dropout (Srivastava et al. 2014): set a random share of x to 0, and scale the rest up to keep the mean.

    On a CPU torch draws its random numbers one by one, an eighth of a small model's step for each layer; here a word
    of 64 random bits decides over four elements, so that `share` is rounded to 65536ths.
    """
    if not share or x.device.type != "cpu":
        return F.dropout(x, share) if share else x
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    dropped = min(round(share * 2**16), 2**16 - 1)
    kept = words.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - 2**15
    return x * kept.to(x.dtype).mul_(2**16 / (2**16 - dropped))


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    score: str = "dot",
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Attention as it is written: softmax(query @ keyᵀ · scale + mask) @ value (Vaswani et al. 2017, section 3.2.1).

    query (batch, heads, time, d_k); key and value (batch, heads, seen, d_k); mask (time, seen), True where
    the query may look. Returns the output (batch, heads, time, d_k) and the weights (batch, heads, time, seen).
    """
    scores = SCORES[score](query, key, scale)
    if mask is not None:
        scores = scores + torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, -math.inf)
    weights = torch.softmax(scores, dim=-1)
    return drop(weights, dropout) @ value, weights


def attend_fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    dropout: float = 0.0,
    causal: bool = False,
) -> Tensor:
    """The output of `attend` with dot-product scores, from one kernel that never stores the weights.

    `causal` says that the mask is the plain causal one, which kernels know by themselves.
    """
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=None if causal else mask,
        dropout_p=dropout,
        is_causal=causal,
        scale=scale,
    )


def feature_map(x: Tensor) -> Tensor:
    """φ(x) = elu(x) + 1, above 0: the kernel of linear attention (Katharopoulos et al. 2020, eq. 7)."""
    return F.elu(x) + 1


def attend_linear(query: Tensor, key: Tensor, value: Tensor, chunk: int = 64) -> Tensor:
    """The output of `attend` with linear scores and the causal mask, in time that grows with the length, not its square.

    φ(q)·φ(k) needs no softmax, so that keys and values of the past can be summed before the query comes:
    φ(q) @ Σ φ(k)ᵀ v / φ(q) @ Σ φ(k)ᵀ (eqs. 9 to 12 there). That is done for chunks; within one, each pair is looked at.
    """
    batch, heads, time, d_k = query.shape
    missing = -time % chunk  # keys of zeros add nothing, queries of ones keep the sums above 0
    query = F.pad(feature_map(query), (0, 0, 0, missing), value=1.0).view(
        batch, heads, -1, chunk, d_k
    )
    key = F.pad(feature_map(key), (0, 0, 0, missing)).view(batch, heads, -1, chunk, d_k)
    value = F.pad(F.pad(value, (0, 1), value=1.0), (0, 0, 0, missing)).view(
        batch, heads, -1, chunk, d_k + 1
    )  # ones: Σ φ(k)
    summed = (key.mT @ value).float().cumsum(dim=2)  # (batch, heads, chunks, d_k, d_k + 1)
    past = F.pad(summed[:, :, :-1], (0, 0, 0, 0, 1, 0))
    found = query @ past + (query @ key.mT).tril() @ value
    output = found[..., :-1] / found[..., -1:].clamp_min(TINY)
    return output.view(batch, heads, -1, d_k)[:, :, :time]


def rotation_table(config: GPTConfig, first: int = 0) -> Tensor:
    """Cosines and signed sines of block_size rotary positions from `first` on, shape (2, block_size, d_k), float32.

    Position t turns the pair (i, i + d_k/2) by the angle t · base^(-2i/d_k) (Su et al. 2021, eq. 15, in the
    half-split order of the Hugging Face models).
    """
    frequencies = config.rope_base ** (
        -torch.arange(0, config.d_k, 2, dtype=torch.float64) / config.d_k
    )
    angles = torch.outer(
        torch.arange(first, first + config.block_size, dtype=torch.float64), frequencies
    )
    cosine, sine = angles.cos(), angles.sin()
    return torch.stack(
        [torch.cat((cosine, cosine), dim=1), torch.cat((-sine, sine), dim=1)]
    ).float()


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn queries or keys x (batch, heads, time, d_k) by their positions; rotation (2, time, d_k)."""
    cosine, sine = rotation
    return torch.addcmul(x * cosine, x.roll(x.shape[-1] // 2, dims=-1), sine)


def sinusoids(config: GPTConfig) -> Tensor:
    """Fixed positions (block_size, n_embd), float32: sines and cosines of falling frequency (Vaswani et al. 2017, 3.5)."""
    position = torch.arange(config.block_size, dtype=torch.float64)[:, None]
    column = torch.arange(config.n_embd)
    angle = position / 10_000 ** ((column - column % 2) / config.n_embd)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).float()


class Attention(nn.Module):
    """Multi-head self-attention: each character asks (query) which earlier ones (key) to listen to (value)."""

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
        self.fused = config.attention_score in FAST  # see GPT.fuse_attention

    def forward(
        self,
        x: Tensor,
        rotation: Tensor | None,
        mask: Tensor | None,
        causal: bool,
        observer: Observer | None = None,
    ) -> Tensor:
        """x (batch, time, n_embd) to the same shape."""
        batch, time, _ = x.shape

        def heads(
            projected: Tensor,
        ) -> Tensor:  # (batch, time, n_embd) -> (batch, heads, time, d_k)
            return (
                projected.view(batch, time, self.config.n_head, self.config.d_k)
                .transpose(1, 2)
                .contiguous()
            )

        query = self.query_norm(heads(self.query(x)))
        key = self.key_norm(heads(self.key(x)))
        value = heads(self.value(x))
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        if observer is not None:
            observer.see(query, key, value)
        dropout = self.config.dropout if self.training else 0.0
        if self.fused and self.config.attention_score == "dot":
            output = attend_fused(query, key, value, mask, self.scale, dropout, causal)
        elif self.fused and self.config.attention_score == "linear" and causal:
            output = attend_linear(query, key, value)  # there are no weights to drop
        else:
            output, _ = attend(
                query, key, value, mask, self.scale, self.config.attention_score, dropout
            )
        return self.output(output.transpose(1, 2).reshape(batch, time, -1))


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
        return self.down(self.activation(self.gate(x)) * self.up(x))


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "swiglu": F.silu,  # of the gate
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(
        x, approximate="tanh"
    ),  # OpenAI's GPT-2 was trained with this one
    "relu2": lambda x: F.relu(x).square(),  # So et al. 2021
}


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
    """Attention moves information between characters, the MLP works on each; both add to the residual stream."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.attention_norm = NORMS[config.norm](config)
        self.attention = Attention(config)
        self.mlp_norm = NORMS[config.norm](config)
        self.mlp = SwiGLU(config) if config.mlp == "swiglu" else MLP(config)
        self.config = config

    def forward(
        self,
        x: Tensor,
        rotation: Tensor | None,
        mask: Tensor | None,
        causal: bool,
        observer: Observer | None = None,
    ) -> Tensor:
        """x (batch, time, n_embd) to the same shape."""
        dropout = self.config.dropout if self.training else 0.0
        x = x + drop(
            self.attention(self.attention_norm(x), rotation, mask, causal, observer), dropout
        )
        return x + drop(self.mlp(self.mlp_norm(x)), dropout)


def std_zero_residual(config: GPTConfig, name: str, inputs: int) -> float:
    """1/√inputs for matrices, 0.5 for embeddings.

    Zero for what writes into the residual stream (`output`, `down`), so that each block begins as
    the identity, and for the head, which makes the first loss exactly log(vocab_size). A tied head
    cannot be zero, so embeddings have 0.02 then.
    """
    if name in ("embedding", "positions"):
        return 0.02 if config.tie_weights else 0.5
    if name == "head" or name.endswith((".output", ".down")):
        return 0.0
    return inputs**-0.5


def std_gpt2(config: GPTConfig, name: str, inputs: int) -> float:
    """0.02, and 0.02/√(2·n_layer) for what writes into the residual stream, where the outputs of
    2·n_layer layers add up (Radford et al. 2019, section 2.3). nanoGPT's weights start so, too.
    """
    residual = name.endswith((".output", ".down"))
    return 0.02 / math.sqrt(2 * config.n_layer) if residual else 0.02


# Standard deviation of a module's first weights, by its name and its number of inputs.
WEIGHT_INITS = {"zero_residual": std_zero_residual, "gpt2": std_gpt2}


class GPT(nn.Module):
    """Token ids in, logits of the next token out."""

    sinusoids: Tensor
    rotation: Tensor

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        # Keep only the input of each block in training, and compute the block again in the backward pass (Chen et al. 2016,
        # section 3): less memory, a third more work.
        self.activation_checkpointing = False
        self.embedding = nn.Embedding(config.vocab_size, config.n_embd)
        if config.position == "learned":
            self.positions = nn.Embedding(config.block_size, config.n_embd)
        # Tables that can be computed are not part of a checkpoint.
        self.register_buffer(
            "sinusoids",
            sinusoids(config) if config.position == "sinusoidal" else None,
            persistent=False,
        )
        self.register_buffer(
            "rotation",
            rotation_table(config) if config.position == "rope" else None,
            persistent=False,
        )
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = NORMS[config.norm](config)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if config.tie_weights:
            self.head.weight = self.embedding.weight
        self.initialize()

    @torch.no_grad()
    def initialize(self) -> None:
        """Draw each matrix from N(0, std²), std as `weight_init` says. Biases are 0, norms 1."""
        std_of = WEIGHT_INITS[self.config.weight_init]
        for name, module in self.named_modules():
            tied = name == "head" and self.config.tie_weights
            if isinstance(module, nn.Linear | nn.Embedding) and not tied:
                if std := std_of(self.config, name, inputs=module.weight.shape[1]):
                    nn.init.normal_(module.weight, std=std)
                else:
                    nn.init.zeros_(module.weight)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def allowed(self, time: int) -> Tensor | None:
        """Who may look at whom: (time, time) bool, queries by keys, or None where all may see all."""
        config = self.config
        if not config.window and config.mask == "none":
            return None
        place = torch.arange(time, device=self.embedding.weight.device)
        distance = place[:, None] - place
        mask = MASKS[config.mask](distance)
        return mask & (distance.abs() < config.window) if config.window else mask

    def fuse_attention(self, fused: bool) -> None:
        """Choose the body of attention in every block: the fast one, if its scores have one, or `attend`."""
        for module in self.modules():
            if isinstance(module, Attention):
                module.fused = fused and self.config.attention_score in FAST

    def forward(
        self,
        ids: Tensor,
        observers: Sequence[Observer] | None = None,
        targets: Tensor | None = None,
    ) -> Tensor:
        """Logits (batch, time, vocab_size) for the token after each of ids (batch, time), int64; if these tokens are known, as
        `targets` (batch, time), the mean loss instead: a float32 scalar, in nats per token.

        `observers`, one a layer, see its queries, keys and values. time must not exceed block_size.
        """
        config = self.config
        time = ids.shape[1]
        x = self.embedding(ids)
        if config.position == "learned":
            x = x + self.positions.weight[:time]
        elif config.position == "sinusoidal":
            x = x + self.sinusoids[:time]
        x = drop(x, config.dropout if self.training else 0.0)
        rotation = self.rotation[:, :time] if config.position == "rope" else None
        mask = self.allowed(time)
        causal = config.mask == "causal" and not config.window
        for layer, block in enumerate(self.blocks):
            if self.activation_checkpointing and self.training:
                x = checkpoint(block, x, rotation, mask, causal, use_reentrant=False)
            else:
                x = block(x, rotation, mask, causal, observers[layer] if observers else None)
        if targets is None:
            return self.head(self.norm(x))
        if targets.numel() * config.vocab_size <= CHUNK:  # then it is as fast, and easier to follow
            return cross_entropy(self.head(self.norm(x)), targets)
        return linear_cross_entropy(self.norm(x), self.head.weight, targets)

    def parameter_count(self) -> int:
        """How many numbers are trained; a tied head counts once."""
        return sum(parameter.numel() for parameter in self.parameters())


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean loss in nats per token: -log p(target), computed in float32.

    logits (batch, time, vocab_size), targets (batch, time) int64.
    """
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


CHUNK = 2**24  # logits that are held at once; in float32 they take 64 MB


class _LinearCrossEntropy(torch.autograd.Function):
    """The loss and its gradients by the positions in chunks, so that no more than a chunk of logits exists (Hsu et al. 2024,
    arXiv 2410.10989, section 3.2; Wijmans et al. 2024, arXiv 2411.09009). What the backward pass needs of a chunk is
    computed at once, while its logits are there: softmax(logits) less 1 at the target."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        dtype: torch.dtype,
        training: bool,
    ) -> Tensor:
        short, chunk = weight.to(dtype), max(1, CHUNK // len(weight))
        total = torch.zeros((), device=hidden.device)
        by_hidden, by_weight = (
            [],
            torch.zeros_like(weight, dtype=torch.float32) if training else None,
        )
        for part, target in zip(hidden.to(dtype).split(chunk), targets.split(chunk), strict=True):
            logarithms = F.log_softmax(part @ short.mT, dim=-1, dtype=torch.float32)
            total += F.nll_loss(logarithms, target, reduction="sum")
            if by_weight is not None:
                at_target = torch.full_like(target, -1, dtype=torch.float32)[:, None]
                slope = logarithms.exp_().scatter_add_(1, target[:, None], at_target).to(dtype)
                by_hidden.append(slope @ short)
                if dtype == torch.float32:
                    by_weight.addmm_(slope.mT, part)
                else:
                    by_weight += slope.mT @ part
        if by_weight is not None:
            ctx.save_for_backward(torch.cat(by_hidden), by_weight)
        return total / len(targets)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        by_hidden, by_weight = ctx.saved_tensors
        each = gradient / len(
            by_hidden
        )  # only here, in float32: a slope over all tokens is too small for float16
        return by_hidden.float() * each, by_weight * each, None, None, None


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """cross_entropy(hidden @ weightᵀ, targets), the mean, in the memory of a few logits. (torch has a function of this name
    from 2.13 on, which torch.compile cannot see into.)

    hidden (batch, time, n_embd), weight (vocab_size, n_embd), both float32, targets (batch, time) int64. The products are
    made in the precision of autocast.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    with torch.autocast(device, enabled=False):
        return _LinearCrossEntropy.apply(
            hidden.flatten(0, 1), weight, targets.flatten(), dtype, torch.is_grad_enabled()
        )
