"""The two families that the world runs, GPT-2's and Qwen3's: which one a model is of, and its weights under the names that
others give them.

    family(config)                      "gpt2" or "qwen3"; a UserError names the option that neither has
    places(config, "huggingface")       of which weights of ours each tensor of theirs is made
    to_theirs(weights, places)          our weights under their names
    to_ours(weights, config, "...")     and back

Hugging Face, nanoGPT and llama.cpp (GGUF) compute the same and differ in names, in whether query, key and value are one
matrix, and in which way round a matrix lies.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor

from kqv.errors import UserError
from kqv.exchange import known_logits
from kqv.generation.checks import differences
from model import GPT, GPTConfig

Layout = Literal["huggingface", "nanogpt", "gguf"]

# What the options of a model can be in both families, and in each.
BOTH: dict[str, tuple[Any, ...]] = {
    "position": ("rope", "learned"), "mask": ("causal",), "window": (0,), "attention_score": ("dot",),
    "attention_scale": ("sqrt",),
}  # fmt: skip
FAMILIES: dict[str, dict[str, tuple[Any, ...]]] = {
    "gpt2": {"norm": ("layernorm",), "mlp": ("gelu", "gelu_tanh"), "qk_norm": (False,)},
    "qwen3": {"norm": ("rmsnorm",), "mlp": ("swiglu",), "qk_norm": (True,), "bias": (False,)},
}
# What they have whatever it is. (rope_base means nothing where positions are learned.)
SIZES = (
    "vocab_size",
    "block_size",
    "n_layer",
    "n_head",
    "n_embd",
    "mlp_width",
    "rope_base",
    "bias",
    "tie_weights",
)
IN_TRAINING_ONLY = (
    "dropout",
    "weight_init",
)  # options that change nothing of what a trained model computes
TITLES = {"gpt2": "GPT-2", "qwen3": "Qwen3"}

# Modules of ours, and their names in Hugging Face and in GGUF; nanoGPT's are Hugging Face's. First those around the blocks,
# then those of a block, in the order of their models.
OUTER = {
    "gpt2": [
        ("embedding", "transformer.wte", "token_embd"),
        ("positions", "transformer.wpe", "position_embd"),
        ("norm", "transformer.ln_f", "output_norm"),
        ("head", "lm_head", "output"),
    ],
    "qwen3": [
        ("embedding", "model.embed_tokens", "token_embd"),
        ("norm", "model.norm", "output_norm"),
        ("head", "lm_head", "output"),
    ],
}
INNER = {
    "gpt2": [
        ("attention_norm", "ln_1", "attn_norm"),
        ("attention.query attention.key attention.value", "attn.c_attn", "attn_qkv"),
        ("attention.output", "attn.c_proj", "attn_output"),
        ("mlp_norm", "ln_2", "ffn_norm"),
        ("mlp.up", "mlp.c_fc", "ffn_up"),
        ("mlp.down", "mlp.c_proj", "ffn_down"),
    ],
    "qwen3": [
        ("attention_norm", "input_layernorm", "attn_norm"),
        ("attention.query", "self_attn.q_proj", "attn_q"),
        ("attention.key", "self_attn.k_proj", "attn_k"),
        ("attention.value", "self_attn.v_proj", "attn_v"),
        ("attention.output", "self_attn.o_proj", "attn_output"),
        ("attention.query_norm", "self_attn.q_norm", "attn_q_norm"),
        ("attention.key_norm", "self_attn.k_norm", "attn_k_norm"),
        ("mlp_norm", "post_attention_layernorm", "ffn_norm"),
        ("mlp.gate", "mlp.gate_proj", "ffn_gate"),
        ("mlp.up", "mlp.up_proj", "ffn_up"),
        ("mlp.down", "mlp.down_proj", "ffn_down"),
    ],
}
BLOCKS = {
    ("gpt2", "hf"): "transformer.h",
    ("qwen3", "hf"): "model.layers",
    ("gpt2", "gguf"): "blk",
    ("qwen3", "gguf"): "blk",
}


@dataclass(frozen=True)
class Place:
    """One tensor of theirs: the weights of ours that it is, one below the other."""

    theirs: str
    ours: tuple[str, ...]
    transposed: bool = False  # (inputs, outputs), as in the Conv1D of GPT-2 in Hugging Face


def family(config: GPTConfig) -> str:
    """The family of a model, "gpt2" or "qwen3". Raises UserError naming the first option that it cannot have: one that is not
    known here must be at its default."""
    name = "gpt2" if config.position == "learned" else "qwen3"
    known = BOTH | FAMILIES[name]
    for field in fields(config):
        if (
            field.name not in (*known, *SIZES, *IN_TRAINING_ONLY)
            and getattr(config, field.name) != field.default
        ):
            raise UserError(
                f"a model with {field.name}={getattr(config, field.name)} runs nowhere else: GPT-2 and Qwen3 have no such "
                f"option (if it changes nothing there, name it in kqv/exchange/families.py)"
            )
    for option, possible in known.items():
        if (value := getattr(config, option)) not in possible:
            words = " or ".join(map(str, possible))
            kind = (
                "GPT-2 and Qwen3 have"
                if option in BOTH
                else f"{TITLES[name]}, the nearest family, has"
            )
            raise UserError(
                f"a model with {option}={value} runs nowhere else: {kind} {option}={words}"
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


def nanogpt_only(config: GPTConfig) -> None:
    """Raises UserError naming the first option that nanoGPT does not have."""
    if family(config) != "gpt2":
        raise UserError(
            f"a model with position={config.position} does not run in nanoGPT, which has position=learned"
        )
    if config.hidden != 4 * config.n_embd:
        raise UserError(
            f"a model with mlp_width={config.mlp_width} does not run in nanoGPT, which has 4 n_embd"
        )
    for option, value in (("mlp", "gelu"), ("tie_weights", True)):
        if getattr(config, option) != value:
            raise UserError(
                f"a model with {option}={getattr(config, option)} does not run in nanoGPT: it has {option}={value}"
            )


def places(config: GPTConfig, layout: Layout) -> list[Place]:
    """All weights of a model of a family, in the order of nanoGPT's and Hugging Face's models.

    nanoGPT has GPT-2 models without biases too; elsewhere each has all of them.
    """
    name = family(config)
    column = 2 if layout == "gguf" else 1
    biased = name == "gpt2" and (config.bias or layout != "nanogpt")
    found = []

    def add(ours: str, theirs: str, prefix: str = "", their_prefix: str = "") -> None:
        embedding = ours in ("embedding", "positions", "head")
        for kind in ("weight", "bias") if biased and not embedding else ("weight",):
            parts = tuple(f"{prefix}{part}.{kind}" for part in ours.split())
            conv1d = (
                name == "gpt2" and layout == "huggingface" and kind == "weight" and ".c_" in theirs
            )
            found.append(Place(f"{their_prefix}{theirs}.{kind}", parts, conv1d))

    outer = [
        (row[0], row[column]) for row in OUTER[name] if row[0] != "head" or not config.tie_weights
    ]
    for ours, theirs in outer:
        if ours == "norm":  # the blocks come before it
            for i in range(config.n_layer):
                for row in INNER[name]:
                    before = BLOCKS[name, "gguf" if layout == "gguf" else "hf"]
                    add(row[0], row[column], f"blocks.{i}.", f"{before}.{i}.")
        add(ours, theirs)
    return found


def to_theirs(weights: Mapping[str, Tensor], places: Iterable[Place]) -> dict[str, Tensor]:
    """Our weights (or a moment of each) under their names; zeros for the biases that a model of ours has not."""
    found = {}
    for place in places:
        if place.ours[0] in weights:
            parts = [weights[name] for name in place.ours]
        else:
            parts = [
                torch.zeros(len(weights[name.replace(".bias", ".weight")])) for name in place.ours
            ]
        joined = torch.cat(parts) if len(parts) > 1 else parts[0]
        found[place.theirs] = (joined.T if place.transposed else joined).detach().contiguous()
    return found


def to_ours(weights: Mapping[str, Tensor], config: GPTConfig, layout: Layout) -> dict[str, Tensor]:
    """Their weights under our names, as views. Raises UserError naming one that is not there, or has no place in ours."""
    if config.n_layer > len(
        weights
    ):  # a file can claim any number, and a list of as many takes the memory
        raise UserError(
            f"it has {len(weights)} weights and says that it has {config.n_layer} layers"
        )
    found: dict[str, Tensor] = {}
    left = set(weights)
    for place in places(config, layout):
        if place.theirs not in weights:
            raise UserError(f"it has no weight {place.theirs}")
        left.remove(place.theirs)
        theirs = weights[place.theirs]
        if not isinstance(theirs, Tensor) or not theirs.ndim or theirs.ndim > 2:
            raise UserError(f"its {place.theirs} is no matrix")
        theirs = theirs.T if place.transposed else theirs
        if len(theirs) % len(place.ours):
            raise UserError(f"its {place.theirs} does not divide into {len(place.ours)}")
        found |= dict(
            zip(
                place.ours,
                theirs.chunk(len(place.ours)) if len(place.ours) > 1 else [theirs],
                strict=True,
            )
        )
    if "head.weight" not in found:
        left.discard("lm_head.weight")
        found["head.weight"] = found["embedding.weight"]
    if left:
        raise UserError(f"its weight {min(left)} has no place in a model of ours")
    return found
