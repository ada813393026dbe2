"""The configuration of a model: its options and the size of its vocabulary."""

import math
from dataclasses import dataclass, fields, replace

from kqv.options.checks import check_at_least, check_model
from kqv.options.model_options import ModelOptions


@dataclass
class Vocabulary:
    """What the text decides of a model."""

    vocab_size: int
    """different tokens; of an encoder-decoder, of the target"""


RMSNORM_EPSILON, LAYERNORM_EPSILON = 1e-6, 1e-5  # Qwen3's and GPT-2's
GATED_MLPS = ("swiglu", "geglu")  # they have three matrices, the others two


@dataclass
class GPTConfig(ModelOptions, Vocabulary):
    """Everything that decides a model's shape and what it computes: the vocabulary, ModelOptions.

    The defaults are Qwen3's family; `GPT2` below turns them into GPT-2's. docs/code.md says what a
    new option takes.
    """

    source_vocab_size: int = 0
    """different tokens of an encoder-decoder's source; 0: those of the target, and one embedding"""

    def __post_init__(self) -> None:
        """Raises UserError for options that no model can have."""
        check_model(self)
        check_at_least(self, 1, "vocab_size")
        check_at_least(self, 0, "source_vocab_size")
        if self.architecture == "encoder":
            self.mask = "none"

    @classmethod
    def of(cls, options: ModelOptions, vocab_size: int, source_vocab_size: int = 0) -> "GPTConfig":
        """The configuration with these options, which may be those of train.py."""
        chosen = {field.name: getattr(options, field.name) for field in fields(ModelOptions)}
        return cls(vocab_size=vocab_size, source_vocab_size=source_vocab_size, **chosen)

    @property
    def encoder(self) -> "GPTConfig":
        """The encoder of an encoder-decoder."""
        return replace(
            self,
            architecture="encoder",
            n_layer=self.encoder_layers or self.n_layer,
            vocab_size=self.source_vocab_size or self.vocab_size,
            encoder_layers=0,
            source_vocab_size=0,
            mask="none",
        )

    @property
    def has_cross_attention(self) -> bool:
        """Whether the blocks of the decoder attend to an encoder."""
        return self.architecture == "encoder_decoder"

    @property
    def d_k(self) -> int:
        """Width of one head's queries, keys and values."""
        return self.n_embd // self.n_head

    @property
    def epsilon(self) -> float:
        """What the norms of the residual stream add to the variance."""
        usual = RMSNORM_EPSILON if self.norm == "rmsnorm" else LAYERNORM_EPSILON
        return self.norm_epsilon or usual

    @property
    def reach(self) -> int:
        """How many tokens back attention looks, the token itself included."""
        window = 0 if self.global_tokens else self.window
        return min(window or self.block_size, self.block_size)

    @property
    def hidden(self) -> int:
        """Hidden width of an MLP: 4·n_embd; of a gated one 8/3·n_embd, rounded up to a multiple of
        32 (Shazeer 2020)."""
        if self.mlp_width:
            return self.mlp_width
        gated = self.mlp in GATED_MLPS
        return 32 * math.ceil(self.n_embd * 8 / 3 / 32) if gated else 4 * self.n_embd


GPT2 = dict(
    position="learned", norm="layernorm", mlp="gelu", qk_norm=False, tie_weights=True,
    weight_init="gpt2",
)  # fmt: skip
"""What makes a GPTConfig a GPT-2: `GPTConfig(vocab_size=65, bias=True, **GPT2)`. BERT and T5 v1.1,
of which BERT has biases, too:"""
BERT = dict(
    architecture="encoder", position="learned", norm="layernorm", norm_first=False,
    embedding_norm=True, mlp="gelu", qk_norm=False,
)  # fmt: skip
T5 = dict(
    architecture="encoder_decoder", position="relative", mlp="geglu", qk_norm=False,
    attention_scale="none",
)  # fmt: skip
