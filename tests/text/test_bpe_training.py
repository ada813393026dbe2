"""What a user can rely on of trained byte pairs: the same vocabulary each time."""

from pathlib import Path

import pytest
from helpers.texts import ids_of, write_json_lines

from kqv.text.bpe import BpeTokenizer
from kqv.text.datasets import open_texts
from kqv.text.registry import make_tokenizer
from kqv.text.tokenizer import DOCUMENT_END

TEXT = "the cat and the hat and the mat\n" * 50


def test_the_same_text_gives_the_same_vocabulary(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("rustbpe")
    whole = make_tokenizer("bpe:262", "", [TEXT])
    in_pieces = make_tokenizer("bpe:262", "", (TEXT[i : i + 7] for i in range(0, len(TEXT), 7)))
    assert whole == in_pieces and whole.vocab_size == 262 and whole.name == "bpe:262"
    assert {b" the", b"at"} <= {whole.token_bytes(token) for token in range(256, 262)}
    assert capsys.readouterr().err == ""


def test_a_short_text_gives_fewer_tokens_which_is_reported(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("rustbpe")
    tokenizer = make_tokenizer("bpe:1024", "", ["the cat"])
    assert tokenizer.vocab_size == 261 and tokenizer.name == "bpe:1024"
    assert capsys.readouterr().err.startswith("the text gave 261 tokens of the 1024 asked for")


def test_a_vocabulary_trained_on_documents_ends_with_endoftext(tmp_path: Path) -> None:
    pytest.importorskip("rustbpe")
    path = write_json_lines(tmp_path / "x.jsonl", ["the cat sat on the mat"] * 50)
    tokenizer = open_texts([str(path)], tokenizer="bpe:265").tokenizer
    assert isinstance(tokenizer, BpeTokenizer)
    assert (
        tokenizer.vocab_size == 265
        and tokenizer.special == {"<|endoftext|>": 264}
        and tokenizer.name == "bpe:265"
    )
    assert not any(DOCUMENT_END.encode() in token and len(token) > 1 for token in tokenizer.tokens)
    assert ids_of(open_texts([str(path)], tokenizer=tokenizer))[0].count(264) == 45
