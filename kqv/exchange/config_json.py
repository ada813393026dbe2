"""The config.json of Hugging Face: `CONFIG_KEYS` maps its keys to GPTConfig and back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

from kqv.errors import UserError
from kqv.exchange.families import family
from kqv.options.config import BERT, GPT2, T5, GPTConfig
from kqv.positions import FARTHEST, RELATIVE_BUCKETS

TOKEN_TYPES = 2  # segments that BERT tells apart; ours have one


@dataclass(frozen=True)
class Field:
    """A key that is a field of GPTConfig."""

    key: str
    ours: str
    default: Any = None
    """what transformers takes where the key is missing; None if it must be there"""
    written: str = ""
    """the attribute of GPTConfig to write, if it is another than `ours`"""
    spelling: Mapping[str, Any] | None = None
    """our value for each of theirs; of several, the first is written"""

    def write(self, config: GPTConfig) -> Any:
        """Their value for a model of ours."""
        value = attrgetter(self.written or self.ours)(config)
        if self.spelling is None:
            return value
        return next(theirs for theirs, ours in self.spelling.items() if ours == value)

    def read(self, options: Mapping[str, Any]) -> Any:
        """Our value. Raises KeyError if it is missing, UserError if ours have no such value."""
        value = options[self.key] if self.default is None else options.get(self.key)
        if value is None:
            value = self.default
        if self.spelling is None:
            return value
        if value not in self.spelling:
            raise _unlike_ours(self.key, value, " or ".join(self.spelling))
        return self.spelling[value]


@dataclass(frozen=True)
class Fixed:
    """A key that has one value in all models of ours, or follows from the other keys."""

    key: str
    value: Any = None
    attribute: str = ""
    """the attribute of GPTConfig that it follows"""
    optional: bool = False
    """whether null means the same"""
    written: bool = True

    def write(self, config: GPTConfig) -> Any:
        """Its value for a model of ours."""
        return getattr(config, self.attribute) if self.attribute else self.value

    def check(self, options: Mapping[str, Any], config: GPTConfig) -> None:
        """Raises UserError if the key is there with another value."""
        if self.key not in options or (self.optional and options[self.key] is None):
            return
        if options[self.key] != (expected := self.write(config)):
            raise _unlike_ours(self.key, options[self.key], expected)


class Note(NamedTuple):
    """A key that is written and not read: it says nothing of what the model computes."""

    key: str
    write: Callable[[GPTConfig], Any]


def _unlike_ours(key: str, value: Any, ours: Any) -> UserError:
    return UserError(f"its {key} is {str(value)[:50]}, and a model of ours has {ours}")


def _dropout(config: GPTConfig) -> float:
    return config.dropout


def _rope(config: GPTConfig) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": config.rope_base}


def _no_token(config: GPTConfig) -> None:
    """No id begins or ends a text; where nothing is said, transformers takes GPT-2's 50256."""


# gelu_new and gelu_pytorch_tanh are the same formula.
GELUS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}

# The keys of config.json by family, in the order in which they are written.
CONFIG_KEYS: dict[str, list[Field | Fixed | Note]] = {
    "gpt2": [
        Note("architectures", lambda _: ["GPT2LMHeadModel"]),
        Note("model_type", lambda _: "gpt2"),
        Field("vocab_size", "vocab_size"),
        Field("tie_word_embeddings", "tie_weights", default=True),
        Note("bos_token_id", _no_token),
        Note("eos_token_id", _no_token),
        Note("dtype", lambda _: "float32"),
        Field("n_positions", "block_size"),
        Field("n_embd", "n_embd"),
        Field("n_layer", "n_layer"),
        Field("n_head", "n_head"),
        Field("n_inner", "mlp_width", default=0, written="hidden"),
        Field("activation_function", "mlp", default="gelu_new", spelling=GELUS),
        Field("layer_norm_epsilon", "norm_epsilon", default=1e-5, written="epsilon"),
        Note("attn_pdrop", _dropout),
        Note("embd_pdrop", _dropout),
        Note("resid_pdrop", _dropout),
        Fixed("scale_attn_weights", True, written=False),
        Fixed("scale_attn_by_inverse_layer_idx", False, written=False),
        Fixed("add_cross_attention", False, written=False),
    ],
    "qwen3": [
        Note("architectures", lambda _: ["Qwen3ForCausalLM"]),
        Note("model_type", lambda _: "qwen3"),
        Field("vocab_size", "vocab_size"),
        Field("tie_word_embeddings", "tie_weights", default=False),
        Note("bos_token_id", _no_token),
        Note("eos_token_id", _no_token),
        Note("dtype", lambda _: "float32"),
        Field("max_position_embeddings", "block_size"),
        Field("hidden_size", "n_embd"),
        Field("num_hidden_layers", "n_layer"),
        Field("num_attention_heads", "n_head"),
        Fixed("num_key_value_heads", attribute="n_head", optional=True),
        Fixed("head_dim", attribute="d_k", optional=True),
        Field("intermediate_size", "mlp_width", written="hidden"),
        Fixed("hidden_act", "silu"),
        Field("rms_norm_eps", "norm_epsilon", default=1e-6, written="epsilon"),
        Fixed("attention_bias", False),
        Note("attention_dropout", _dropout),
        Fixed("use_sliding_window", False),
        Field("rope_theta", "rope_base", default=10_000.0),
        Note("rope_parameters", _rope),
        Fixed("rope_type", "default", written=False),
        Fixed("layer_types", "full_attention", written=False),
    ],
    "bert": [
        Note("architectures", lambda _: ["BertModel"]),
        Note("model_type", lambda _: "bert"),
        Field("vocab_size", "vocab_size"),
        Field("tie_word_embeddings", "tie_weights", default=True),
        Note("dtype", lambda _: "float32"),
        Field("max_position_embeddings", "block_size"),
        Field("hidden_size", "n_embd"),
        Field("num_hidden_layers", "n_layer"),
        Field("num_attention_heads", "n_head"),
        Field("intermediate_size", "mlp_width", written="hidden"),
        Field("hidden_act", "mlp", default="gelu", spelling=GELUS | {"relu": "relu"}),
        Field("layer_norm_eps", "norm_epsilon", default=1e-12, written="epsilon"),
        Note("type_vocab_size", lambda _: TOKEN_TYPES),
        Note("attention_probs_dropout_prob", _dropout),
        Note("hidden_dropout_prob", _dropout),
        Fixed("position_embedding_type", "absolute", written=False),
        Fixed("is_decoder", False, written=False),
        Fixed("add_cross_attention", False, written=False),
    ],
    "t5": [
        Note("architectures", lambda _: ["T5ForConditionalGeneration"]),
        Note("model_type", lambda _: "t5"),
        Note("is_encoder_decoder", lambda _: True),
        Field("vocab_size", "vocab_size"),
        Note("tie_word_embeddings", lambda _: False),
        Fixed("scale_decoder_outputs", False),
        Note("dtype", lambda _: "float32"),
        Field("n_positions", "block_size", default=512),  # of the texts; T5 itself has no limit
        Field("d_model", "n_embd"),
        Field("num_layers", "encoder_layers", written="encoder.n_layer"),
        Field("num_decoder_layers", "n_layer"),
        Field("num_heads", "n_head"),
        Fixed("d_kv", attribute="d_k"),
        Field("d_ff", "mlp_width", written="hidden"),
        Fixed("feed_forward_proj", "gated-gelu"),
        Field("layer_norm_epsilon", "norm_epsilon", default=1e-6, written="epsilon"),
        Fixed("relative_attention_num_buckets", RELATIVE_BUCKETS),
        Fixed("relative_attention_max_distance", FARTHEST),
        Note("dropout_rate", _dropout),
    ],
}

# What our models of a family have that no key says.
IMPLIED: dict[str, dict[str, Any]] = {
    "gpt2": {**GPT2, "bias": True},
    "qwen3": {},
    "bert": {**BERT, "bias": True},
    "t5": T5,
}


def to_config_json(config: GPTConfig) -> dict[str, Any]:
    """The config.json of a model. Raises UserError if it belongs to no family."""
    keys = CONFIG_KEYS[family(config)]
    return {
        key.key: key.write(config)
        for key in keys
        if not (isinstance(key, Fixed) and not key.written)
    }


def from_config_json(options: Mapping[str, Any]) -> GPTConfig:
    """The config of a model with this config.json.

    Raises UserError naming the first key that a model of ours cannot have, and other errors for
    what is no config.json.
    """
    kind = options.get("model_type")
    if kind not in CONFIG_KEYS:
        raise UserError(
            f"its model_type is {str(kind)[:50]}, and kqv knows the shapes of "
            f"{', '.join(CONFIG_KEYS)}"
        )
    options = _flattened(options)
    keys = CONFIG_KEYS[kind]
    fields = {key.ours: key.read(options) for key in keys if isinstance(key, Field)}
    config = GPTConfig(**{**IMPLIED[kind], **fields})
    for key in keys:
        if isinstance(key, Fixed):
            key.check(options, config)
    return config


def _flattened(options: Mapping[str, Any]) -> dict[str, Any]:
    """The same keys without lists and dictionaries, and with those that follow from others.

    RoPE's settings, which older versions of transformers write elsewhere, become rope_type and
    rope_theta; layer_types becomes the first type that is not full attention, if there is one. The
    first T5 scales what its decoder hands to the head, which older versions note by tied weights.
    """
    rope = options.get("rope_parameters") or options.get("rope_scaling") or {}
    theta = rope.get("rope_theta", options.get("rope_theta", 10_000.0))
    other_layers = {*map(str, options.get("layer_types") or ())} - {"full_attention"}
    scaled = options.get("tie_word_embeddings", True)
    return {
        **options,
        "rope_theta": float(theta),
        "rope_type": rope.get("rope_type", rope.get("type", "default")),
        "layer_types": min(other_layers, default="full_attention"),
        "num_decoder_layers": options.get("num_decoder_layers") or options.get("num_layers"),
        "scale_decoder_outputs": options.get("scale_decoder_outputs", scaled),
    }
