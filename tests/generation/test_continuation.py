"""What a user can rely on of a text's end: stop strings stop, and characters stay whole."""

import json
from collections.abc import Sequence

import pytest
from helpers.generation import byte_pairs, model_with
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kqv.generation.continuation import Continuation
from kqv.generation.sampling import generate
from kqv.options.settings import SampleSettings
from kqv.text.byte_level import ByteTokenizer
from kqv.text.characters import CharTokenizer
from kqv.text.tokenizer import Tokenizer


def fed(text: str, stops: Sequence[str]) -> tuple[Continuation, list[str]]:
    """A continuation that got the text character by character, and what it showed after each."""
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
            beginnings = [stop[:n] for stop in stops for n in range(len(stop))]
            assert held == max((each for each in beginnings if text[:length].endswith(each)),
                               key=len, default="")  # fmt: skip


def test_without_stop_strings_each_character_is_shown_at_once() -> None:
    continuation, shown = fed("hello", [])
    assert shown == [*"hello", ""]
    assert json.loads(json.dumps(continuation.to_dict())) == {
        "text": "hello", "finish_reason": "length", "tokens": [*"hello"],
        "log_probabilities": [0.0, -1.0, -2.0, -3.0, -4.0],
    }  # fmt: skip


def test_nothing_is_added_after_a_stop() -> None:
    continuation, shown = fed("hello world", ["lo", "wor"])
    assert shown == ["h", "e", "", "l", *[""] * 8]
    assert continuation.to_dict()["text"] == "hel" and len(continuation.tokens) == 3


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
