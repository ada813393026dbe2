"""What a user can rely on of an encoder that fills in blanks: what it draws, from what, where."""

import itertools
from collections import Counter
from typing import Any

import pytest
import torch
from helpers.models import randomised

from kqv.generation.filling import (
    LIKELIEST,
    Step,
    encode_blanks,
    evenly,
    fill,
    fill_text,
    show_blanks,
    to_fill,
)
from kqv.options.settings import SampleSettings
from kqv.text.bpe import OWN_PATTERN, BpeTokenizer
from kqv.text.byte_level import ByteTokenizer
from kqv.text.characters import CharTokenizer
from kqv.text.tokenizer import MASK, Tokenizer
from model import GPT, GPTConfig

LETTERS = CharTokenizer.of("abcdefghij\n").with_markers(MASK)
BYTE_PAIRS = BpeTokenizer(
    "pairs", OWN_PATTERN, [bytes([byte]) for byte in range(256)] + [b"ab", b" a", b"abc"]
).with_markers(MASK)
ID = LETTERS.marker_id(MASK)


def encoder(tokenizer: Tokenizer = LETTERS, block_size: int = 12, **options: Any) -> GPT:
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 16, "architecture": "encoder"}
    return randomised(GPTConfig(tokenizer.padded_size, block_size, **shape | options), spread=0.5)


def steps_of(model: GPT, ids: list[int], **options: Any) -> list[Step]:
    sampling = SampleSettings(**options)
    return list(fill(model, ids, ID, sampling, vocab_size=LETTERS.vocab_size))


def texts_of(model: GPT, ids: list[int], **options: Any) -> list[list[int]]:
    """The filled texts, one per sample."""
    steps = steps_of(model, ids, **options)
    texts = torch.tensor([ids] * len(steps[0].places))
    for step in steps:
        assert (texts.gather(1, step.places) == ID).all()  # it wrote into blanks only
        texts.scatter_(1, step.places, step.tokens)
    return texts.tolist()


def blanked(text: str) -> list[int]:
    return encode_blanks(LETTERS, text, "_")[0]


@pytest.mark.parametrize("tokenizer", [LETTERS, ByteTokenizer(), BYTE_PAIRS])
@pytest.mark.parametrize("options", [{}, {"temperature": 0}, {"denoise_steps": 2}])
def test_only_blanks_change_and_all_are_filled(
    tokenizer: Tokenizer, options: dict[str, Any]
) -> None:
    model = encoder(tokenizer, position="learned", tie_weights=True)
    with torch.no_grad():  # a model that would write nothing but masks
        model.head.weight[tokenizer.marker_id(MASK)] += 100
    for seed in range(5):
        filled = fill_text(model, tokenizer, "ab_j__abc", SampleSettings(seed=seed, **options))
        assert filled.startswith("ab") and filled.endswith("abc") and "j" in filled
        assert MASK not in filled


def test_a_text_is_sampled_from_the_model_in_any_order() -> None:
    tokenizer = CharTokenizer("abc").with_markers(MASK)
    model, mask, count = encoder(tokenizer), 3, 4000
    settings = SampleSettings(temperature=1, num_samples=count)
    texts = torch.tensor([[0, mask, 1, mask]] * count)
    for step in fill(model, texts[0].tolist(), mask, settings):
        texts.scatter_(1, step.places, step.tokens)
    drawn = Counter(map(tuple, texts.tolist()))

    @torch.inference_mode()
    def chances(ids: list[int], place: int) -> list[float]:
        return model(torch.tensor([ids]))[0, place, :mask].softmax(-1).tolist()

    for one, two in itertools.product(range(3), repeat=2):
        left_first = chances([0, mask, 1, mask], 1)[one] * chances([0, one, 1, mask], 3)[two]
        right_first = chances([0, mask, 1, mask], 3)[two] * chances([0, mask, 1, two], 1)[one]
        expected = (left_first + right_first) / 2
        deviation = (expected * (1 - expected) / count) ** 0.5
        assert abs(drawn[0, one, 1, two] / count - expected) < 4 * deviation


@torch.inference_mode()
def test_at_temperature_0_the_surest_blank_is_filled_first() -> None:
    model, ids = encoder(), blanked("a__d___hi_")
    expected = torch.tensor([ids])
    order = []
    while (expected == ID).any():
        logits = model(expected)[0]
        logits[:, ID] = -torch.inf
        sure, tokens = logits.softmax(-1).max(-1)
        place = int(sure.masked_fill(expected[0] != ID, -1).argmax())
        order.append(place)
        expected[0, place] = tokens[place]
    steps = steps_of(model, ids, temperature=0, num_samples=2)
    assert [int(step.places[0, 0]) for step in steps] == order != sorted(order)
    assert texts_of(model, ids, temperature=0, num_samples=2) == expected.tolist() * 2


@torch.inference_mode()
def test_numbers_are_the_model_s_own_whatever_the_sampler_does() -> None:
    model, ids = encoder(), blanked("a__d___hi_")
    options = {"temperature": 0.5, "top_k": 4, "top_p": 0.9, "min_p": 0.01, "num_samples": 2}
    texts = torch.tensor([ids] * 2)
    for step in steps_of(model, ids, denoise_steps=3, **options):
        logits = model(texts)
        logits[..., ID] = -torch.inf
        computed = logits.log_softmax(-1)
        for number in range(2):
            at = computed[number, step.places[number]]
            taken = at.gather(1, step.tokens[number, :, None])[:, 0]
            torch.testing.assert_close(step.log_probabilities[number], taken)
            best = at.exp().topk(LIKELIEST)
            torch.testing.assert_close(step.chances[number], best.values)
            assert torch.equal(step.likeliest[number], best.indices)
        texts.scatter_(1, step.places, step.tokens)


@pytest.mark.parametrize(("steps", "counts"), [(0, [1] * 7), (3, [2, 2, 3]), (50, [1] * 7)])
def test_so_many_steps_fill_evenly_many_blanks_each(steps: int, counts: list[int]) -> None:
    made = steps_of(encoder(), blanked("_a__b____"), denoise_steps=steps, num_samples=2)
    assert evenly(7, steps) == counts == [step.places.shape[1] for step in made]


def test_a_seed_is_a_text_and_sample_k_is_the_same_alone_or_among_others() -> None:
    model, ids = encoder(), [ID] * 12
    one, other = (texts_of(model, ids, seed=seed, num_samples=4) for seed in (1, 2))
    assert one != other and len(set(map(tuple, one))) == 4
    for count in range(1, 4):
        assert texts_of(model, ids, seed=1, num_samples=count) == one[:count]


@pytest.mark.parametrize("position", ["rope", "learned", "relative"])
@pytest.mark.parametrize("before", ["", "a", "abcdefgh", "abcdefghij" * 3])
def test_a_longer_text_is_written_in_windows_each_after_half_of_the_one_before(
    before: str, position: str
) -> None:
    model = encoder(position=position)
    ids = to_fill(model, LETTERS, LETTERS.encode(before), 31)
    (written,) = texts_of(model, list(ids), temperature=0)
    assert written[: len(before)] == LETTERS.encode(before) and ID not in written
    length, first = len(ids), len(before)
    while first < length:  # every window by itself
        start = max(0, min(first - 6, length - 12))
        window = [*written[start:first], *[ID] * (min(start + 12, length) - first)]
        (expected,) = texts_of(model, window, temperature=0)
        assert written[start : start + 12] == expected
        first = start + 12


def test_a_prompt_without_blanks_is_continued_and_one_with_blanks_is_not() -> None:
    model, settings = encoder(), SampleSettings(max_new_tokens=5)
    assert fill_text(model, LETTERS, "abc", settings).startswith("abc")
    lengths = {"": 5, "abc": 8, "_": 1, "ab_d": 4, "abcdefghij\n": 16}
    assert {text: len(fill_text(model, LETTERS, text, settings)) for text in lengths} == lengths
    assert fill_text(model, LETTERS, "", SampleSettings(max_new_tokens=0)) == ""


def test_a_text_with_blanks_that_does_not_fit_is_refused(refused) -> None:
    with refused("13 characters", "block_size=12", "shorten"):
        to_fill(encoder(), LETTERS, blanked("abcdefgh_j\nab"), 5)


def test_a_blank_is_one_token_and_shown_again_as_it_was_given() -> None:
    for tokenizer in (LETTERS, ByteTokenizer(), BYTE_PAIRS):
        ids, skipped = encode_blanks(tokenizer, "ab?c?", "?")
        mask = tokenizer.marker_id(MASK)
        assert [i for i, token in enumerate(ids) if token == mask] == [len(ids) - 3, len(ids) - 1]
        assert show_blanks(tokenizer, ids, "?") == "ab?c?" and not skipped
    assert BYTE_PAIRS.encode("abc") == [258]  # a word that blanks cut is cut there
    assert encode_blanks(BYTE_PAIRS, "ab_", "_")[0] == [256, BYTE_PAIRS.marker_id(MASK)]


def test_unknown_characters_are_named_with_their_place_or_skipped(refused) -> None:
    with refused("'x'", "position 4"):
        encode_blanks(LETTERS, "a_b_x", "_")
    ids, skipped = encode_blanks(LETTERS, "a_bxy_", "_", "skip")
    assert ids == blanked("a_b_") and list(skipped) == ["x", "y"]


def test_a_blank_that_is_a_character_of_the_model_is_refused_if_the_text_has_it(refused) -> None:
    tokenizer = CharTokenizer.of("ab_#").with_markers(MASK)
    with refused("'_'", "--blank=%"):
        encode_blanks(tokenizer, "a_b", "_")
    assert encode_blanks(tokenizer, "ab", "_")[0] == tokenizer.encode("ab")
    assert encode_blanks(tokenizer, "a_%", "%")[0] == tokenizer.encode("a_" + MASK)


def test_a_vocabulary_without_a_mask_is_refused(refused) -> None:
    with refused("U+001A", "train"):
        encode_blanks(CharTokenizer.of("ab"), "a_b", "_")


def test_infinite_logits_are_refused(refused) -> None:
    model = encoder()
    with torch.no_grad():
        model.head.weight.fill_(torch.nan)
    with refused("not finite"):
        steps_of(model, [ID])
