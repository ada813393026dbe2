"""What a user can rely on of decoding: the KV cache changes nothing but the time it takes."""

import math

import pytest
import torch
from helpers.generation import POSITIONS, VOCABULARY, model_with, some_ids

from kqv.generation.decoder import Decoder
from kqv.generation.sampling import generate
from kqv.options.settings import SampleSettings
from model import GPT2


@torch.inference_mode()
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("window", [0, 5])
@pytest.mark.parametrize("prompt", [1, 5, 12])
def test_the_cache_changes_nothing_while_the_text_fits(
    position: str, window: int, prompt: int
) -> None:
    model, ids = model_with(position=position, window=window), some_ids(12)
    decoder = Decoder(model)
    for length in range(prompt, 13):
        torch.testing.assert_close(
            decoder.next_logits(ids[:, :length]), model(ids[:, :length])[:, -1], atol=1e-5, rtol=0
        )


@torch.inference_mode()
@pytest.mark.parametrize("block_size", [1, 2, 3, 12])
@pytest.mark.parametrize("position", ["rope", "none"])
@pytest.mark.parametrize("window", [0, 5])
@pytest.mark.parametrize("prompt", [1, 20])
def test_where_only_distance_counts_each_step_looks_back_a_whole_block(
    block_size: int, position: str, window: int, prompt: int
) -> None:
    """Beyond the block it is a model with a longer block and a window of this length."""
    model, ids = model_with(block_size, position=position, window=window), some_ids(40)
    longer = model_with(40, position=position, window=min(window or block_size, block_size))
    decoder, first = Decoder(model), max(0, prompt - block_size)
    for length in range(prompt, 41):
        logits = decoder.next_logits(ids[:, :length])
        torch.testing.assert_close(logits, longer(ids[:, first:length])[:, -1], atol=1e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("block_size", [1, 2, 3, 12])
@pytest.mark.parametrize("position", ["learned", "sinusoidal"])
@pytest.mark.parametrize("prompt", [1, 20])
def test_where_places_are_numbered_the_model_sees_at_least_half_a_block(
    block_size: int, position: str, prompt: int
) -> None:
    model, ids = model_with(block_size, position=position), some_ids(40)
    decoder = Decoder(model)
    for length in range(prompt, 41):
        logits = decoder.next_logits(ids[:, :length])
        seen = range(max(1, block_size // 2), block_size + 1) if length > block_size else [length]
        assert any(
            torch.allclose(logits, model(ids[:, length - n : length])[:, -1], atol=1e-5, rtol=0)
            for n in seen
        )


@torch.inference_mode()
@pytest.mark.parametrize(("position", "expected"), [("rope", [5]), ("learned", [5, *[6] * 7])])
def test_the_cache_saves_work(position: str, expected: list[int]) -> None:
    """The text is read once; with learned or sinusoidal positions half a block is read again
    whenever the block (of 12) is full."""
    model, ids, read = model_with(position=position), some_ids(60), []
    model.register_forward_hook(lambda _, inputs, __: read.append(inputs[0].shape[1]))
    decoder = Decoder(model)
    for length in range(5, 61):
        decoder.next_logits(ids[:, :length])
    assert read == expected


@torch.inference_mode()
@pytest.mark.parametrize(
    "options",
    [
        {},
        {**GPT2, "bias": True},
        {"mlp": "relu2", "attention_score": "squared"},
        {"attention_score": "linear"},
    ],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
def test_short_weights_are_near_float32_and_do_not_depend_on_the_company(
    options: dict, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kqv.generation.fast_copy.SMALL_MATRIX", 0)  # as in a large model
    model, ids = model_with(**options), some_ids(30, batch=1)
    three, one, exact = Decoder(model, dtype), Decoder(model, dtype), Decoder(model)
    for length in range(4, 31):
        logits = three.next_logits(ids[:, :length].expand(3, -1))
        assert (
            torch.equal(logits[:1], one.next_logits(ids[:, :length])) or length == 4
        )  # the first is read as a whole
        expected = exact.next_logits(ids[:, :length])
        far = (logits - expected).abs().max() / expected.abs().max()
        assert far < 0.1 and (far > 1e-4 or length == 4)  # float32 would be nearer


@torch.inference_mode()
@pytest.mark.parametrize("mask", ["none", "future"])
@pytest.mark.parametrize("window", [0, 5])
def test_a_model_that_sees_the_future_is_asked_anew_each_time(mask: str, window: int) -> None:
    model, ids = model_with(mask=mask, window=window), some_ids(40)
    decoder = Decoder(model)
    for length in range(1, 41):
        expected = model(ids[:, max(0, length - 12) : length])[:, -1]
        torch.testing.assert_close(
            decoder.next_logits(ids[:, :length]), expected, atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("block_size", [1, 2, 12])
@pytest.mark.parametrize("mask", ["causal", "none", "future"])
@pytest.mark.parametrize("position", POSITIONS)
def test_a_text_grows_far_beyond_the_block(block_size: int, mask: str, position: str) -> None:
    model = model_with(block_size, mask=mask, position=position)
    steps = list(generate(model, [3, 1, 4], SampleSettings(num_samples=2, max_new_tokens=50)))
    assert len(steps) == 50
    for tokens, log_probabilities in steps:
        assert len(tokens) == len(log_probabilities) == 2
        assert all(0 <= token < VOCABULARY.vocab_size for token in tokens) and all(
            math.isfinite(p) for p in log_probabilities
        )
