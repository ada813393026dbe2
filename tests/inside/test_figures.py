"""What a user can rely on: the figures of a head mean what they say."""

import math
from collections.abc import Container
from dataclasses import fields

import pytest
import torch
from helpers.models import SHAPE, random_ids, randomised
from torch import Tensor

from kqv.inside.figures import (
    MEANINGS,
    CrossFigures,
    DecoderFigures,
    SelfFigures,
    head_figures,
    layer_figures,
    line_starts,
    repetition_weight,
)
from kqv.inside.trace import record
from model import GPT, GPTConfig

TIME = 6
CAUSAL = torch.ones(TIME, TIME).tril()


def figures_of(weights: Tensor, ids: list[int], newlines: Container[int] = ()) -> DecoderFigures:
    """The figures of a head with these attention weights (time, time)."""
    model = GPT(GPTConfig(**{**SHAPE, "n_layer": 1, "n_head": 1}))
    trace = record(model, ids)
    trace.layers[0].weights = weights[None]
    return head_figures(model, trace, trace, newlines)[0]


def test_each_figure_has_a_meaning() -> None:
    kinds = (DecoderFigures, SelfFigures, CrossFigures)
    figures = {field.name for kind in kinds for field in fields(kind)}
    assert set(MEANINGS) == figures - {"layer", "head"}


def test_a_head_that_looks_everywhere_evenly() -> None:
    figures = figures_of(CAUSAL / CAUSAL.sum(1, keepdim=True), [1] * TIME)
    entropies = [math.log(n) for n in range(1, TIME + 1)]
    assert figures.entropy == pytest.approx(sum(entropies) / TIME, abs=1e-6)
    assert figures.distance == pytest.approx(sum(n / 2 for n in range(TIME)) / TIME)
    assert figures.previous == pytest.approx(sum(1 / n for n in range(2, TIME + 1)) / (TIME - 1))
    assert figures.saturated == 0


def test_a_head_that_looks_at_the_previous_character() -> None:
    weights = torch.eye(TIME).roll(-1, 1)
    weights[0] = torch.eye(TIME)[0]  # the first has none before it
    figures = figures_of(weights, [1] * TIME)
    assert (figures.entropy, figures.previous, figures.saturated) == (0, 1, 1)
    assert figures.distance == pytest.approx((TIME - 1) / TIME)


def test_a_head_that_looks_at_the_start_of_the_line() -> None:
    ids = [5, 0, 1, 2, 3, 4]  # 0 is the newline; the line starts at position 2
    for position in (1, 2):
        weights = torch.eye(TIME)
        weights[3:] = torch.eye(TIME)[position]
        assert figures_of(weights, ids, newlines={0}).line_start == 1
    assert figures_of(torch.eye(TIME), ids, newlines={0}).line_start == 0
    assert figures_of(weights, ids).line_start == 0  # without a newline there are no lines
    expected = [[row, column] for row in (3, 4, 5) for column in (1, 2)]
    assert line_starts(ids, {0}).nonzero().tolist() == expected


def test_a_head_that_copies_what_followed_last_time() -> None:
    half = 4
    weights = torch.zeros(2, 2 * half, 2 * half)
    for position in range(half):
        weights[0, half + position, position + 1] = 1
        weights[1, half + position, position] = 1  # the same character, not the one that followed
    assert repetition_weight(weights).tolist() == [1, 0]


def test_scores_vary_like_d_k_before_scaling_and_like_one_after() -> None:
    """Var(q · k) = d_k for random numbers of variance 1 (Vaswani et al. 2017, footnote 4)."""
    torch.manual_seed(0)
    config = GPTConfig(
        vocab_size=256, block_size=256, n_layer=1, n_head=1, n_embd=64, position="none"
    )
    model = randomised(config)
    trace = record(model, list(range(256)))
    trace.layers[0].see(*torch.randn(3, 1, 1, 256, 64))
    figures = head_figures(model, trace, trace, ())[0]
    assert figures.raw_variance == pytest.approx(64, rel=0.1)
    assert figures.scaled_variance == pytest.approx(1, rel=0.1)


def test_the_figures_of_a_layer_are_means_over_its_heads_and_the_texts() -> None:
    model = randomised(GPTConfig(**SHAPE))
    texts = random_ids(model.config)[:2]
    traces = [record(model, ids) for ids in texts.tolist()]
    heads = [head for trace in traces for head in head_figures(model, trace, trace, ())]
    figures = layer_figures(traces)
    assert set(figures) == {"raw_variance", "scaled_variance", "entropy", "saturated"}
    for name, values in figures.items():
        for layer, value in enumerate(values):
            of_layer = [getattr(head, name) for head in heads if head.layer == layer]
            assert len(of_layer) == 4 and value == pytest.approx(sum(of_layer) / 4)
