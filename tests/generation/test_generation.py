"""What a user can rely on when sampling: the cache changes nothing, samplers are their formulas, a seed is a text, stops stop."""

import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from helpers.models import randomised
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from kqv.generation.checks import Differences, checked_decoder, differences, forget
from kqv.generation.continuation import Continuation
from kqv.generation.decoder import Decoder
from kqv.generation.kv_cache import KVCache
from kqv.generation.prompts import default_prompt
from kqv.generation.samplers import choose
from kqv.generation.sampling import generate, generate_text
from kqv.options.model_options import ModelOptions
from kqv.options.option_types import alternatives, option_types
from kqv.options.settings import SampleSettings
from kqv.progress import say_once
from kqv.text.bpe import OWN_PATTERN, BpeTokenizer
from kqv.text.byte_level import ByteTokenizer
from kqv.text.characters import CharTokenizer
from kqv.text.tokenizer import Tokenizer
from model import GPT, GPT2, MLP, SCORES, Attention, Block, GPTConfig, RMSNorm, SwiGLU

VOCABULARY = CharTokenizer.of("abcdefghij\n")
POSITIONS = ["rope", "learned", "sinusoidal", "none"]


def byte_pairs() -> BpeTokenizer:
    """A few tokens of several characters, and one that ends inside a character."""
    return BpeTokenizer(
        "pairs",
        OWN_PATTERN,
        [bytes([byte]) for byte in range(256)] + [b"ab", b" a", b"\xf0\x9f", b"abc"],
    )


def model_with(block_size: int = 12, **options: object) -> GPT:
    return randomised(
        GPTConfig(VOCABULARY.vocab_size, block_size, n_layer=2, n_head=2, n_embd=16, **options)
    )


def some_ids(length: int, batch: int = 2) -> Tensor:
    return torch.randint(
        VOCABULARY.vocab_size, (batch, length), generator=torch.Generator().manual_seed(5)
    )


def tokens_of(model: GPT, prompt: Sequence[int], **options: object) -> list[list[int]]:
    """The new tokens of each sample."""
    sampling = SampleSettings(**{"max_new_tokens": 30, **options})
    return [
        list(tokens)
        for tokens in zip(*(tokens for tokens, _ in generate(model, prompt, sampling)), strict=True)
    ]


# --- the cache ----------------------------------------------------------------------------------------------------


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
    """Beyond the block the model goes on as one with a longer block would that looks back as far."""
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
    """The text is read once; where places are numbered, half a block again whenever the block (of 12) is full."""
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


# --- a model that was changed -------------------------------------------------------------------------------------

NOT_FAST = "decoding with a KV cache does not compute what model.py's forward does"
Said = Callable[[], list[str]]


@pytest.fixture
def said(capsys: pytest.CaptureFixture) -> Iterator[Said]:
    """The lines that were said on stderr; what was found and said before is forgotten, and afterwards what was found here."""

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

    def forward(*_: object) -> None:
        raise ValueError("no\nfast way")

    return forward


# Changes of what connects the parts of a model: decoding runs these very methods.
FOLLOWED: dict[str, tuple[type, str, Callable, dict[str, Any]]] = {
    "Block": (Block, "forward", result_times(1.1), {}),
    "Attention": (Attention, "forward", result_times(1.1), {}),
    "SwiGLU": (SwiGLU, "forward", result_times(1.1), {}),
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
    "SwiGLU": (SwiGLU, "project", last_times(1.001), {}),
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
    monkeypatch.setattr(SwiGLU, "project", last_times(1.001)(SwiGLU.project))
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
        {}, {"window": 2}, {"block_size": 1}, {"n_layer": 12, "n_head": 12, "n_embd": 96}, {"attention_scale": 1e6},
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


# --- one text -----------------------------------------------------------------------------------------------------


@torch.inference_mode()
@pytest.mark.parametrize("position", POSITIONS)
def test_greedy_text_is_that_of_a_plain_loop(position: str) -> None:
    model = model_with(32, position=position)
    ids, expected = torch.tensor([[3, 1, 4]]), []
    while ids.shape[1] < 32:
        token = model(ids)[:, -1].argmax(-1, keepdim=True)
        ids = torch.cat((ids, token), dim=1)
        expected.append(int(token))
    assert tokens_of(model, [3, 1, 4], temperature=0, max_new_tokens=29, num_samples=2) == [
        expected,
        expected,
    ]
    assert tokens_of(model, [3, 1, 4], top_k=1, temperature=2, max_new_tokens=29, seed=8) == [
        expected
    ]
    assert len(set(expected)) > 1  # a text, not one character again and again


def test_a_seed_is_a_text() -> None:
    model = model_with()
    texts = [tokens_of(model, [1], seed=seed)[0] for seed in (1, 2, 1, 2)]
    assert texts[0] == texts[2] != texts[1] == texts[3]


def test_sample_k_is_the_same_alone_or_among_others() -> None:
    model = model_with()
    many = tokens_of(model, [1, 2], num_samples=5)
    assert len(set(map(tuple, many))) == 5
    for count in range(1, 5):
        assert tokens_of(model, [1, 2], num_samples=count) == many[:count]


def test_a_sample_in_the_middle_of_training_changes_nothing_of_it(said: Said) -> None:
    model, before = model_with(), torch.get_rng_state()
    tokens_of(model, [1])
    assert torch.equal(torch.get_rng_state(), before)


@torch.inference_mode()
def test_log_probabilities_are_the_model_s_own_whatever_the_sampler_does() -> None:
    model, prompt = model_with(32), [3, 1, 4]
    options = {
        "temperature": 0.5,
        "top_k": 4,
        "top_p": 0.9,
        "min_p": 0.01,
        "repetition_penalty": 1.3,
        "num_samples": 2,
    }
    ids = torch.tensor([prompt] * 2)
    for tokens, log_probabilities in generate(
        model, prompt, SampleSettings(**options, max_new_tokens=29)
    ):
        expected = torch.log_softmax(model(ids)[:, -1], -1)
        ids = torch.cat((ids, torch.tensor(tokens)[:, None]), dim=1)
        assert log_probabilities == pytest.approx(
            [float(expected[k, token]) for k, token in enumerate(tokens)], abs=1e-5
        )


def test_generated_text_is_the_first_sample() -> None:
    model, sampling = model_with(), SampleSettings(max_new_tokens=30)
    text = generate_text(model, VOCABULARY, "abc", sampling)
    assert VOCABULARY.encode(text) == tokens_of(model, VOCABULARY.encode("abc"))[0]


def test_a_text_begins_on_a_new_line_if_there_are_lines() -> None:
    assert default_prompt(CharTokenizer.of("b\na")) == "\n"
    assert default_prompt(CharTokenizer.of("cab")) == "a"


# --- the samplers -------------------------------------------------------------------------------------------------

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
    """The options as their authors describe them, one after the other, each on what the one before left."""
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
    LOGITS, st.floats(0, exclude_min=True, allow_infinity=False), st.integers(0, 20), st.floats(0, 1, exclude_min=True),
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


# --- where a text ends --------------------------------------------------------------------------------------------


def fed(text: str, stops: Sequence[str]) -> tuple[Continuation, list[str]]:
    """A continuation that received the text character by character, and what it showed after each."""
    continuation = Continuation(CharTokenizer.of(text + "x"), stops)
    shown = [
        continuation.add(continuation.tokenizer.encode(character)[0], -float(i))
        for i, character in enumerate(text)
    ]
    return continuation, [*shown, continuation.finish()]


def ended(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the first stop string that is complete, and whether there is one."""
    for length in range(len(text) + 1):
        places = [text[:length].find(stop) for stop in stops if stop in text[:length]]
        if places:
            return text[: min(places)], True
    return text, False


STOPS = st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3)


@settings(max_examples=300)
@given(st.text("ab\n", max_size=14), STOPS)
@example("xxaab", ["ab"])
@example("aaab", ["aab"])
@example("abcabd", ["abd"])
@example("abc", ["bcd", "c"])
@example("xabcd", ["abcd", "bc"])
@example("ab", ["abc"])
@example("ROMEO:\nwhat", ["\n\n", "\n"])
def test_what_is_shown_is_the_text_up_to_a_stop_string(text: str, stops: list[str]) -> None:
    continuation, shown = fed(text, stops)
    expected, stopped = ended(text, stops)
    assert "".join(shown) == continuation.text == expected
    assert continuation.stopped == stopped
    assert "".join(continuation.to_dict()["tokens"]) == expected
    assert continuation.to_dict()["log_probabilities"] == [-float(i) for i in range(len(expected))]
    assert continuation.to_dict()["finish_reason"] == ("stop" if stopped else "length")
    # Only what may yet become a stop string is held back.
    for length in range(1, len(text) + 1):
        if not ended(text[:length], stops)[1]:
            held = text[len("".join(shown[:length])) : length]
            assert held == max((stop[:n] for stop in stops for n in range(len(stop)) if text[:length].endswith(stop[:n])),
                               key=len, default="")  # fmt: skip


def test_without_stop_strings_each_character_is_shown_at_once() -> None:
    continuation, shown = fed("hello", [])
    assert shown == [*"hello", ""]
    assert json.loads(json.dumps(continuation.to_dict())) == {
        "text": "hello", "finish_reason": "length", "tokens": [*"hello"], "log_probabilities": [0.0, -1.0, -2.0, -3.0, -4.0]
    }  # fmt: skip


def test_nothing_is_added_after_a_stop() -> None:
    continuation, shown = fed("hello world", ["lo", "wor"])
    assert shown == ["h", "e", "", "l", *[""] * 8]
    assert continuation.to_dict()["text"] == "hel" and len(continuation.tokens) == 3


# --- tokens that are no characters --------------------------------------------------------------------------------


@given(text=st.text(max_size=30), stop=st.text(min_size=1, max_size=3))
@example(text="né😀", stop="😀")
@example(text="abc", stop="c")
@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), byte_pairs()], ids=["bytes", "pairs"])
def test_text_of_any_tokens_is_shown_in_whole_characters_and_ends_before_a_stop(
    tokenizer: Tokenizer, text: str, stop: str
) -> None:
    ids = tokenizer.encode(text)
    for stops in ((), (stop,)):
        continuation = Continuation(tokenizer, stops)
        shown = [continuation.add(token, -1.0) for token in ids] + [continuation.finish()]
        expected = text.partition(stop)[0] if stops else text
        assert "".join(shown) == continuation.text == expected
        assert all(piece in expected for piece in shown)
        data = continuation.to_dict()
        assert "".join(data["tokens"]) == expected and len(data["tokens"]) == len(
            data["log_probabilities"]
        )
        assert continuation.tokens == ids[: len(continuation.tokens)]
        assert tokenizer.decode(continuation.tokens).startswith(expected)
        assert not continuation.tokens or not tokenizer.decode(continuation.tokens[:-1]).startswith(
            expected + stop
        )


def test_half_a_character_is_held_back_and_shown_as_one_that_is_none_at_the_end() -> None:
    continuation = Continuation(ByteTokenizer())
    shown = [continuation.add(byte, -1.0) for byte in "aé😀".encode()[:-1]]
    assert shown == ["a", "", "é", "", "", ""]
    assert continuation.finish() == "\ufffd" and continuation.finish() == ""
    assert continuation.text == "aé\ufffd" and continuation.to_dict()["tokens"] == [
        "a",
        "",
        "é",
        "",
        "",
        "\ufffd",
    ]


def test_bytes_that_are_no_character_are_shown_as_such() -> None:
    continuation = Continuation(ByteTokenizer(), stop=["b"])
    assert "".join(continuation.add(byte, -1.0) for byte in b"a\xff\xe2ab") == "a\ufffd\ufffda"
    assert continuation.stopped and continuation.tokens == list(b"a\xff\xe2a")


def test_an_id_that_only_pads_the_vocabulary_is_never_drawn():
    model = model_with()
    for options in ({}, {"temperature": 0.0}, {"repetition_penalty": 2.0, "top_k": 6}):
        settings = SampleSettings(max_new_tokens=30, num_samples=5, **options)
        drawn = list(generate(model, [0], settings, vocab_size=4))
        assert {token for tokens, _ in drawn for token in tokens} <= set(range(4))
        assert any(token > 3 for tokens, _ in generate(model, [0], settings) for token in tokens)
