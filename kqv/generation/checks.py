"""Do the fast bodies compute what the formulas of model.py do?

A user may change model.py. Then training and explaining attend by `attend`, and decoding runs
without the KV cache, wherever the fast bodies no longer agree with it; one line says so.
"""

import functools
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kqv.efficient import SHORTEST_CHUNK, WORTHWHILE, pays_to_slide
from kqv.generation.decoder import Decoder
from kqv.progress import say_once
from model import GPT, PADDING, GPTConfig

TOLERANCE = 3e-5  # of the largest logit; float32 rounding stays below a tenth of that
TIME, VOCAB_SIZE = 6, 32  # of the small model that is compared
SLIDING = WORTHWHILE * SHORTEST_CHUNK  # its time, if windows are to be attended to chunk by chunk
SOURCE = torch.tensor([[3, 14, 15, PADDING]])  # what it translates, if it does


@dataclass(frozen=True)
class Differences:
    """How far the fast bodies are from the formulas, in words; "" where they agree."""

    attention: str
    """of the fast bodies from attend"""
    decoding: str
    """of Decoder with a KV cache from GPT.forward"""


def differences(model: GPT) -> Differences:
    """Compare the bodies on a small model of the same options, with random weights.

    An untrained model would hide every difference, since its blocks add nothing. A large one would
    take seconds, and a GPU or bfloat16 would blur small differences. This takes milliseconds, once
    per process.
    """
    config = model.config
    n_head, d_k = min(config.n_head, 4), min(config.d_k, 8)
    scale = config.attention_scale if isinstance(config.attention_scale, str) else 0.3
    small = replace(
        config,
        vocab_size=VOCAB_SIZE,
        block_size=SLIDING if pays_to_slide(config, config.block_size) else TIME,
        source_vocab_size=VOCAB_SIZE if config.source_vocab_size else 0,
        n_layer=min(config.n_layer, 6),
        encoder_layers=min(config.encoder_layers, 2),
        n_head=n_head,
        n_embd=n_head * d_k,
        mlp_width=min(config.mlp_width, 32),
        window=min(config.window, 3),
        global_tokens=min(config.global_tokens, 1),
        linformer_rank=min(config.linformer_rank, 3),
        attention_scale=scale,
    )
    return _differences(tuple(vars(small).items()), frozenset(map(type, model.modules())))


def attend_as_written(model: GPT) -> None:
    """Have a model attend by `attend` if the fast body computes something else, and say so."""
    if differs := differences(model).attention:
        say_once(
            f"attend in model.py and its fast body differ ({differs}): attending with attend, "
            f"which is slower"
        )
        model.fuse_attention(False)


def checked_decoder(model: GPT, dtype: torch.dtype, slide: bool) -> Decoder:
    """A Decoder with a KV cache or, if that computes something else, without one; it is said."""
    attend_as_written(model)
    differs = differences(model).decoding
    if differs and model.config.mask == "causal":
        say_once(
            f"decoding with a KV cache does not compute what model.py's forward does ({differs}): "
            f"sampling without the cache, which is slower; see docs/code.md"
        )
    return Decoder(model, dtype, slide, cached=not differs)


def forget() -> None:
    """Compare anew when asked next: model.py has changed, as a test may change it."""
    _differences.cache_clear()


@functools.cache
@torch.inference_mode()
@torch.autocast("cpu", enabled=False)
def _differences(options: tuple[tuple[str, Any], ...], classes: frozenset[type]) -> Differences:
    """`differences` for a model of these options, made of modules of these classes."""
    attention = ""
    try:
        model = random_model(GPTConfig(**dict(options)))
        time = model.config.block_size
        ids = (5 * torch.arange(2 * time) % VOCAB_SIZE).view(2, time)
        source = SOURCE.expand(2, -1) if model.config.has_cross_attention else None
        fused = model(ids, source=source)
        model.fuse_attention(False)
        attention = describe_difference(fused, model(ids, source=source))
        model.fuse_attention(not attention)
        if model.config.architecture == "encoder":  # it does not write token after token
            return Differences(attention, "")
        if others := classes - set(map(type, model.modules())):
            name = min(each.__name__ for each in others)
            return Differences(attention, f"it has a module of another class, {name}")
        return Differences(attention, describe_difference(*decoded(model, ids[:, :TIME])))
    except Exception as error:  # whatever a changed model raises, the plain forward may still work
        words = " ".join(str(error).split())[:100]
        return Differences(attention, f"{type(error).__name__}: {words}")


def random_model(config: GPTConfig) -> GPT:
    """A model with random weights, always the same. The caller's random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        model = GPT(config).eval()
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.normal_(0, weight.shape[-1] ** -0.5, generator=generator)
        else:
            weight.normal_(0.5, 0.2, generator=generator)
    return model


def decoded(model: GPT, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Logits after each prefix of ids (batch, time), with a KV cache and without.

    With an encoder, they all translate SOURCE.
    """
    fast, plain = Decoder(model), Decoder(model, cached=False)
    if model.config.has_cross_attention:
        fast.read(SOURCE)
        plain.read(SOURCE)
    prefixes = [ids[:, :length] for length in range(2, ids.shape[1] + 1)]
    found = torch.stack([fast.next_logits(prefix) for prefix in prefixes])
    return found, torch.stack([plain.next_logits(prefix) for prefix in prefixes])


def describe_difference(found: Tensor, expected: Tensor) -> str:
    """By how much logits differ, in words; "" if by rounding only."""
    largest, apart = float(expected.abs().max()), float((found - expected).abs().max())
    if apart <= TOLERANCE * largest:
        return ""
    return f"logits of up to {largest:.3g} differ by {apart:.2g}"
