"""The model one token at a time: what GPT.forward computes for a whole text, for its next position only.

Keys and values of earlier tokens do not change, so they are kept, in a ring of as many as a query may look back.
One position is little work, so that what counts is how many operations it takes and how many bytes of weights they
read: matrices that read the same input are one here, in the precision asked for, laid out for the processor.

So `Layer.step` repeats the formula of Block.forward. Whoever changes one and not the other is told, and gets what
model.py computes: `checked` compares them.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kqv.progress import say_once
from kqv.generation.fast_copy import fast_copy, _onednn_knows
from kqv.generation.kv_cache import KVCache
from model import GPT, GPTConfig

# A matrix of fewer numbers stays in a CPU's caches: reading it in half the bytes gains less than starting oneDNN costs
# (docs/log.md), so that it is used as it is, in float32.
SMALL = 2**17


class Decoder:
    """The logits of the next token as a text grows."""

    def __init__(
        self,
        model: GPT,
        dtype: torch.dtype = torch.float32,
        slide: bool = False,
        fast: bool | None = None,
    ) -> None:
        """`dtype` is that of the large matrices, a copy of the model's, and of the products with them; all else is
        float32. With int8 the text that is there already is read in bfloat16 where that is fast, else in float32.

        `slide` is for positions that end with the block: read the last block_size tokens anew for each token, as nanoGPT
        does, and not half of them now and then.

        `fast` steps with a KV cache; else the whole model reads the last block_size tokens for each new one. By default it is
        fast if that computes the same; that it does not is said on stderr.
        """
        config = model.config
        self.model, self.block_size = model, config.block_size
        self.reading = dtype
        if dtype == torch.int8:
            self.reading = torch.bfloat16 if _onednn_knows(torch.bfloat16) else torch.float32
        # A key that looks at later characters changes when they come: only the causal mask can be cached.
        self.cacheable = (_trusted(model) if fast is None else fast) and config.mask == "causal"
        # Keys that know no place, or only their distance, can stay for ever. The others count from the block's beginning.
        self.endless = config.position in ("rope", "none")
        self.reach = min(
            config.window or config.block_size, config.block_size
        )  # how far back a query looks
        self.caches: list[KVCache] = []
        if self.cacheable:
            self.step = fast_copy(model, dtype)
        self.kept = (
            config.block_size if slide else max(1, config.block_size // 2)
        )  # tokens that a new block begins with
        self.seen = 0  # tokens in the cache, those that the ring has lost included
    def next_logits(self, ids: Tensor) -> Tensor:
        """Logits (batch, vocab_size), float32, after the whole text ids (batch, time), of which the last block_size are
        enough. Successive calls must extend the same text by one token."""
        if not self.cacheable or self.seen == 0:
            return self._read(ids[:, -self.block_size :])
        if self.seen == self.block_size and not self.endless:  # the block is full: begin a new one
            return self._read(ids[:, -self.kept :])
        return self._step(ids[:, -1])

    def _read(self, ids: Tensor) -> Tensor:
        """The whole model on a text of at most block_size tokens; the cache is filled with it."""
        self.seen = ids.shape[1]
        with torch.autocast(ids.device.type, self.reading, enabled=self.reading != torch.float32):
            self.caches = [KVCache(self.reach) for _ in self.model.blocks]
            logits = self.model(ids, self.caches) if self.cacheable else self.model(ids)
            return logits[:, -1].float()

    def _step(self, ids: Tensor) -> Tensor:
        """One more token of each text, ids (batch,)."""
        logits = self.step(ids[:, None], self.caches, start=self.seen)
        self.seen += 1
        return logits.float()


# --- whether the fast bodies compute what model.py's formulas do ----------------------------------------------------

TOLERANCE = 3e-5  # of the largest logit; float32 rounding stays below a tenth of that
TIME, VOCABULARY = 6, 32  # of the small model that is asked


@dataclass(frozen=True)
class Checked:
    """How far the fast bodies are from the formulas, in words; "" where they agree."""

    attention: str
    """attend_fused and attend_linear from attend"""
    step: str
    """Decoder from GPT.forward"""


def checked(model: GPT) -> Checked:
    """Compare them, by a small model of the same options with random weights, on a few tokens.

    An untrained model would hide every difference, since its blocks add nothing; a large one would take seconds, and a GPU
    or bfloat16 would blur small ones. The small one takes milliseconds, once in a process.
    """
    config = model.config
    n_head, d_k = min(config.n_head, 4), min(config.d_k, 8)
    small = replace(
        config, vocab_size=VOCABULARY, block_size=TIME, n_layer=min(config.n_layer, 6), n_head=n_head, n_embd=n_head * d_k,
        mlp_width=min(config.mlp_width, 32), window=min(config.window, 3),
        attention_scale=config.attention_scale if isinstance(config.attention_scale, str) else 0.3,
    )  # fmt: skip
    return _compared(tuple(vars(small).items()), frozenset(map(type, model.modules())))


def attend_as_written(model: GPT) -> None:
    """Have a model attend by `attend` if its fast body computes something else, and say so."""
    if differs := checked(model).attention:
        say_once(
            f"attend in model.py and its fast body differ ({differs}): attending with attend, which is slower"
        )
        model.fuse_attention(False)


def _trusted(model: GPT) -> bool:
    """Whether the fast decoder computes what the model does; that it does not is said."""
    attend_as_written(model)
    if model.config.mask == "causal" and (differs := checked(model).step):
        say_once(
            f"the fast decoder does not compute what model.py's forward does ({differs}): sampling with the plain forward, "
            f"which is slower; kqv/generation/decoder.py repeats Block.forward's formula, see docs/code.md"
        )
        return False
    return True


@functools.cache
@torch.inference_mode()
@torch.autocast("cpu", enabled=False)
def _compared(options: tuple[tuple[str, Any], ...], parts: frozenset[type]) -> Checked:
    """`checked` for a model of these options, made of modules of these classes."""
    attention = ""
    try:
        with torch.random.fork_rng(
            devices=[]
        ):  # the run that asks continues with its own random numbers
            model = GPT(GPTConfig(**dict(options))).eval()
        generator = torch.Generator().manual_seed(0)
        for weight in model.parameters():
            matrix = weight.ndim > 1
            weight.normal_(
                0.0 if matrix else 0.5,
                weight.shape[-1] ** -0.5 if matrix else 0.2,
                generator=generator,
            )
        ids = (5 * torch.arange(2 * TIME) % VOCABULARY).view(2, TIME)
        fused = model(ids)
        model.fuse_attention(False)
        attention = _apart(fused, model(ids))
        model.fuse_attention(not attention)
        if other := parts - set(map(type, model.modules())):
            return Checked(
                attention,
                f"it has a module of another class, {min(each.__name__ for each in other)}",
            )
        if model.config.mask != "causal":
            return Checked(attention, "")
        fast, plain = Decoder(model, fast=True), Decoder(model, fast=False)
        steps = [
            (fast.next_logits(ids[:, :n]), plain.next_logits(ids[:, :n]))
            for n in range(2, TIME + 1)
        ]
        return Checked(attention, _apart(*map(torch.stack, zip(*steps, strict=True))))
    except Exception as error:  # whatever a changed model raises, the plain forward may yet do
        return Checked(attention, f"{type(error).__name__}: {' '.join(str(error).split())[:100]}")


def _apart(found: Tensor, expected: Tensor) -> str:
    """By how much logits differ, in words; "" if by rounding only."""
    largest, apart = float(expected.abs().max()), float((found - expected).abs().max())
    return (
        ""
        if apart <= TOLERANCE * largest
        else f"logits of up to {largest:.3g} differ by {apart:.2g}"
    )
