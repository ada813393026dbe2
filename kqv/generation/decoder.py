"""Decoding with a KV cache: prefill reads the prompt, then each decode step takes one token.

Both run GPT.forward. Prefill runs the model itself, a decode step a copy with faster parts
(kqv/generation/fast_copy.py).
"""

import torch
from torch import Tensor

from kqv.generation.fast_copy import fast_copy, onednn_packs
from kqv.generation.kv_cache import KVCache
from model import GPT


class Decoder:
    """The logits of the next token as a text grows, for several texts of one length at once."""

    def __init__(
        self,
        model: GPT,
        dtype: torch.dtype = torch.float32,
        slide: bool = False,
        cached: bool = True,
    ) -> None:
        """Prepare the model for decoding.

        dtype: precision of the large matrices, which are copied, and of the products with them;
            all else is float32. With int8, prefill is in bfloat16 where that is fast, else float32.
        slide: for positions that end with the block, read the last block_size tokens anew for each
            new one, as nanoGPT does, instead of half of them whenever the block is full.
        cached: use a KV cache, where the mask allows it. Otherwise the model reads the last
            block_size tokens anew for each new one.
        """
        config = model.config
        self.model, self.block_size = model, config.block_size
        self.prefill_dtype = dtype
        if dtype == torch.int8:
            fast_bfloat16 = onednn_packs(torch.bfloat16)
            self.prefill_dtype = torch.bfloat16 if fast_bfloat16 else torch.float32
        # A key that attends to later tokens changes when they come: only causal keys can be cached.
        self.cached = cached and config.mask == "causal"
        # Rotary keys know only distances, so a ring of them can go on for ever. Positions that are
        # added to x count from the beginning of the block and end with it.
        # Global tokens are the first of the block.
        places_end = config.position in ("learned", "sinusoidal") or config.global_tokens
        self.endless = not places_end
        self.kept = config.block_size if slide else max(1, config.block_size // 2)
        self.step = fast_copy(model, dtype) if self.cached else None
        self.caches: list[KVCache] = []
        self.length = 0  # tokens that the caches have seen

    def next_logits(self, ids: Tensor) -> Tensor:
        """Logits (batch, vocab_size), float32, of the token after ids (batch, time), int64.

        Only the last block_size tokens matter. Each call must extend the text of the last by one.
        """
        if self.step is None or self.length == 0:
            return self.prefill(ids[:, -self.block_size :])
        if self.length == self.block_size and not self.endless:  # the block is full: begin anew
            return self.prefill(ids[:, -self.kept :])
        return self.decode_step(ids[:, -1:])

    def prefill(self, ids: Tensor) -> Tensor:
        """Fill the KV caches with ids (batch, time), at most block_size; logits as next_logits."""
        self.length = ids.shape[1]
        self.caches = (
            [KVCache(self.model.config.reach) for _ in self.model.blocks] if self.cached else []
        )
        short = self.prefill_dtype != torch.float32
        with torch.autocast(ids.device.type, self.prefill_dtype, enabled=short):
            return self.model(ids, self.caches)[:, -1].float()

    def decode_step(self, ids: Tensor) -> Tensor:
        """Add one token to each text, ids (batch, 1); logits as next_logits."""
        assert self.step is not None
        logits = self.step(ids, self.caches, start=self.length)
        self.length += 1
        return logits.float()
