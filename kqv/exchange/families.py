"""The families that the world runs, and what others call their weights: GPT-2, Qwen3, BERT, T5.

    family(config)                      "gpt2", "qwen3", "bert" or "t5"; a UserError for no member
    places(config, "huggingface")       which weights of ours each tensor of theirs is made of
    to_theirs(weights, places)          our weights under their names
    to_ours(weights, config, "...")     and back

Hugging Face, nanoGPT and llama.cpp (GGUF) compute the same. They differ in names, in whether query,
key and value are one matrix, and in whether a matrix is transposed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor

from kqv.errors import UserError
from kqv.exchange import known_logits
from kqv.exchange.weight_names import MODULES, Blocks, Name
from kqv.generation.checks import differences
from model import GPT, GPTConfig

Layout = Literal["huggingface", "nanogpt", "gguf"]

# The values that an option of the model can have in every family, and in each.
EVERY: dict[str, tuple[Any, ...]] = {
    "scale_embedding": (False,),
    "attention_score": ("dot",),
    "window": (0,),
}
DECODER: dict[str, tuple[Any, ...]] = {
    "architecture": ("decoder",),
    "mask": ("causal",),
    "norm_first": (True,),
    "embedding_norm": (False,),
    "attention_scale": ("sqrt",),
}
FAMILIES: dict[str, dict[str, tuple[Any, ...]]] = {
    "gpt2": {
        **DECODER,
        "position": ("learned",),
        "norm": ("layernorm",),
        "mlp": ("gelu", "gelu_tanh"),
        "qk_norm": (False,),
    },
    "qwen3": {
        **DECODER,
        "position": ("rope",),
        "norm": ("rmsnorm",),
        "mlp": ("swiglu",),
        "qk_norm": (True,),
        "bias": (False,),
    },
    "bert": {
        "architecture": ("encoder",),
        "mask": ("none",),
        "position": ("learned",),
        "norm": ("layernorm",),
        "norm_first": (False,),
        "embedding_norm": (True,),
        "mlp": ("gelu", "gelu_tanh", "relu"),
        "qk_norm": (False,),
        "attention_scale": ("sqrt",),
    },
    "t5": {
        "architecture": ("encoder_decoder",),
        "mask": ("causal",),
        "position": ("relative",),
        "norm": ("rmsnorm",),
        "norm_first": (True,),
        "embedding_norm": (False,),
        "mlp": ("geglu",),
        "qk_norm": (False,),
        "bias": (False,),
        "attention_scale": ("none",),
        "tie_weights": (False,),
    },
}
# Options that a family has with any value, unless it is listed above. (rope_base means nothing
# without rotary positions.)
SIZES = (
    *("vocab_size", "block_size", "n_layer", "encoder_layers", "n_head", "n_embd", "mlp_width"),
    *("rope_base", "bias", "tie_weights", "norm_epsilon"),
)
# Options that change nothing of what a trained model computes.
IN_TRAINING_ONLY = ("dropout", "label_smoothing", "weight_init")
TITLES = {"gpt2": "GPT-2", "qwen3": "Qwen3", "bert": "BERT", "t5": "T5"}
HAVE_BIASES = ("gpt2", "bert")  # every linear layer and norm, but neither embeddings nor the head
WITHOUT_BIAS = ("embedding", "positions", "head")


@dataclass(frozen=True)
class Place:
    """One tensor of theirs, and the weights of ours that it is made of, stacked by rows."""

    theirs: str
    ours: tuple[str, ...]
    transposed: bool = False
    """whether theirs is (inputs, outputs), as in the Conv1D of GPT-2 in Hugging Face"""


def family(config: GPTConfig) -> str:
    """The family of a model, "gpt2", "qwen3", "bert" or "t5".

    Raises UserError naming the first option that the family does not have. An option that is not
    known here must be at its default.
    """
    name = _nearest(config)
    known = EVERY | FAMILIES[name]
    if (size := config.source_vocab_size) != 0:
        raise UserError(
            f"a model with source_vocab_size={size} (a vocabulary each for source and target) runs "
            f"nowhere else: {TITLES[name]} has one: train without --target_tokenizer"
        )
    for field in fields(config):
        if field.name in (*known, *SIZES, *IN_TRAINING_ONLY):
            continue
        if (value := getattr(config, field.name)) != field.default:
            raise UserError(
                f"a model with {field.name}={value} runs nowhere else: {TITLES[name]}, the nearest "
                f"family, has no such option (if it changes nothing there, name it in "
                f"kqv/exchange/families.py)"
            )
    for option, possible in known.items():
        if (value := getattr(config, option)) not in possible:
            words = " or ".join(map(str, possible))
            raise UserError(
                f"a model with {option}={value} runs nowhere else: {TITLES[name]}, the nearest "
                f"family, has {option}={words}"
            )
    return name


def _nearest(config: GPTConfig) -> str:
    if config.architecture == "encoder":
        return "bert"
    if config.architecture == "encoder_decoder":
        return "t5"
    return "gpt2" if config.position == "learned" else "qwen3"


def decoder_family(config: GPTConfig, program: str) -> str:
    """The family of a model for a program that runs decoders only. Raises UserError."""
    if config.architecture != "decoder":
        raise UserError(
            f"a model with architecture={config.architecture} does not run in {program}: take "
            f"--format=huggingface, onnx or safetensors"
        )
    return family(config)


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
    found = []
    for row in MODULES[family(config)]:
        if isinstance(row, Blocks):
            count = config.encoder.n_layer if row.ours == "encoder.blocks" else config.n_layer
            theirs = row.gguf if layout == "gguf" else row.huggingface
            for i in range(count):
                for inner in row.inside:
                    found += _places_of(inner, config, layout, f"{row.ours}.{i}.", f"{theirs}.{i}.")
        elif row.ours != "head" or not config.tie_weights:
            found += _places_of(row, config, layout)
    return found


def _places_of(
    row: Name, config: GPTConfig, layout: Layout, prefix: str = "", their_prefix: str = ""
) -> list[Place]:
    """The weight of a module and, if it has one, its bias."""
    name = family(config)
    theirs = row.gguf if layout == "gguf" else row.huggingface
    kinds = ["weight"]
    has_bias = name in HAVE_BIASES and row.ours not in WITHOUT_BIAS
    if has_bias and (config.bias or layout != "nanogpt"):
        kinds.append("bias")
    found = []
    for kind in kinds:
        ours = tuple(f"{prefix}{part}.{kind}" for part in row.ours.split())
        conv1d = name == "gpt2" and layout == "huggingface" and kind == "weight" and ".c_" in theirs
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
    layers = config.n_layer + config.encoder_layers
    if layers > len(weights):  # a file can claim any number of layers
        raise UserError(f"it has {len(weights)} weights and says that it has {layers} layers")
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
    if config.has_cross_attention:
        found["encoder.embedding.weight"] = found["embedding.weight"]
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
