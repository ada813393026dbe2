"""What a user can rely on of files of pairs: every pair is read, and what is none is named."""

import gzip
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.pair_files import write_jsonl, write_tsv
from helpers.texts import reading_pieces_of, write
from hypothesis import given
from hypothesis import strategies as st

from kqv.text import pair_files
from kqv.text.pair_files import PairFiles

SIDE = st.text("ab \u2028\x0b\x85é😀", min_size=1, max_size=6).filter(str.strip)
PAIRS = st.lists(st.tuples(SIDE, SIDE), min_size=1, max_size=8)
PIECES = st.integers(1, 9)  # bytes read at a time, instead of a million


def read(*paths: Path, **options: str) -> list[tuple[str, str]]:
    """All pairs of some files."""
    return [pair for pairs in PairFiles(paths, **options).lists() for pair in pairs]


@given(PAIRS, PIECES)
def test_pairs_come_back_from_each_format(
    folder: Path, pairs: list[tuple[str, str]], piece: int
) -> None:
    one = write(folder / "x.de", "".join(f"{source}\n" for source, _ in pairs))
    other = write(folder / "x.en", "\r\n".join(target for _, target in pairs))
    with reading_pieces_of(piece):
        assert read(write_tsv(folder / "x.tsv", pairs)) == pairs
        assert read(write_tsv(folder / "x.tsv.gz", pairs)) == pairs
        assert read(write_jsonl(folder / "x.jsonl", pairs)) == pairs
        assert read(one, other) == pairs


def test_zst_is_unpacked_too(tmp_path: Path) -> None:
    zstd = pytest.importorskip("backports.zstd")
    path = write(tmp_path / "x.tsv.zst", zstd.compress(b"a\tb\n"))
    assert read(path) == [("a", "b")]


def test_several_files_follow_each_other_and_one_without_an_ending_is_read_like_tsv(
    tmp_path: Path,
) -> None:
    tsv = write_tsv(tmp_path / "x.tsv", [("a", "b")])
    jsonl = write_jsonl(tmp_path / "y.jsonl", [("c", "d")])
    assert read(tsv, jsonl, tsv) == [("a", "b"), ("c", "d"), ("a", "b")]
    assert read(write(tmp_path / "pairs", "a\tb\n")) == [("a", "b")]


def test_tabs_and_newlines_within_json_belong_to_the_text(tmp_path: Path) -> None:
    assert read(write_jsonl(tmp_path / "x.jsonl", [("a\tb\n", "c\r")])) == [("a\tb\n", "c\r")]


def test_other_fields_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", json.dumps({"de": "a", "en": "b", "id": 5}))
    assert read(path, source_field="de", target_field="en") == [("a", "b")]


def test_empty_lines_are_no_pairs(tmp_path: Path) -> None:
    assert read(write(tmp_path / "x.tsv", "\na\tb\n\n \n")) == [("a", "b")]
    assert read(write(tmp_path / "x.jsonl", '\n{"source": "a", "target": "b"}\n\n')) == [("a", "b")]
    one, other = write(tmp_path / "x.de", "a\n\nc\n"), write(tmp_path / "x.en", "b\n \nd\n")
    assert read(one, other) == [("a", "b"), ("c", "d")]


WRONG_TSV = {
    "a\tb\nc\n": ["x.tsv, line 2 has no tab", "a source, one tab and a target"],
    "a\tb\nc\td\te\n": ["x.tsv, line 2 has 2 tabs"],
    "a\tb\n\tb\n": ["x.tsv, line 2: the source is empty"],
    "a\t \n": ["x.tsv, line 1: the target is empty"],
    "a\tb\n\na\tb\x02\n": ["x.tsv, line 3: the target", "U+0002", "take it out"],
    "\x03a\tb": ["x.tsv, line 1: the source", "U+0003"],
    "a\tb\na\t\ufffd".encode()[:-1]: ["x.tsv is not utf-8", "line 2", "--encoding="],
}


@pytest.mark.parametrize("content", WRONG_TSV, ids=repr)
@pytest.mark.parametrize("piece", [1, 1000])
def test_a_line_that_is_no_pair_is_named(
    content: str | bytes, piece: int, tmp_path: Path, refused: Callable
) -> None:
    with reading_pieces_of(piece), refused(*WRONG_TSV[content]):
        read(write(tmp_path / "x.tsv", content))


WRONG_JSON = {
    '{"source": "a", "target": "b"}\n{"source": "a"': ["line 2", "invalid JSON"],
    '{"source": "a", "en": "b"}': ["line 1", "'target'", "it has source, en", "--target_field="],
    '{"source": 5, "target": "b"}': ["line 1", "the value of 'source' is not a string"],
    "[1]": ["line 1", "'source'"],
    '{"source": "a", "target": ""}': ["line 1: the target is empty"],
    '{"source": "\\ud800", "target": "b"}': ["line 1", "U+D800", "surrogate"],
}


@pytest.mark.parametrize("content", WRONG_JSON)
def test_an_object_that_is_no_pair_is_named(
    content: str, tmp_path: Path, refused: Callable
) -> None:
    with refused("x.jsonl", *WRONG_JSON[content]):
        read(write(tmp_path / "x.jsonl", content))


@pytest.mark.parametrize(("sources", "targets"), [("a\nb\nc\n", "a\nb\n"), ("a\nb\n", "a\nb\nc")])
def test_two_files_of_unequal_length_are_refused_with_the_line(
    sources: str, targets: str, tmp_path: Path, refused: Callable
) -> None:
    one, other = write(tmp_path / "x.de", sources), write(tmp_path / "x.en", targets)
    longer = "x.de" if len(sources) > len(targets) else "x.en"
    with refused(f"{longer} has a line 3", "ends before it"):
        read(one, other)


def test_an_empty_side_of_two_files_is_named_by_its_file(tmp_path: Path, refused: Callable) -> None:
    one, other = write(tmp_path / "x.de", "a\nb\n"), write(tmp_path / "x.en", "a\n\n")
    with refused("x.en, line 2: the target is empty"):
        read(one, other)


@pytest.mark.parametrize("names", [("a.tsv", "b.txt"), ("a.txt", "b.txt", "c.txt")])
def test_files_that_cannot_be_pairs_are_refused_by_their_names(
    names: tuple[str, ...], refused: Callable
) -> None:
    with refused(".txt is no .tsv or .jsonl file", "two others"):
        PairFiles([Path(name) for name in names])


def test_half_of_a_packed_file_is_damaged(tmp_path: Path, refused: Callable) -> None:
    data = gzip.compress("".join(f"{i}\t{os.urandom(9).hex()}\n" for i in range(999)).encode())
    with refused("x.tsv.gz is damaged or cut short"):
        read(write(tmp_path / "x.tsv.gz", data[: len(data) // 2]))


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, refused: Callable) -> None:
    path = write_tsv(tmp_path / "x.tsv", [("a", "b")])
    files = PairFiles([path])
    assert files.texts.stamps
    write(path, "half of a li")
    with refused("x.tsv changed while it was read"):
        list(files.lists())


def test_null_characters_are_characters(tmp_path: Path) -> None:
    assert read(write(tmp_path / "x.tsv", "a\0b\t\0\n")) == [("a\0b", "\0")]


@pytest.mark.parametrize("name", ["x.tsv.gz", "x.jsonl.gz"])
def test_a_line_without_end_does_not_fill_the_memory(
    name: str, tmp_path: Path, refused: Callable
) -> None:
    path = write(tmp_path / name, gzip.compress(b"a" * 100_000_000, 1))
    tracemalloc.start()
    with refused(name, "line 1", f"{pair_files.MAX_LINE:,}"):
        read(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * pair_files.MAX_LINE
