"""The two families that the world runs, GPT-2 and Qwen3, and what others call their weights.

    family(config)                      "gpt2" or "qwen3"; a UserError for a model of neither
    places(config, "huggingface")       which weights of ours each tensor of theirs is made of
    to_theirs(weights, places)          our weights under their names
    to_ours(weights, config, "...")     and back

Hugging Face, nanoGPT and llama.cpp (GGUF) compute the same. They differ in names, in whether query,
key and value are one matrix, and in whether a matrix is transposed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from kqv.errors import UserError
from kqv.exchange import known_logits
from kqv.generation.checks import differences
from model import GPT, GPTConfig

Layout = Literal["huggingface", "nanogpt", "gguf"]

# The values that an option of the model can have in both families, and in each.
BOTH: dict[str, tuple[Any, ...]] = {
    "position": ("rope", "learned"),
    "mask": ("causal",),
    "window": (0,),
    "attention_score": ("dot",),
    "attention_scale": ("sqrt",),
}
FAMILIES: dict[str, dict[str, tuple[Any, ...]]] = {
    "gpt2": {"norm": ("layernorm",), "mlp": ("gelu", "gelu_tanh"), "qk_norm": (False,)},
    "qwen3": {"norm": ("rmsnorm",), "mlp": ("swiglu",), "qk_norm": (True,), "bias": (False,)},
}
# Options that both families have with any value. (rope_base means nothing with learned positions.)
SIZES = (
    *("vocab_size", "block_size", "n_layer", "n_head", "n_embd", "mlp_width"),
    *("rope_base", "bias", "tie_weights"),
)
# Options that change nothing of what a trained model computes.
IN_TRAINING_ONLY = ("dropout", "label_smoothing", "weight_init")
TITLES = {"gpt2": "GPT-2", "qwen3": "Qwen3"}


class Name(NamedTuple):
    """A module of ours, and what others call it. nanoGPT's names are Hugging Face's."""

    ours: str
    huggingface: str
    gguf: str


# Modules around the blocks, then those of a block, in the order of their models.
OUTER = {
    "gpt2": [
        Name("embedding", "transformer.wte", "token_embd"),
        Name("positions", "transformer.wpe", "position_embd"),
        Name("norm", "transformer.ln_f", "output_norm"),
        Name("head", "lm_head", "output"),
    ],
    "qwen3": [
        Name("embedding", "model.embed_tokens", "token_embd"),
        Name("norm", "model.norm", "output_norm"),
        Name("head", "lm_head", "output"),
    ],
}
INNER = {
    "gpt2": [
        Name("attention_norm", "ln_1", "attn_norm"),
        Name("attention.query attention.key attention.value", "attn.c_attn", "attn_qkv"),
        Name("attention.output", "attn.c_proj", "attn_output"),
        Name("mlp_norm", "ln_2", "ffn_norm"),
        Name("mlp.up", "mlp.c_fc", "ffn_up"),
        Name("mlp.down", "mlp.c_proj", "ffn_down"),
    ],
    "qwen3": [
        Name("attention_norm", "input_layernorm", "attn_norm"),
        Name("attention.query", "self_attn.q_proj", "attn_q"),
        Name("attention.key", "self_attn.k_proj", "attn_k"),
        Name("attention.value", "self_attn.v_proj", "attn_v"),
        Name("attention.output", "self_attn.o_proj", "attn_output"),
        Name("attention.query_norm", "self_attn.q_norm", "attn_q_norm"),
        Name("attention.key_norm", "self_attn.k_norm", "attn_k_norm"),
        Name("mlp_norm", "post_attention_layernorm", "ffn_norm"),
        Name("mlp.gate", "mlp.gate_proj", "ffn_gate"),
        Name("mlp.up", "mlp.up_proj", "ffn_up"),
        Name("mlp.down", "mlp.down_proj", "ffn_down"),
    ],
}
# What the names of the blocks begin with, in Hugging Face and in GGUF.
BLOCKS = {"gpt2": "transformer.h", "qwen3": "model.layers"}
GGUF_BLOCKS = "blk"


@dataclass(frozen=True)
class Place:
    """One tensor of theirs, and the weights of ours that it is made of, stacked by rows."""

    theirs: str
    ours: tuple[str, ...]
    transposed: bool = False
    """whether theirs is (inputs, outputs), as in the Conv1D of GPT-2 in Hugging Face"""


def family(config: GPTConfig) -> str:
    """The family of a model, "gpt2" or "qwen3".

    Raises UserError naming the first option that the family does not have. An option that is not
    known here must be at its default.
    """
    name = "gpt2" if config.position == "learned" else "qwen3"
    known = BOTH | FAMILIES[name]
    for field in fields(config):
        if field.name in (*known, *SIZES, *IN_TRAINING_ONLY):
            continue
        if (value := getattr(config, field.name)) != field.default:
            raise UserError(
                f"a model with {field.name}={value} runs nowhere else: GPT-2 and Qwen3 have no "
                f"such option (if it changes nothing there, name it in kqv/exchange/families.py)"
            )
    for option, possible in known.items():
        if (value := getattr(config, option)) not in possible:
            words = " or ".join(map(str, possible))
            who = f"{TITLES[name]}, the nearest family, has"
            if option in BOTH:
                who = "GPT-2 and Qwen3 have"
            raise UserError(
                f"a model with {option}={value} runs nowhere else: {who} {option}={words}"
            )
    return name


def check_formula(model: GPT) -> None:
    """Raises UserError if model.py computes something else than the family of a model does."""
    name = family(model.config)
    if differs := differences(model).attention or known_logits.difference(name, model.config):
        raise UserError(
            f"model.py was changed and no longer computes what {TITLES[name]} does ({differs}), "
            f"which is what this format stands for: take --format=onnx or safetensors"
        )


def places(config: GPTConfig, layout: Layout) -> list[Place]:
    """All weights of a model, in the order of nanoGPT's and Hugging Face's models.

    nanoGPT has GPT-2 models without biases, too; elsewhere each has all of them.
    """
    name = family(config)
    found = []
    for row in OUTER[name]:
        if row.ours == "norm":  # the blocks come before it
            for i in range(config.n_layer):
                blocks = GGUF_BLOCKS if layout == "gguf" else BLOCKS[name]
                for inner in INNER[name]:
                    found += _places_of(inner, config, layout, f"blocks.{i}.", f"{blocks}.{i}.")
        if row.ours != "head" or not config.tie_weights:
            found += _places_of(row, config, layout)
    return found


def _places_of(
    row: Name, config: GPTConfig, layout: Layout, prefix: str = "", their_prefix: str = ""
) -> list[Place]:
    """The weight of a module and, if it has one, its bias."""
    gpt2 = family(config) == "gpt2"
    theirs = row.gguf if layout == "gguf" else row.huggingface
    kinds = ["weight"]
    is_embedding = row.ours in ("embedding", "positions", "head")
    if gpt2 and not is_embedding and (config.bias or layout != "nanogpt"):
        kinds.append("bias")
    found = []
    for kind in kinds:
        ours = tuple(f"{prefix}{part}.{kind}" for part in row.ours.split())
        conv1d = gpt2 and layout == "huggingface" and kind == "weight" and ".c_" in theirs
        found.append(Place(f"{their_prefix}{theirs}.{kind}", ours, conv1d))
    return found


def to_theirs(weights: Mapping[str, Tensor], places: Iterable[Place]) -> dict[str, Tensor]:
    """Our weights under their names; zeros for the biases that a model of ours does not have."""
    found = {}
    for place in places:
        if place.ours[0] in weights:
            parts = [weights[name] for name in place.ours]
        else:
            matrices = [weights[name.replace(".bias", ".weight")] for name in place.ours]
            parts = [torch.zeros(len(matrix)) for matrix in matrices]
        joined = torch.cat(parts) if len(parts) > 1 else parts[0]
        found[place.theirs] = (joined.T if place.transposed else joined).detach().contiguous()
    return found


def to_ours(weights: Mapping[str, Tensor], config: GPTConfig, layout: Layout) -> dict[str, Tensor]:
    """Their weights under our names, as views.

    Raises UserError naming a weight that is missing, or has no place in a model of ours.
    """
    if config.n_layer > len(weights):  # a file can claim any number of layers
        raise UserError(
            f"it has {len(weights)} weights and says that it has {config.n_layer} layers"
        )
    found: dict[str, Tensor] = {}
    left = set(weights)
    for place in places(config, layout):
        if place.theirs not in weights:
            raise UserError(f"it has no weight {place.theirs}")
        left.remove(place.theirs)
        found |= _parts(place, weights[place.theirs])
    if "head.weight" not in found:
        left.discard("lm_head.weight")
        found["head.weight"] = found["embedding.weight"]
    if left:
        raise UserError(f"its weight {min(left)} has no place in a model of ours")
    return found


def _parts(place: Place, theirs: Any) -> dict[str, Tensor]:
    """The weights of ours that are in one tensor of theirs. Raises UserError if it has no rows."""
    if not isinstance(theirs, Tensor) or not theirs.ndim or theirs.ndim > 2:
        raise UserError(f"its {place.theirs} is no matrix")
    theirs = theirs.T if place.transposed else theirs
    count = len(place.ours)
    if len(theirs) % count:
        raise UserError(f"its {place.theirs} does not divide into {count}")
    parts = theirs.chunk(count) if count > 1 else [theirs]
    return dict(zip(place.ours, parts, strict=True))
