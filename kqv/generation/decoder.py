"""Decoding with a KV cache: prefill reads the prompt, then each decode step takes one token.

Both run GPT.forward. Prefill runs the model itself, a decode step a copy with faster parts
(kqv/generation/fast_copy.py).
"""

import torch
from torch import Tensor

from kqv.generation.fast_copy import fast_copy, onednn_packs
from kqv.generation.kv_cache import KVCache, SourceCache
from model import GPT


class Decoder:
    """The logits of the next token as a text grows, for several texts of one length at once.

    With an encoder, `read` takes the sources, and each text is a target that begins with U+0002.
    """

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
        self.caches: list[KVCache | SourceCache] = []
        self.length = 0  # tokens that the caches have seen
        self.source: Tensor | None = None
        self.encoded: Tensor | None = None

    def read(self, source: Tensor) -> None:
        """Encode sources (sources, source_time), int64, which end with PADDING where others are
        longer. The texts that follow are new; equally many translate each source, side by side."""
        self.source, self.length = source, 0
        with self.autocast():
            self.encoded = self.model.encode(source).float()

    def select(self, rows: Tensor, sources: Tensor | None = None) -> None:
        """Go on with these texts, int64 (batch,), and with these sources if not with all of them.

        This is how beams are reordered, and how texts that are finished leave.
        """
        for cache in self.caches:
            if isinstance(cache, KVCache):
                cache.select(rows)
            elif sources is not None:
                cache.select(sources)
        if sources is not None and self.source is not None and self.encoded is not None:
            self.source, self.encoded = self.source[sources], self.encoded[sources]

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
        self.caches = self.new_caches() if self.cached else []
        source, encoded, each = self.source, self.encoded, 1
        if source is not None and encoded is not None:
            each = len(ids) // len(source)  # texts that translate one source
            source = source.repeat_interleave(each, dim=0)
            encoded = encoded.repeat_interleave(each, dim=0)
        with self.autocast():
            logits = self.model(ids, self.caches, source=source, encoded=encoded)
        for cache in self.caches:
            if isinstance(cache, SourceCache) and each > 1:
                cache.select(torch.arange(0, len(ids), each, device=ids.device))
        return logits[:, -1].float()

    def decode_step(self, ids: Tensor) -> Tensor:
        """Add one token to each text, ids (batch, 1); logits as next_logits."""
        assert self.step is not None
        logits = self.step(
            ids, self.caches, start=self.length, source=self.source, encoded=self.encoded
        )
        self.length += 1
        return logits.float()

    def new_caches(self) -> list[KVCache | SourceCache]:
        """Empty caches, one per attention in the order of computation."""
        config = self.model.config
        caches: list[KVCache | SourceCache] = []
        for _ in range(config.n_layer):
            caches.append(KVCache(config.reach, grows=config.has_cross_attention))
            if config.has_cross_attention:
                caches.append(SourceCache())
        return caches

    def autocast(self) -> torch.autocast:
        """A context in which the model itself computes in the precision of prefill."""
        short = self.prefill_dtype != torch.float32
        device = self.model.embedding.weight.device.type
        return torch.autocast(device, self.prefill_dtype, enabled=short)
