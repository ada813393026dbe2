"""Where a token stands: sinusoidal positions, added to x; rotary ones, which turn q and k; relative
ones, added to the scores."""

import math
from typing import Any

import torch
from torch import Tensor, nn

Rotation = tuple[Tensor, Tensor]
"""Cosines and signed sines of some positions, each (time, d_k), float32"""


def sinusoids(config: Any) -> Tensor:
    """Fixed sines and cosines of falling frequency (Vaswani et al. 2017, section 3.5).

    Shape (block_size, n_embd), float32.
    """
    position = torch.arange(config.block_size, dtype=torch.float64)[:, None]
    column = torch.arange(config.n_embd)
    angle = position / 10_000 ** ((column - column % 2) / config.n_embd)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).float()


def rotation_table(config: Any, first: int = 0) -> Tensor:
    """Cosines and signed sines of block_size rotary positions from `first` on.

    Shape (2, block_size, d_k), float32. Position t turns the pair (i, i + d_k/2) by the angle
    t · base^(-2i/d_k) (Su et al. 2021, eq. 15, in the half-split order of Hugging Face's models).
    """
    exponents = -torch.arange(0, config.d_k, 2, dtype=torch.float64) / config.d_k
    positions = torch.arange(first, first + config.block_size, dtype=torch.float64)
    angles = torch.outer(positions, config.rope_base**exponents)
    cosine, sine = angles.cos(), angles.sin()
    both = [torch.cat((cosine, cosine), dim=1), torch.cat((-sine, sine), dim=1)]
    return torch.stack(both).float()


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn queries or keys x (..., time, d_k) by the angles of their positions."""
    cosine, sine = rotation
    return torch.addcmul(x * cosine, x.roll(x.shape[-1] // 2, dims=-1), sine)


class Rotary(nn.Module):
    """The rows of the rotation table for some positions.

    The table holds block_size positions. It moves along with a text that grows beyond the block,
    as it may with a KV cache.
    """

    table: Tensor

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config, self.first = config, 0
        self.register_buffer("table", rotation_table(config), persistent=False)

    def forward(self, start: int, time: int) -> Rotation:
        """Cosines and signed sines of the positions start to start + time."""
        if not self.first <= start <= start + time <= self.first + self.config.block_size:
            self.first = start
            self.table = rotation_table(self.config, start).to(self.table.device)
        cosine, sine = self.table.narrow(1, start - self.first, time).unbind()
        return cosine, sine


RELATIVE_BUCKETS = 32  # of T5; half of them for distances that have one of their own
FARTHEST = 128  # a distance of this much or more is in the last bucket


def relative_buckets(distance: Tensor, both_ways: bool) -> Tensor:
    """The bucket of each distance from a query back to a key, int64, of RELATIVE_BUCKETS in all.

    Small distances have a bucket each, larger ones share them on a logarithmic scale, up to
    FARTHEST (Raffel et al. 2020, T5, section 2.1). `both_ways`: half of the buckets are for keys
    that come after the query; otherwise these are all in bucket 0.
    """
    buckets, later = RELATIVE_BUCKETS, torch.zeros_like(distance)
    if both_ways:
        buckets //= 2
        later = (distance < 0) * buckets
        distance = distance.abs()
    else:
        distance = distance.clamp_min(0)
    exact = buckets // 2
    scaled = (distance.clamp_min(1).float() / exact).log() / math.log(FARTHEST / exact)
    shared = exact + (scaled * (buckets - exact)).long()
    return later + torch.where(distance < exact, distance, shared.clamp_max(buckets - 1))


class RelativeBias(nn.Module):
    """A learned number for each head and bucket of distances, which is added to the scores."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.both_ways, self.reach = config.mask != "causal", config.reach
        self.bias = nn.Embedding(RELATIVE_BUCKETS, config.n_head)

    def forward(self, start: int, time: int) -> Tensor:
        """Biases (heads, time, seen) of queries from position `start` on. From 0 on, the keys are
        those of the same tokens. Later queries are one token, and the keys those in a KV cache,
        where position p is in slot p % reach."""
        queries = torch.arange(start, start + time, device=self.bias.weight.device)[:, None]
        seen = min(start + time, self.reach) if start else time
        slots = torch.arange(seen, device=queries.device)
        distance = (queries - slots) % self.reach if start else queries - slots
        return self.bias(relative_buckets(distance, self.both_ways)).permute(2, 0, 1)
