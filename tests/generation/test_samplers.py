"""What a user can rely on of the samplers: they are their formulas."""

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from helpers.generation import model_with, tokens_of
from hypothesis import assume, example, given
from hypothesis import strategies as st

from kqv.generation.samplers import choose
from kqv.options.settings import SampleSettings

DRAWS = 4000


def frequencies(
    logits: Sequence[float], seen: Sequence[int] = (), **options: object
) -> list[float]:
    """How often each token is chosen when the uniform number runs evenly from 0 to 1."""
    draws = (torch.arange(DRAWS, dtype=torch.float64) + 0.5) / DRAWS
    was_seen = torch.zeros(DRAWS, len(logits), dtype=torch.bool)
    was_seen[:, list(seen)] = True
    sampling = SampleSettings(**{"temperature": 1.0, **options})
    chosen = choose(torch.tensor(logits).float().expand(DRAWS, -1), sampling, draws, was_seen)
    assert chosen.shape == (DRAWS,) and chosen.dtype == torch.int64
    return (torch.bincount(chosen, minlength=len(logits)) / DRAWS).tolist()


def softmax(logits: Sequence[float], temperature: float = 1.0) -> list[float]:
    powers = [math.exp((logit - max(logits)) / temperature) for logit in logits]
    return [power / sum(powers) for power in powers]


def narrowed(
    probabilities: list[float], top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> list[float]:
    """The options as their papers describe them, each applied to what the one before left."""
    kept = sorted(range(len(probabilities)), key=lambda i: -probabilities[i])
    if top_k:
        kept = kept[:top_k]
    if top_p < 1:
        whole = sum(probabilities[i] for i in kept)
        reached = list(itertools.accumulate(probabilities[i] / whole for i in kept))
        assume(all(abs(part - top_p) > 1e-6 for part in reached))  # on the edge, rounding decides
        kept = kept[: 1 + sum(part < top_p for part in reached)]
    if min_p:
        assume(all(abs(probabilities[i] / probabilities[kept[0]] - min_p) > 1e-6 for i in kept[1:]))
        kept = [i for i in kept if probabilities[i] >= min_p * probabilities[kept[0]]]
    whole = sum(probabilities[i] for i in kept)
    return [
        probability / whole if i in kept else 0.0 for i, probability in enumerate(probabilities)
    ]


def assert_chosen(found: list[float], expected: list[float]) -> None:
    assert found == pytest.approx(expected, abs=1.5 / DRAWS)
    assert all(
        frequency == 0
        for frequency, probability in zip(found, expected, strict=True)
        if probability == 0
    )


LOGITS = st.lists(st.integers(-40, 40), min_size=1, max_size=12, unique=True).map(
    lambda values: [value / 8 for value in values]
)


@given(LOGITS, st.floats(0.1, 5))
def test_a_token_is_chosen_as_often_as_its_probability(
    logits: list[float], temperature: float
) -> None:
    assert_chosen(frequencies(logits, temperature=temperature), softmax(logits, temperature))


@given(
    LOGITS,
    st.integers(0, 13),
    st.floats(0.01, 1),
    st.floats(0, 1),
    st.sampled_from([0.5, 1.0, 2.0]),
)
@example([1.0, 3.0, 2.0], 2, 1.0, 0.0, 1.0)
@example([1.0, 3.0, 2.0], 0, 0.7, 0.0, 1.0)
@example([1.0, 3.0, 2.0], 0, 1.0, 0.3, 1.0)
@example([1.0, 3.0, 2.0, 2.5], 3, 0.75, 0.4, 1.0)
def test_top_k_top_p_and_min_p_keep_what_they_should(
    logits: list[float], top_k: int, top_p: float, min_p: float, temperature: float
) -> None:
    expected = narrowed(softmax(logits, temperature), top_k, top_p, min_p)
    assert_chosen(
        frequencies(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p),
        expected,
    )


@given(LOGITS)
def test_temperature_zero_and_top_k_one_take_the_likeliest(logits: list[float]) -> None:
    best = [float(logit == max(logits)) for logit in logits]
    for options in ({"temperature": 0.0}, {"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0}):
        assert frequencies(logits, **options) == best


@given(LOGITS, st.floats(0.5, 3), st.data())
def test_the_repetition_penalty_is_that_of_its_paper(
    logits: list[float], penalty: float, data: st.DataObject
) -> None:
    """Keskar et al. 2019, with negative logits multiplied so that they too become less likely."""
    seen = data.draw(st.sets(st.integers(0, len(logits) - 1)))
    expected = [
        logit if i not in seen else logit / penalty if logit > 0 else logit * penalty
        for i, logit in enumerate(logits)
    ]
    assert_chosen(frequencies(logits, seen, repetition_penalty=penalty), softmax(expected))


@torch.inference_mode()
def test_the_prompt_and_what_was_generated_count_as_repetition() -> None:
    model, text = model_with(32), [3, 1, 4]
    for _ in range(20):
        logits = model(torch.tensor([text]))[0, -1].tolist()
        penalised = [
            logit if i not in text else logit / 1.8 if logit > 0 else logit * 1.8
            for i, logit in enumerate(logits)
        ]
        text.append(penalised.index(max(penalised)))
    options = {"temperature": 0, "max_new_tokens": 20}
    assert [3, 1, 4, *tokens_of(model, [3, 1, 4], repetition_penalty=1.8, **options)[0]] == text
    assert [3, 1, 4, *tokens_of(model, [3, 1, 4], **options)[0]] != text


@given(
    LOGITS, st.floats(0, exclude_min=True, allow_infinity=False), st.integers(0, 20),
    st.floats(0, 1, exclude_min=True),
    st.floats(0, 1), st.sampled_from([0.0, 0.5, 1 - 2**-53]),
)  # fmt: skip
@example([1.0, 2.0], 1e-310, 0, 1.0, 0.0, 0.5)
def test_no_permitted_options_choose_what_is_no_token(
    logits: list[float], temperature: float, top_k: int, top_p: float, min_p: float, draw: float
) -> None:
    sampling = SampleSettings(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    seen = torch.zeros(1, len(logits), dtype=torch.bool)
    (token,) = choose(
        torch.tensor([logits]), sampling, torch.tensor([draw], dtype=torch.float64), seen
    ).tolist()
    assert 0 <= token < len(logits)
    if temperature < 1e-3:
        assert logits[token] == max(logits)
