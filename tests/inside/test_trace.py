"""What a user can rely on when looking inside: the numbers shown are the model's, and the figures mean what they say."""

import inspect
import math
import sys
import textwrap
from collections.abc import Callable, Container, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.models import random_ids, randomised
from torch import Tensor

from kqv.generation.checks import forget
from kqv.inside.trace import (
    LayerView,
    Reading,
    head_figures,
    layer_figures,
    line_starts,
    on_repetition,
    own_ids,
    read,
)
from kqv.progress import say_once
from kqv.text.characters import CharTokenizer
from model import GPT, GPT2, Attention, GPTConfig

SHAPE: dict[str, Any] = {
    "vocab_size": 11,
    "block_size": 16,
    "n_layer": 3,
    "n_head": 2,
    "n_embd": 16,
}
VARIANTS: list[dict[str, Any]] = [
    {}, {**GPT2, "bias": True}, {"position": "none", "qk_norm": False, "attention_scale": "dim"}, {"window": 3},
    {"mask": "none"}, {"mask": "future"}, {"attention_score": "squared"}, {"position": "sinusoidal", "attention_scale": 0.3},
    {"attention_score": "linear"}, {"attention_score": "linear", "window": 3},
]  # fmt: skip


@pytest.fixture(params=VARIANTS, ids=repr)
def model(request: pytest.FixtureRequest) -> GPT:
    return randomised(GPTConfig(**SHAPE, **request.param))


def heads_together(output: Tensor) -> Tensor:
    """(heads, time, d_k) to (time, n_embd), as attention joins them."""
    return output.transpose(0, 1).flatten(1)


def test_what_is_shown_is_what_the_model_computed(model: GPT) -> None:
    """Each layer's weighted sum of values is what its fused attention hands on, and the last prediction is the model's."""
    ids = random_ids(model.config)[:1]
    handed_on: list[Tensor] = []
    attentions = [module for module in model.modules() if isinstance(module, Attention)]
    hooks = [
        attention.output.register_forward_pre_hook(lambda _, x: handed_on.append(x[0][0]))
        for attention in attentions
    ]
    model.fuse_attention(True)
    logits = model(ids)[0]
    for hook in hooks:
        hook.remove()
    reading = read(model, ids[0].tolist())
    assert len(reading.layers) == len(handed_on) == model.config.n_layer
    for layer, expected in zip(reading.layers, handed_on, strict=True):
        torch.testing.assert_close(heads_together(layer.output), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(reading.predictions[-1], logits.softmax(-1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        reading.predictions.sum(-1), torch.ones(model.config.n_layer + 1, ids.shape[1])
    )


@pytest.fixture
def changed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> Iterator[Callable[..., list[str]]]:
    """`changed(kind, old, new)`: replace code in a method of a class of model.py.

    Returns what is printed about it.
    """

    def change(kind: Any, old: str, new: str) -> list[str]:
        methods = [kind.forward, kind.project] if kind is Attention else [kind.forward]
        (method,) = [each for each in methods if old in inspect.getsource(each)]
        source = textwrap.dedent(inspect.getsource(method))
        assert source.count(old) == 1
        namespace = dict(vars(sys.modules["model"]))
        exec(source.replace(old, new), namespace)
        monkeypatch.setattr(kind, method.__name__, namespace[method.__name__])
        model = randomised(GPTConfig(**SHAPE))
        read(model, random_ids(model.config)[0].tolist())
        read(model, random_ids(model.config)[1].tolist())
        return capsys.readouterr().err.splitlines()

    forget()
    say_once.cache_clear()
    yield change
    forget()
    say_once.cache_clear()


@pytest.mark.parametrize(
    ("kind", "old", "new", "line"),
    [
        (
            Attention,
            "self.output(output",
            "self.output(1.1 * output",
            "Attention.forward in model.py computes something else",
        ),
        (
            GPT,
            "return self.head(self.norm(x))",
            "return 2 * self.head(self.norm(x))",
            "GPT.forward in model.py ends otherwise",
        ),
    ],
)
def test_where_the_model_computes_something_else_than_what_is_shown_that_is_said(
    changed: Callable, kind: type, old: str, new: str, line: str
) -> None:
    (said,) = changed(kind, old, new)
    assert said.startswith(line)


def test_a_change_that_is_shown_needs_no_word(changed: Callable) -> None:
    assert changed(Attention, "value = self.heads(self.value(x))", "value = self.heads(x)") == []


def test_each_stage_follows_from_the_one_before(model: GPT) -> None:
    reading = read(model, random_ids(model.config)[0].tolist())
    for layer in reading.layers:
        raw = {
            "dot": layer.query @ layer.key.mT,
            "squared": (layer.query @ layer.key.mT).square(),
            "linear": ((F.elu(layer.query) + 1) @ (F.elu(layer.key) + 1).mT).log(),
        }
        torch.testing.assert_close(layer.raw, raw[model.config.attention_score])
        torch.testing.assert_close(layer.scaled, layer.raw * layer.attention.scale)
        powers = layer.scaled.exp() * layer.allowed
        torch.testing.assert_close(layer.weights, powers / powers.sum(-1, keepdim=True))
        assert torch.all(layer.weights[:, ~layer.allowed] == 0)
        torch.testing.assert_close(layer.output, layer.weights @ layer.value)


def test_an_untrained_model_says_nothing_after_any_layer() -> None:
    reading = read(GPT(GPTConfig(**SHAPE)), [1, 2, 3])
    torch.testing.assert_close(reading.predictions, torch.full((4, 3, 11), 1 / 11))


def test_looking_changes_nothing(model: GPT) -> None:
    ids = random_ids(model.config)
    model.train()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    read(model, ids[0].tolist())
    assert model.training and not any(
        module._forward_hooks or module._forward_pre_hooks for module in model.modules()
    )
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


# --- figures ------------------------------------------------------------------------------------------------------


def figures_of(weights: Tensor, ids: list[int], newlines: Container[int] = ()) -> Any:
    """The figures of a head that looks as `weights` (time, time) say."""
    model = GPT(GPTConfig(**{**SHAPE, "n_layer": 1, "n_head": 1}))
    reading: Reading = read(model, ids)
    layer: LayerView = reading.layers[0]
    layer.weights = weights[None]
    return head_figures(model, reading, reading, newlines)[0]


TIME = 6
CAUSAL = torch.ones(TIME, TIME).tril()


def test_a_head_that_looks_everywhere_evenly() -> None:
    figures = figures_of(CAUSAL / CAUSAL.sum(1, keepdim=True), [1] * TIME)
    assert figures.entropy == pytest.approx(
        sum(math.log(n) for n in range(1, TIME + 1)) / TIME, abs=1e-6
    )
    assert figures.distance == pytest.approx(sum(n / 2 for n in range(TIME)) / TIME)
    assert figures.previous == pytest.approx(sum(1 / n for n in range(2, TIME + 1)) / (TIME - 1))
    assert figures.saturated == 0


def test_a_head_that_looks_at_the_character_before() -> None:
    weights = torch.eye(TIME).roll(-1, 1)
    weights[0] = torch.eye(TIME)[0]  # the first has none before it
    figures = figures_of(weights, [1] * TIME)
    assert (figures.entropy, figures.previous, figures.saturated) == (0, 1, 1)
    assert figures.distance == pytest.approx((TIME - 1) / TIME)


def test_a_head_that_looks_at_the_beginning_of_the_line() -> None:
    ids = [5, 0, 1, 2, 3, 4]  # 0 is the newline; the line begins at place 2
    for place in (1, 2):
        weights = torch.eye(TIME)
        weights[3:] = torch.eye(TIME)[place]
        assert figures_of(weights, ids, newlines={0}).line_start == 1
    assert figures_of(torch.eye(TIME), ids, newlines={0}).line_start == 0
    assert figures_of(weights, ids).line_start == 0  # no vocabulary with a newline, no lines
    assert line_starts(ids, {0}).nonzero().tolist() == [
        [row, column] for row in (3, 4, 5) for column in (1, 2)
    ]


def test_scores_vary_like_d_k_before_scaling_and_like_one_after() -> None:
    """Var(q · k) = d_k for random numbers of variance 1 (Vaswani et al. 2017, footnote 4)."""
    torch.manual_seed(0)
    config = GPTConfig(
        vocab_size=256, block_size=256, n_layer=1, n_head=1, n_embd=64, position="none"
    )
    model = randomised(config)
    reading = read(model, list(range(256)))
    reading.layers[0].see(*torch.randn(3, 1, 1, 256, 64))
    figures = head_figures(model, reading, reading, ())[0]
    assert figures.raw_variance == pytest.approx(
        64, rel=0.1
    ) and figures.scaled_variance == pytest.approx(1, rel=0.1)


def test_the_figures_of_a_layer_are_means_over_its_heads_and_the_texts() -> None:
    model = randomised(GPTConfig(**SHAPE))
    texts = random_ids(model.config)[:2]
    readings = [read(model, ids) for ids in texts.tolist()]
    heads = [head for reading in readings for head in head_figures(model, reading, reading, ())]
    figures = layer_figures(model, texts)
    assert set(figures) == {"raw_variance", "scaled_variance", "entropy", "saturated"}
    for name, values in figures.items():
        for layer, value in enumerate(values):
            of_layer = [getattr(head, name) for head in heads if head.layer == layer]
            assert len(of_layer) == 4 and value == pytest.approx(sum(of_layer) / 4)


def test_a_head_that_copies_what_followed_last_time() -> None:
    half = 4
    weights = torch.zeros(2, 2 * half, 2 * half)
    for place in range(half):
        weights[0, half + place, place + 1] = 1
        weights[1, half + place, place] = 1  # the same character: not the one that followed
    assert on_repetition(weights).tolist() == [1, 0]


def test_a_model_s_own_text_is_always_the_same_and_fits_its_block(model: GPT) -> None:
    tokenizer = CharTokenizer("abcdefghij\n")
    ids = own_ids(model, tokenizer)
    assert (
        len(ids) == model.config.block_size
        and ids[0] == tokenizer.encode("\n")[0]
        and ids == own_ids(model, tokenizer)
    )
    assert len(own_ids(model, tokenizer, 5)) == 5
