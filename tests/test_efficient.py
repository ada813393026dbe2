"""What a user can rely on of efficient attention: each kind computes what its definition says, and
is trained, sampled and refused like any other."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from helpers.models import random_ids, randomised
from torch import Tensor

from kqv.efficient import (
    FEATURES,
    SHORTEST_CHUNK,
    WORTHWHILE,
    attend_in_windows,
    feature_count,
    linear_attention,
    log_features,
    mix_positions,
    pays_to_slide,
    performer_score,
    random_directions,
    slides,
)
from kqv.generation.checks import Differences, differences, forget
from kqv.generation.decoder import Decoder
from model import GPT, MASKS, GPTConfig, attend, visible

CHUNKED = WORTHWHILE * SHORTEST_CHUNK  # the shortest text whose windows are chunks


def qkv(time: int, seen: int = 0, d_k: int = 8) -> list[Tensor]:
    """A random query (2, 3, time, d_k), key and value (2, 3, seen or time, d_k)."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, 3, length, d_k, generator=generator).requires_grad_()
        for length in (time, seen or time, seen or time)
    ]


def padding_of(*lengths: int) -> Tensor:
    """Padding of texts of these lengths: (batch, 1, 1, longest)."""
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])[:, None, None]


def assert_same(one: Tensor, other: Tensor, inputs: list[Tensor], of: Any = ...) -> None:
    """Two outputs have the same values, and the same gradients."""
    torch.testing.assert_close(one[of], other[of], atol=1e-5, rtol=0)
    signal = torch.randn(one.shape, generator=torch.Generator().manual_seed(1))[of]
    gradients = [torch.autograd.grad(each[of], inputs, signal) for each in (one, other)]
    for ours, theirs in zip(*gradients, strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


# --- linear attention and Performer


@pytest.mark.parametrize("score", FEATURES)
@pytest.mark.parametrize("time", [1, 64, 65, 200])
def test_a_decoder_sums_features_to_what_all_pairs_give(score: str, time: int) -> None:
    query, key, value = qkv(time)
    mask = torch.ones(time, time, dtype=torch.bool).tril()
    written, _ = attend(query, key, value, mask, scale=1.0, score=score)
    summed = linear_attention(*FEATURES[score](query, key), value, causal=True)
    assert_same(written, summed, [query, key, value])


@pytest.mark.parametrize("score", FEATURES)
@pytest.mark.parametrize(("time", "lengths"), [(65, None), (65, (65, 40)), (9, (70, 3))])
def test_an_encoder_sums_features_to_what_all_pairs_give(
    score: str, time: int, lengths: tuple[int, ...] | None
) -> None:
    query, key, value = qkv(time, max(lengths or [0]))
    padding = padding_of(*lengths) if lengths else None
    written, _ = attend(query, key, value, padding, scale=1.0, score=score)
    summed = linear_attention(*FEATURES[score](query, key), value, padding)
    assert_same(written, summed, [query, key, value])


def test_random_features_estimate_the_exponential_of_a_score_without_bias() -> None:
    """The mean over 300 draws is that of the definition, to four of its standard errors."""
    d_k = 8
    query, key = 0.3 * torch.randn(2, 5, d_k, generator=torch.Generator().manual_seed(0))
    exact = (query @ key.mT / math.sqrt(d_k)).exp()
    draws = []
    for seed in range(300):
        directions = torch.tensor(random_directions(d_k, feature_count(d_k), seed))
        features = [log_features(x, directions).exp() for x in (query, key)]
        draws.append(features[0] @ features[1].mT / len(directions))
    estimate = torch.stack(draws)
    error = estimate.std(0) / math.sqrt(len(draws))
    assert ((estimate.mean(0) - exact).abs() < 4 * error).all() and (error < 0.1 * exact).all()


def test_with_more_features_a_performer_comes_nearer_to_softmax_attention(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    query, key, value = qkv(30)
    query, key = query / 2, key / 2
    exact, _ = attend(query, key, value, None, scale=1 / math.sqrt(8))
    errors = []
    for count in (16, 256, 4096):
        monkeypatch.setattr("kqv.efficient.feature_count", lambda d_k, count=count: count)
        output, weights = attend(query, key, value, None, scale=1.0, score="performer")
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 30))
        errors.append(float((output - exact).detach().square().mean().sqrt()))
    assert errors[0] > 2 * errors[1] > 4 * errors[2] and errors[2] < 0.01


def test_random_directions_are_orthogonal_normal_and_the_same_everywhere() -> None:
    directions = random_directions(16, 48)
    for block in directions.reshape(3, 16, 16):
        products = block @ block.T
        assert abs(products - products * torch.eye(16).numpy()).max() < 1e-4
    many = random_directions(4, 8_000)
    assert abs(many.mean()) < 0.03 and abs(many.std() - 1) < 0.03
    # Checkpoints do not hold them: another version of NumPy must draw the same.
    assert random_directions(2, 2).round(4).tolist() == [
        [pytest.approx(1.8431), pytest.approx(-1.0226)],
        [pytest.approx(0.4668), pytest.approx(0.8413)],
    ]


@pytest.mark.parametrize("size", [1e-4, 30.0, 1e4])
def test_random_features_of_any_size_give_finite_weights(size: float) -> None:
    query, key, value = (size * x for x in qkv(70))
    for causal in (False, True):
        output = linear_attention(*FEATURES["performer"](query, key), value / size, causal=causal)
        assert output.isfinite().all() and output.abs().max() < 10
    assert performer_score(query, key, 1.0).isfinite().all()


# --- sliding windows and global tokens


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("global_tokens", [0, 1, 5, 70, 290])
@pytest.mark.parametrize(("time", "window"), [(256, 1), (300, 30), (450, 64), (500, 100)])
def test_windows_in_chunks_are_those_of_the_mask(
    mask: str, global_tokens: int, time: int, window: int
) -> None:
    config = GPTConfig(
        vocab_size=7, block_size=512, mask=mask, window=window, global_tokens=global_tokens
    )
    query, key, value = inputs = qkv(time, d_k=4)
    places, look = torch.arange(time), partial(attend, scale=0.5)
    lengths = [time, 1 if mask == "none" else time]  # only encoders have padding
    padding = padding_of(*lengths) if mask == "none" else None
    allowed = visible(config, places, places)
    if padding is not None:
        allowed = allowed & (padding | torch.eye(time, dtype=torch.bool))
    written, _ = look(query, key, value, allowed)
    chunked = attend_in_windows(query, key, value, padding, config, look, partial(visible, config))
    assert_same(written, chunked, inputs)


@pytest.mark.parametrize("architecture", ["decoder", "encoder"])
@pytest.mark.parametrize("score", ["dot", "performer"])
def test_a_model_in_chunks_is_the_model_with_a_mask(architecture: str, score: str) -> None:
    config = GPTConfig(
        vocab_size=11, block_size=CHUNKED, n_layer=2, n_head=2, n_embd=16, window=20,
        global_tokens=3, architecture=architecture, attention_score=score,
    )  # fmt: skip
    model, ids = randomised(config), random_ids(config)
    assert slides(model.blocks[0].attention, CHUNKED)
    with torch.no_grad():
        chunked = model(ids)
        model.fuse_attention(False)
        assert not slides(model.blocks[0].attention, CHUNKED)
        torch.testing.assert_close(model(ids), chunked, atol=1e-5, rtol=0)


def test_a_window_in_chunks_makes_no_mask_over_all_pairs() -> None:
    """A text of 40,000 characters would need distances of 13 GB."""
    config = GPTConfig(
        vocab_size=11, block_size=40_000, n_layer=1, n_head=1, n_embd=4, window=8, global_tokens=2
    )
    with torch.inference_mode():
        assert GPT(config)(torch.zeros(1, 40_000, dtype=torch.int64)).isfinite().all()


def test_global_tokens_are_seen_by_all_and_see_all_in_an_encoder() -> None:
    config = GPTConfig(vocab_size=7, block_size=9, mask="none", window=2, global_tokens=2)
    places = torch.arange(9)
    seen = visible(config, places, places)
    assert seen[:2].all() and seen[:, :2].all()
    for query in range(2, 9):
        expected = [*range(2), *range(max(2, query - 1), min(9, query + 2))]
        assert seen[query].nonzero().flatten().tolist() == expected


def test_a_check_finds_a_window_that_was_changed_in_model_py_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every second key only, as far as a window of twice the width: chunks do not reach that."""

    def dilated(config: GPTConfig, queries: Tensor, keys: Tensor) -> Tensor:
        distance = queries[..., :, None] - keys[..., None, :]
        return (distance >= 0) & (distance % 50 == 0)

    config = GPTConfig(vocab_size=7, block_size=4 * CHUNKED, window=4)
    forget()
    assert pays_to_slide(config, config.block_size) and differences(GPT(config)) == Differences(
        "", ""
    )
    monkeypatch.setattr("model.visible", dilated)
    forget()
    assert "differ by" in differences(GPT(config)).attention
    forget()


@torch.inference_mode()
@pytest.mark.parametrize("position", ["rope", "learned", "relative"])
@pytest.mark.parametrize("prompt", [1, 6, 12])
def test_decoding_goes_on_seeing_the_global_tokens(position: str, prompt: int) -> None:
    config = GPTConfig(
        vocab_size=11, block_size=12, n_layer=3, n_head=2, n_embd=16, position=position, window=3,
        global_tokens=2,
    )  # fmt: skip
    model, ids = randomised(config), random_ids(config, time=40)
    decoder = Decoder(model)
    assert decoder.cached
    for length in range(prompt, 41):
        logits = decoder.next_logits(ids[:, :length])
        least = 6 if length > 12 else length  # of a full block, half is read anew
        assert any(
            torch.allclose(logits, model(ids[:, length - seen : length])[:, -1], atol=1e-5, rtol=0)
            for seen in range(least, min(length, 12) + 1)
        )


# --- Linformer


@pytest.mark.parametrize("lengths", [(9, 9), (9, 4)])
def test_linformer_attends_to_mixtures_of_keys_and_values(lengths: tuple[int, ...]) -> None:
    """(E k)ⱼ is the sum of E[j, t] kₜ over the text, with loops."""
    _, key, _ = qkv(9)
    weight = torch.randn(5, 12, generator=torch.Generator().manual_seed(2))
    mixed = mix_positions(key, weight, padding_of(*lengths))
    for text, length in enumerate(lengths):
        for j in range(5):
            expected = sum(float(weight[j, t]) * key[text, 1, t] for t in range(length))
            torch.testing.assert_close(mixed[text, 1, j], expected, atol=1e-5, rtol=0)


def test_a_linformer_of_full_rank_whose_mixtures_are_single_positions_is_a_transformer() -> None:
    shape: dict[str, Any] = dict(
        vocab_size=11, block_size=16, n_layer=2, n_head=2, n_embd=16, architecture="encoder"
    )
    plain = randomised(GPTConfig(**shape))
    model = GPT(GPTConfig(**shape, linformer_rank=16)).eval()
    with torch.no_grad():
        missing, _ = model.load_state_dict(plain.state_dict(), strict=False)
        for name in missing:
            model.get_parameter(name).copy_(torch.eye(16))
        ids = random_ids(plain.config)
        torch.testing.assert_close(model(ids), plain(ids), atol=1e-5, rtol=0)
    assert len(missing) == 4 and all("mix_" in name for name in missing)


@pytest.mark.parametrize(
    "options",
    [{"linformer_rank": 4}, {"attention_score": "performer"}, {"window": 3, "global_tokens": 1}],
)
def test_padding_of_a_source_changes_nothing(options: dict[str, Any]) -> None:
    config = GPTConfig(
        vocab_size=11, block_size=16, n_layer=2, n_head=2, n_embd=16,
        architecture="encoder_decoder", **options,
    )  # fmt: skip
    model = randomised(config)
    source, ids = random_ids(config, time=6), random_ids(config, time=5)
    padded = torch.nn.functional.pad(source, (0, 9), value=-1)
    with torch.no_grad():
        for fused in (True, False):
            model.fuse_attention(fused)
            expected = model(ids, source=source)
            torch.testing.assert_close(model(ids, source=padded), expected, atol=1e-5, rtol=0)


# --- what is refused


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"global_tokens": 2}, ("global_tokens=2", "--window=64")),
        ({"global_tokens": 64, "window": 8}, ("global_tokens=64", "below 64")),
        ({"global_tokens": -1, "window": 8}, ("global_tokens=-1",)),
        ({"linformer_rank": 8}, ("linformer_rank=8", "--architecture=encoder")),
        ({"linformer_rank": 65, "architecture": "encoder"}, ("linformer_rank=65", "64")),
        ({"linformer_rank": 8, "architecture": "encoder", "window": 8}, ("window=8",)),
        (
            {"linformer_rank": 8, "architecture": "encoder", "position": "relative"},
            ("position=relative",),
        ),
        ({"attention_score": "performer", "n_embd": 2**20, "n_head": 1}, ("performer", "1,024")),
    ],
)
def test_what_no_model_can_have_is_refused_by_name(
    options: dict[str, Any], words: tuple[str, ...], refused: Any
) -> None:
    with refused(*words):
        GPTConfig(vocab_size=7, **options)
