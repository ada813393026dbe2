"""Attention whose time and memory grow with the length of a text, not with its square.

    linear      weights in proportion to φ(query) · φ(key): Σ φ(key) valueᵀ serves every query
    performer   the same, with random features φ that estimate softmax attention
    windows     a query and the keys of its sliding window, chunk by chunk
    linformer   keys and values projected to a few mixtures of positions (model.py, `Attention`)

The first two have scores, which model.py's `attend` takes as those of any attention, and a fast
body; windows are a mask there. tests/test_efficient.py compares values and gradients.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kqv.kernels import attend_fused

SMALLEST_SUM = 1e-20  # weights are divided by at least this, never by 0
SHORTEST_CHUNK = 64  # queries that attend to windows at once
WORTHWHILE = 4  # chunks: of a shorter text, a mask over all pairs is as fast


def attend_fast(
    attention: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    attend: Callable[..., tuple[Tensor, Tensor]],
    visible: Callable[[Any, Tensor, Tensor], Tensor],
) -> Tensor:
    """The output of `attend` by the fastest body that computes it; `attend` and `visible` are those
    of model.py.

    query (batch, heads, time, d_k), key and value (batch, heads, seen, d_k); mask as `attend` takes
    it or, if `slides`, the padding only.
    """
    config, scale = attention.config, attention.scale
    score, causal = config.attention_score, attention.causal and mask is not None
    look = functools.partial(attend, scale=scale, score=score, dropout=dropout)
    if slides(attention, query.shape[2]):
        see = functools.partial(visible, config)
        return attend_in_windows(query, key, value, mask, config, look, see)
    if score == "dot":
        return attend_fused(query, key, value, mask, scale, dropout, causal)
    if sums_features(score, query, mask, causal):
        query, key = FEATURES[score](query, key)  # without weights to drop
        return linear_attention(query, key, value, mask, causal)
    return look(query, key, value, mask)[0]


def linear_features(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """φ(x) = elu(x) + 1 of each, always positive (Katharopoulos et al. 2020, eq. 7)."""
    return F.elu(query) + 1, F.elu(key) + 1


def linear_score(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """log(φ(query) · φ(key)) · scale: with scale 1, softmax gives weights in proportion to φ·φ."""
    query, key = linear_features(query, key)
    return (query @ key.mT).clamp_min(SMALLEST_SUM).log() * scale


@functools.cache
def random_directions(d_k: int, count: int, seed: int = 0) -> np.ndarray:
    """Orthogonal random features: `count` directions (count, d_k), float32, each of N(0, 1).

    Directions of one block of d_k are orthogonal to each other, which makes the estimate better
    than that of independent ones (Choromanski et al. 2021, section 2.4). They are a function of
    the seed, in NumPy's frozen generator, so that checkpoints need not hold them.
    """
    random = np.random.RandomState(seed)
    blocks = []
    for _ in range(-(-count // d_k)):
        orthogonal, triangular = np.linalg.qr(random.standard_normal((d_k, d_k)))
        orthogonal *= np.sign(np.diag(triangular))  # uniform over all rotations (Mezzadri 2007)
        lengths = np.linalg.norm(random.standard_normal((d_k, d_k)), axis=1, keepdims=True)
        blocks.append(orthogonal * lengths)
    return np.concatenate(blocks)[:count].astype(np.float32)


def feature_count(d_k: int) -> int:
    """Random features of a head: d_k · ln(d_k), as many as the error bound of Choromanski et al.
    2021 (theorem 4) asks for up to a constant, in whole blocks of d_k."""
    return d_k * max(1, math.ceil(math.log(d_k)))


def log_features(x: Tensor, directions: Tensor) -> Tensor:
    """log φ(x) = ω · x' - |x'|² / 2 with x' = x / d_k^¼, for each direction ω: the mean of
    φ(query) φ(key) over random ω is exp(query · key / √d_k) (Choromanski et al. 2021, lemma 1).

    x (..., d_k), directions (count, d_k), the result (..., count), all float32.
    """
    x = x.float() * x.shape[-1] ** -0.25
    return x @ directions.mT - x.square().sum(-1, keepdim=True) / 2


def log_performer_features(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """log φ of each, (..., time, count), with the directions of this d_k."""
    d_k = query.shape[-1]
    directions = torch.tensor(random_directions(d_k, feature_count(d_k)), device=query.device)
    with torch.autocast(query.device.type, enabled=False):
        return log_features(query, directions), log_features(key, directions)


def performer_features(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """φ of each, up to a factor for each query and one for all keys of a head, which cancel in the
    weights: the largest feature is 1, so that none overflows. A key whose features are e^-40 of
    the largest key's counts as nothing, where `performer_score` would still see it."""
    query, key = log_performer_features(query, key)
    query = query - query.detach().amax(-1, keepdim=True)
    return query.exp(), (key - key.detach().amax((-2, -1), keepdim=True)).exp()


def performer_score(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """log(mean of φ(query) φ(key)) · scale, with random features φ (FAVOR+): with scale 1, an
    estimate of query · key / √d_k (Choromanski et al. 2021, eqs. 5 to 7)."""
    query, key = log_performer_features(query, key)
    largest_q, largest_k = (x.detach().amax(-1, keepdim=True) for x in (query, key))
    similarity = (query - largest_q).exp() @ (key - largest_k).exp().mT / query.shape[-1]
    log_similarity = similarity.clamp_min(SMALLEST_SUM).log() + largest_q + largest_k.mT
    return log_similarity * scale


# Scores that are a product of features: (query, key) to non-negative features of each.
FEATURES = {"linear": linear_features, "performer": performer_features}


def sums_features(score: str, query: Tensor, mask: Tensor | None, causal: bool) -> bool:
    """Whether attention with this score and mask is that of `linear_attention`: all queries see the
    same keys, or `causal` those before them. One query alone, of a decode step, has nothing to
    share."""
    alike = query.shape[2] > 1 and (mask is None or mask.shape[-2] == 1)
    return score in FEATURES and (causal or alike)


def linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    padding: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """Attention with weights in proportion to query · key, in time linear in the length.

    query (batch, heads, time, features) and key (batch, heads, seen, features) have no negative
    number; value is (batch, heads, seen, d_k), the result (batch, heads, time, d_k). padding
    (batch, 1, 1, seen) is False where there is no key. It is query @ Σ keyᵀ value / query @ Σ keyᵀ
    (Katharopoulos et al. 2020, eqs. 4 and 5).
    """
    if causal:
        return causal_linear_attention(query, key, value)
    if padding is not None:
        key = key * padding.mT
    return _ratio(query @ (key.mT @ F.pad(value, (0, 1), value=1.0)))  # a column of ones, for Σ key


def _ratio(found: Tensor) -> Tensor:
    """Sums of weighted values (..., d_k + 1) over the sum of weights, which is the last column."""
    return found[..., :-1] / found[..., -1:].clamp_min(SMALLEST_SUM)


def causal_linear_attention(query: Tensor, key: Tensor, value: Tensor, chunk: int = 64) -> Tensor:
    """Causal attention with weights in proportion to query · key, in time linear in the length.

    query and key (batch, heads, time, features) have no negative number; value is (batch, heads,
    time, d_k), as is the result. Without a softmax, keys and values of the past can be summed
    before the query is known: query @ Σ keyᵀ value / query @ Σ keyᵀ (Katharopoulos et al. 2020,
    eqs. 9 to 12). Sums are taken over whole chunks; within a chunk each pair is computed.
    """
    batch, heads, time, d_k = value.shape
    features = query.shape[-1]
    padding = (0, 0, 0, -time % chunk)  # keys of 0 add nothing, queries of 1 keep the sums above 0
    query = F.pad(query, padding, value=1.0).view(batch, heads, -1, chunk, features)
    key = F.pad(key, padding).view(batch, heads, -1, chunk, features)
    value = F.pad(F.pad(value, (0, 1), value=1.0), padding)  # a column of ones, for Σ keyᵀ
    value = value.view(batch, heads, -1, chunk, d_k + 1)
    summed = (key.mT @ value).float().cumsum(dim=2)  # (batch, heads, chunks, features, d_k + 1)
    past = F.pad(summed[:, :, :-1], (0, 0, 0, 0, 1, 0))
    found = query @ past + (query @ key.mT).tril() @ value
    return _ratio(found).view(batch, heads, -1, d_k)[:, :, :time]


def slides(attention: Any, time: int) -> bool:
    """Whether self-attention over `time` positions goes by `attend_in_windows`. A learned bias of
    each distance, as T5 has, needs a mask over all pairs."""
    return attention.fused and not attention.cross and pays_to_slide(attention.config, time)


def pays_to_slide(config: Any, time: int) -> bool:
    """Whether a text of this length is long enough beside its window."""
    if not config.window or config.position == "relative":
        return False
    return time >= WORTHWHILE * max(config.window, SHORTEST_CHUNK)


def attend_in_windows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    padding: Tensor | None,
    config: Any,
    attend: Callable[..., tuple[Tensor, Tensor]],
    visible: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Attention with a sliding window, and global tokens, in time and memory linear in the length.

    query, key, value (batch, heads, time, d_k), as is the result; padding (batch, 1, 1, time) is
    False where a text has ended. Queries are cut into chunks of at least a window. Each chunk
    attends to the global tokens, itself and the chunks beside it (Beltagy et al. 2020, Longformer,
    section 3.1). attend(query, key, value, mask), which returns the output first, and
    visible(query positions, key positions), the mask, are the formulas of model.py; tensors have
    one more dimension here: (batch, heads, chunks, size, d_k).
    """
    time, both_ways = query.shape[2], config.mask != "causal"
    size, first = max(config.window, SHORTEST_CHUNK), min(config.global_tokens, time)
    see = functools.partial(_seen_by_chunks, size=size, first=first, after=both_ways)

    places = torch.arange(time + -time % size, device=query.device)
    queries = places.view(-1, size)
    keys = see(places.view(1, 1, -1, 1) + 1)[0, 0, :, :, 0] - 1  # -1: before or after the text
    keys[:, first:].masked_fill_(keys[:, first:] < first, -1)  # global tokens are seen once
    if padding is None:
        padding = torch.ones(1, 1, 1, time, dtype=torch.bool, device=query.device)
    themselves = queries[:, :, None] == keys[:, None]  # so that padding, too, has weights
    mask = visible(queries, keys) & (keys >= 0)[:, None] & (see(padding.mT).mT | themselves)

    chunks = F.pad(query, (0, 0, 0, -time % size)).unflatten(2, (-1, size))
    output = attend(chunks, see(key), see(value), mask)[0].flatten(2, 3)[:, :, :time]
    if not (first and both_ways):
        return output
    mask = padding | (places[:first, None] == places[:time])
    mask = visible(places[:first], places[:time]) & mask
    global_output, _ = attend(query[:, :, :first], key, value, mask)
    return torch.cat([global_output, output[:, :, first:]], dim=2)


def _seen_by_chunks(x: Tensor, size: int, first: int, after: bool) -> Tensor:
    """What each chunk of `size` positions sees of x (batch, heads, time, any): the `first` ones,
    the chunk before it, itself and, if `after`, the chunk after it. Zeros stand beyond the text.

    Returns (batch, heads, chunks, seen, any).
    """
    chunks = F.pad(x, (0, 0, 0, -x.shape[2] % size)).unflatten(2, (-1, size))
    beside = F.pad(chunks, (0, 0, 0, 0, 1, 1))
    global_ones = x[:, :, None, :first].expand(-1, -1, chunks.shape[2], -1, -1)
    parts = [global_ones, beside[:, :, :-2], chunks, beside[:, :, 2:]]
    return torch.cat(parts if after else parts[:-1], dim=3)


def mix_positions(x: Tensor, weight: Tensor, padding: Tensor | None) -> Tensor:
    """Keys or values (batch, heads, time, d_k) of a text to `rank` mixtures of them, (batch, heads,
    rank, d_k): weight @ x, with weight (rank, block_size) (Wang et al. 2020, Linformer, eq. 7).

    All heads share the weights. A text that is shorter uses the first columns only. padding
    (batch, 1, 1, time) is False where it has ended.
    """
    if padding is not None:
        x = x * padding.mT
    return weight[:, : x.shape[2]] @ x
