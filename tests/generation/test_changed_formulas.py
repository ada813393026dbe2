"""What a user who changes model.py can rely on: samples are what the changed model computes."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from helpers.generation import POSITIONS, VOCABULARY, model_with, some_ids, tokens_of
from torch import Tensor, nn

from kqv.generation.checks import Differences, checked_decoder, differences, forget
from kqv.generation.kv_cache import KVCache
from kqv.options.model_options import ModelOptions
from kqv.options.option_types import alternatives, option_types
from kqv.progress import say_once
from model import GPT, GPT2, MLP, SCORES, Attention, Block, GatedMLP, GPTConfig, RMSNorm

NOT_FAST = "decoding with a KV cache does not compute what model.py's forward does"
Said = Callable[[], list[str]]


@pytest.fixture
def said(capsys: pytest.CaptureFixture) -> Iterator[Said]:
    """The lines printed to stderr. Earlier comparisons are forgotten, and those of the test after
    it."""

    forget()
    say_once.cache_clear()
    yield lambda: capsys.readouterr().err.splitlines()
    forget()
    say_once.cache_clear()


def result_times(factor: float) -> Callable:
    """A change of a method: what it computes, times a number."""
    return lambda forward: lambda *inputs, **more: factor * forward(*inputs, **more)


def with_a_bonus(forward: Callable) -> Callable:
    """A change of GPT.forward: one logit grows by a thousandth."""

    def changed(*inputs: Any, **more: Any) -> Tensor:
        logits = forward(*inputs, **more)
        return logits + 1e-3 * torch.eye(logits.shape[-1])[0]

    return changed


def last_times(factor: float) -> Callable:
    """A change of a method that returns several tensors: the last one, times a number."""

    def change(method: Callable) -> Callable:
        def changed(*inputs: Any, **more: Any) -> tuple[Tensor, ...]:
            *others, last = method(*inputs, **more)
            return *others, factor * last

        return changed

    return change


def raises(_: Callable) -> Callable:
    """A change after which nothing can be built."""

    def forward(*_: object, **__: object) -> None:
        raise ValueError("no\nfast way")

    return forward


# Changes of what connects the parts of a model: decoding runs these very methods.
FOLLOWED: dict[str, tuple[type, str, Callable, dict[str, Any]]] = {
    "Block": (Block, "forward", result_times(1.1), {}),
    "Attention": (Attention, "forward", result_times(1.1), {}),
    "GatedMLP": (GatedMLP, "forward", result_times(1.1), {}),
    "MLP": (MLP, "forward", result_times(0.9), {"mlp": "gelu"}),
    "rope": (GPT, "forward", result_times(1.1), {"position": "rope", "window": 5}),
    "learned": (GPT, "embed", result_times(1.1), {"position": "learned"}),
    "linear": (Attention, "forward", result_times(1.1), {"attention_score": "linear"}),
    "one logit": (GPT, "forward", with_a_bonus, {}),
}
# Changes of what has a fast body.
NOT_FOLLOWED: dict[str, tuple[type, str, Callable, dict[str, Any]]] = {
    "RMSNorm": (RMSNorm, "forward", result_times(1.001), {}),
    "Attention": (Attention, "project", last_times(1.001), {}),
    "GatedMLP": (GatedMLP, "project", last_times(1.001), {}),
    "linear": (Attention, "project", last_times(1.001), {"attention_score": "linear"}),
    "learned": (Attention, "project", last_times(1.001), {**GPT2, "block_size": 1}),
    "a cache that cannot be built": (KVCache, "__init__", raises, {}),
}


@torch.inference_mode()
@pytest.mark.parametrize("change", FOLLOWED)
def test_decoding_follows_a_change_of_a_formula(
    change: str, monkeypatch: pytest.MonkeyPatch, said: Said
) -> None:
    kind, method, changed, options = FOLLOWED[change]
    unchanged = model_with(**options)(some_ids(12))[:, -1]
    monkeypatch.setattr(kind, method, changed(getattr(kind, method)))
    model, ids = model_with(**options), some_ids(12)
    decoder = checked_decoder(model, torch.float32, slide=False)
    for length in range(1, 13):
        expected = model(ids[:, :length])[:, -1]
        logits = decoder.next_logits(ids[:, :length])
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    assert decoder.cached and said() == []
    assert (logits - unchanged).abs().max() > 5e-4


@torch.inference_mode()
@pytest.mark.parametrize("change", NOT_FOLLOWED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_a_model_whose_fast_body_computes_something_else_is_sampled_without_and_that_is_said_once(
    change: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, said: Said
) -> None:
    kind, method, changed, options = NOT_FOLLOWED[change]
    monkeypatch.setattr(kind, method, changed(getattr(kind, method)))
    model, ids = model_with(**options), some_ids(20)
    for _ in range(3):  # samples during a run
        decoder = checked_decoder(model, dtype, slide=False)
        short = decoder.prefill_dtype != torch.float32
        for length in range(1, 20):
            block = ids[:, max(0, length - model.config.block_size) : length]
            with torch.autocast("cpu", decoder.prefill_dtype, enabled=short):
                expected = model(block)[:, -1].float()
            assert torch.equal(decoder.next_logits(ids[:, :length]), expected)
    (line,) = said()
    assert line.startswith(NOT_FAST) and "docs/code.md" in line
    assert ("no fast way" if "built" in change else "differ by") in line


@torch.autocast("cpu", torch.bfloat16)
def test_rounding_to_bfloat16_is_no_change(said: Said) -> None:
    assert differences(model_with()) == Differences("", "") and said() == []


def test_an_untrained_model_hides_no_change(monkeypatch: pytest.MonkeyPatch, said: Said) -> None:
    """Its logits are all 0, whatever its blocks compute."""
    monkeypatch.setattr(GatedMLP, "project", last_times(1.001)(GatedMLP.project))
    tokens_of(GPT(GPTConfig(VOCABULARY.vocab_size)), [1])
    assert said()[0].startswith(NOT_FAST)


def test_a_module_that_was_put_in_by_hand_is_computed(said: Said) -> None:
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    model, plain = model_with(), model_with()
    with torch.no_grad():
        plain.blocks[0].mlp.down.weight *= 2
    model.blocks[0].mlp.down, down = Doubled(64, 16, bias=False), model.blocks[0].mlp.down
    model.blocks[0].mlp.down.weight = down.weight
    assert tokens_of(model, [1], max_new_tokens=11) == tokens_of(plain, [1], max_new_tokens=11)
    assert "another class, Doubled" in said()[0]


@pytest.mark.parametrize("score", ["dot", "linear"])
def test_a_change_of_the_written_attention_alone_is_what_the_model_computes(
    score: str, monkeypatch: pytest.MonkeyPatch, said: Said
) -> None:
    real = SCORES[score]
    monkeypatch.setitem(SCORES, score, lambda query, key, scale: 1.1 * real(query, key, scale))
    model, written = model_with(attention_score=score), model_with(attention_score=score)
    written.fuse_attention(False)
    ids = some_ids(12)
    with torch.inference_mode():
        torch.testing.assert_close(
            checked_decoder(model, torch.float32, slide=False).next_logits(ids),
            written(ids)[:, -1],
            atol=1e-6,
            rtol=0,
        )
    assert said()[0].startswith("attend in model.py and its fast body differ (logits of up to")


def test_of_an_unchanged_model_nothing_is_said(said: Said) -> None:
    choices: dict[str, list] = {"position": POSITIONS}
    for name in ("norm", "attention_scale", "attention_score", "mask", "mlp"):
        hint = option_types(ModelOptions)[name]
        choices[name] = [word for word in alternatives(hint) if isinstance(word, str)]
    choices |= {name: [True, False] for name in ("bias", "qk_norm", "tie_weights")}
    sizes = [
        {}, {"window": 2}, {"block_size": 1}, {"attention_scale": 1e6},
        {"n_layer": 12, "n_head": 12, "n_embd": 96},
        {"n_head": 1, "n_embd": 1, "position": "none"}, {"mlp_width": 5, "rope_base": 1.0},
    ]  # fmt: skip
    some = [
        dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())
    ][::59]
    assert all({options[name] for options in some} == {*values} for name, values in choices.items())
    for number, options in enumerate(some):
        model = GPT(
            GPTConfig(
                VOCABULARY.vocab_size,
                **{"n_layer": 2, "n_head": 2, "n_embd": 16, **options, **sizes[number % 7]},
            )
        )
        assert differences(model) == Differences("", ""), options
        checked_decoder(model, torch.float32, slide=False)
    assert said() == []


def test_a_sample_in_the_middle_of_training_changes_nothing_of_it(said: Said) -> None:
    model, before = model_with(), torch.get_rng_state()
    tokens_of(model, [1])
    assert torch.equal(torch.get_rng_state(), before)
