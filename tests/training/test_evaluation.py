"""The validation loss is the plain mean over every token, however it is computed."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.models import randomised
from hypothesis import given, settings
from hypothesis import strategies as st

from kqv.machine.device import Machine, choose_machine
from kqv.options.settings import TrainSettings
from kqv.text.byte_level import ByteTokenizer
from kqv.text.characters import CharTokenizer
from kqv.text.tokenizer import Tokenizer
from kqv.training import frequencies
from kqv.training.data import TextData, characters_per_token
from kqv.training.evaluation import mean_loss
from kqv.training.frequencies import sample_of, trivial_losses
from kqv.training.remarks import describe_loss, describe_trivial_losses
from model import GPT, GPTConfig

MACHINE = choose_machine(TrainSettings(device="cpu", dtype="float32", compile=False))
TOKENS = np.random.default_rng(0).integers(11, size=100).astype(np.uint16)


def small_model(**options: object) -> GPT:
    config = GPTConfig(vocab_size=11, block_size=8, n_layer=1, n_head=2, n_embd=16, **options)
    return randomised(config)


@torch.no_grad()
def data_of(tokens: np.ndarray) -> TextData:
    return TextData(None, CharTokenizer("a"), tokens, tokens, "", 1.0, None)


def whole_loss(model: GPT, tokens: np.ndarray, settings: TrainSettings, machine: Machine) -> float:
    settings = replace(settings, block_size=model.config.block_size)
    return mean_loss(model, data_of(tokens).whole_batches(settings), machine)


def estimated_loss(
    model: GPT, tokens: np.ndarray, settings: TrainSettings, machine: Machine
) -> float:
    settings = replace(settings, block_size=model.config.block_size)
    return mean_loss(model, data_of(tokens).estimate_batches(settings), machine)


def plain_losses(model: GPT, tokens: np.ndarray, starts: range) -> list[float]:
    """-log p of each token of the windows of block_size at `starts`, computed one at a time."""
    losses, block_size = [], model.config.block_size
    for start in starts:
        for end in range(start + 1, min(start + block_size + 1, len(tokens))):
            context = torch.from_numpy(tokens[start:end].astype(np.int64))
            probabilities = torch.softmax(model.eval()(context[None])[0, -1].double(), -1)
            losses.append(-math.log(probabilities[int(tokens[end])]))
    return losses


@settings(max_examples=20)
@given(length=st.integers(9, 60), batch_size=st.integers(1, 9))
def test_the_loss_of_a_split_is_the_mean_over_its_tokens(length: int, batch_size: int) -> None:
    model, tokens = small_model(), TOKENS[:length]
    losses = plain_losses(model, tokens, range(0, length, 8))
    assert len(losses) == length - 1  # each but the first
    loss = whole_loss(model, tokens, TrainSettings(batch_size=batch_size, block_size=8), MACHINE)
    assert loss == pytest.approx(sum(losses) / len(losses), abs=1e-6)


def test_the_loss_does_not_depend_on_the_batch_size() -> None:
    losses = [
        whole_loss(small_model(), TOKENS, TrainSettings(batch_size=size), MACHINE)
        for size in (1, 2, 7, 64)
    ]
    assert losses == pytest.approx([losses[0]] * 4, abs=1e-6)


def test_the_estimate_is_the_mean_over_evenly_spaced_windows() -> None:
    model, losses = small_model(), []
    for start in (0, 30, 60, 91):
        losses += plain_losses(model, TOKENS[start : start + 9], range(1))
    assert len(losses) == 4 * 8
    estimate = estimated_loss(model, TOKENS, TrainSettings(batch_size=2, eval_iters=2), MACHINE)
    assert estimate == pytest.approx(sum(losses) / len(losses), abs=1e-6)


@pytest.mark.parametrize("measure", [whole_loss, estimated_loss])
def test_a_measurement_is_the_same_each_time_and_without_dropout(measure: object) -> None:
    model, without = small_model(dropout=0.5), small_model()
    losses = [
        measure(model.train(), TOKENS, TrainSettings(batch_size=4), MACHINE) for _ in range(3)
    ]
    assert losses == [measure(without, TOKENS, TrainSettings(batch_size=4), MACHINE)] * 3
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_untrained_model_has_the_loss_of_guessing() -> None:
    model = GPT(GPTConfig(vocab_size=11, block_size=8, n_embd=16))
    loss = whole_loss(model, TOKENS, TrainSettings(), MACHINE)
    assert loss == pytest.approx(math.log(11), abs=1e-6)


def test_a_loss_is_given_in_nats_and_bits() -> None:
    assert describe_loss(math.log(2)) == "0.6931 nats per character (1.000 bits)"


@pytest.mark.parametrize("make_tokenizer", [CharTokenizer.of, lambda text: ByteTokenizer()])
@given(text=st.text(min_size=2, max_size=50))
def test_losses_per_character_are_comparable_between_vocabularies(
    make_tokenizer: object, text: str
) -> None:
    """Mean loss × predicted tokens is the loss of a whole text. So the tokens that are predicted
    must account for all of its characters but those of the first token."""
    tokenizer: Tokenizer = make_tokenizer(text)
    tokens = np.array(tokenizer.encode(text), dtype=np.uint16)
    # of a character of several bytes, the first byte counts for all
    in_first_token = len(tokenizer.decode(tokens[:1].tolist()))
    characters = characters_per_token(tokens, tokenizer) * (len(tokens) - 1)
    assert characters == pytest.approx(len(text) - in_first_token)


def test_a_character_tokenizer_has_one_character_per_token() -> None:
    tokenizer = CharTokenizer.of("hello")
    assert characters_per_token(np.array(tokenizer.encode("hello")), tokenizer) == 1.0


def test_a_loss_is_given_per_character_and_also_per_token_where_they_differ() -> None:
    assert describe_loss(1.5) == "1.5000 nats per character (2.164 bits)"
    assert describe_loss(3.0, 2.0) == "3.0000 nats per token, 1.5000 per character (2.164 bits)"


def test_the_trivial_losses_are_those_of_guessing_and_of_token_frequencies() -> None:
    train, val = np.array([0, 0, 0, 1], dtype=np.uint16), np.array([0, 1, 2], dtype=np.uint16)
    uniform, by_frequencies = trivial_losses(train, val, vocab_size=4)
    assert uniform == math.log(4)
    # one is added to each count, so that no token has probability zero
    by_hand = -(math.log(4 / 8) + math.log(2 / 8) + math.log(1 / 8)) / 3
    assert by_frequencies == pytest.approx(by_hand)


def test_of_a_long_text_a_sample_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    probabilities = np.arange(1, 12) / 66
    random = np.random.default_rng(1)
    long = random.choice(11, p=probabilities, size=50_000).astype(np.uint16)
    _, whole = trivial_losses(sample_of(long), sample_of(long), 11)
    monkeypatch.setattr(frequencies, "COUNTED_TOKENS", 1 << 13)
    monkeypatch.setattr(frequencies, "COUNTED_RUN", 1 << 6)
    assert len(sample_of(long)) == 1 << 13
    _, sampled = trivial_losses(sample_of(long), sample_of(long), 11)
    assert sampled != whole
    assert sampled == pytest.approx(whole, abs=0.02)
    entropy = -sum(p * math.log(p) for p in probabilities)
    assert whole == pytest.approx(entropy, abs=0.02)


def test_the_trivial_losses_are_given_in_the_units_of_the_loss() -> None:
    described = describe_trivial_losses(4.1744, 3.3127)
    assert described == "4.1744 by guessing, 3.3127 by letter frequencies"
    described = describe_trivial_losses(6.0, 5.0, characters=2.0)
    assert described == (
        "6.0000 by guessing (3.0000 per character), 5.0000 by token frequencies (2.5000)"
    )
