"""What a user can rely on of a text: a seed is a text, and log-probabilities are the model's."""

import pytest
import torch
from helpers.generation import POSITIONS, VOCABULARY, model_with, tokens_of

from kqv.generation.prompts import default_prompt
from kqv.generation.sampling import generate, generate_text
from kqv.options.settings import SampleSettings
from kqv.text.characters import CharTokenizer


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
