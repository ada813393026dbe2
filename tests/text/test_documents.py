"""What a user can rely on of documents (JSON lines, Parquet): each one is tokenized by itself."""

from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
from helpers.byte_pairs import PAIRS, WITH_END
from helpers.texts import ids_of, reading_pieces_of, write_json_lines
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kqv.text.byte_level import ByteTokenizer
from kqv.text.characters import CharTokenizer
from kqv.text.datasets import open_texts, prepare_dataset
from kqv.text.tokenizer import DOCUMENT_END, Tokenizer

WORDS = st.sampled_from(
    [
        *("the cat", " the", "th", "...", "\n\n", " "),
        *("<|endoftext|>", "山", "a", "\r\n", "at. The cat sat"),
    ]
)
DOCUMENTS = st.lists(st.lists(WORDS, max_size=8).map("".join), min_size=2, max_size=8)


@settings(max_examples=60)
@given(DOCUMENTS, st.integers(1, 20), st.sampled_from([PAIRS, WITH_END, ByteTokenizer()]))
@example(["the cat"] * 9, 3, WITH_END)
@example(["the ", "cat.", ".", " the"], 100, PAIRS)
def test_each_document_is_encoded_by_itself_and_followed_by_its_end(
    folder: Path, documents: list[str], piece: int, tokenizer: Tokenizer
) -> None:
    end = 263 if tokenizer is WITH_END else 3  # <|endoftext|>, or the byte U+0003
    each = [[*tokenizer.encode(text), end] for text in documents]
    ends = np.cumsum([len(text) + 1 for text in documents]).tolist()
    # Training split: up to the first end of a document at or after 90 %, without the last document.
    count = next(
        i for i in range(1, len(ends)) if ends[i - 1] >= int(0.9 * ends[-1]) or i == len(ends) - 1
    )
    path = write_json_lines(folder / "documents.jsonl", documents)
    with reading_pieces_of(piece):
        dataset = prepare_dataset([path], folder / "ids", tokenizer=tokenizer)
    assert ids_of(dataset) == (list(chain(*each[:count])), list(chain(*each[count:])))


def test_characters_have_the_end_of_a_document_as_a_character(tmp_path: Path) -> None:
    dataset = open_texts([str(write_json_lines(tmp_path / "x.jsonl", ["abc", "abd", "b"]))])
    assert dataset.tokenizer == CharTokenizer(DOCUMENT_END + "abcd")
    assert [dataset.tokenizer.decode(ids) for ids in ids_of(dataset)] == [
        f"abc{DOCUMENT_END}abd{DOCUMENT_END}",
        f"b{DOCUMENT_END}",
    ]


def test_one_document_is_cut_like_any_text(tmp_path: Path) -> None:
    dataset = open_texts([str(write_json_lines(tmp_path / "x.jsonl", ["abcdefghi"]))])
    assert [dataset.tokenizer.decode(ids) for ids in ids_of(dataset)] == ["abcdefghi", DOCUMENT_END]


def test_the_end_of_a_document_is_no_more_than_a_character_in_a_text_without_documents(
    tmp_path: Path,
) -> None:
    text = f"the cat..{DOCUMENT_END}.." * 10
    (tmp_path / "x.txt").write_text(text)
    train, val = ids_of(open_texts([str(tmp_path / "x.txt")], tokenizer=WITH_END))
    assert (train, val) == (
        WITH_END.encode(text[: len(text) * 9 // 10]),
        WITH_END.encode(text[len(text) * 9 // 10 :]),
    )
    assert 263 not in train + val


def test_half_a_character_in_a_document_is_refused_by_name(
    tmp_path: Path, refused: Callable
) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "\\ud83d"}\n')
    with refused("x.jsonl", "half of a surrogate pair"):
        open_texts([str(tmp_path / "x.jsonl")])
