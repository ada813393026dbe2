"""The configuration of a model: its options and the size of its vocabulary."""

import math
from dataclasses import dataclass, fields

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
