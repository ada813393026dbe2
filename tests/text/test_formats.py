"""What a user can rely on of formats: compressed texts are read as they were, mistakes named."""

import gzip
import importlib
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kqv.errors import UserError
from kqv.text import formats
from kqv.text.sources import text_files
from kqv.text.texts import Texts
from kqv.text.tokenizer import DOCUMENT_END

parquet = pytest.importorskip("pyarrow.parquet")
zstd = pytest.importorskip("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
pyarrow = importlib.import_module("pyarrow")

TEXT = "The cat sat on the mat.\r\n山水 é\n" * 200
DOCUMENTS = [
    "One document.\n",
    "",
    "Another,\r\nof two lines",
    f"with an {DOCUMENT_END} inside",
    "山水",
]
ANY_DOCUMENTS = st.lists(st.text(st.characters(codec="utf-8"), max_size=20), min_size=1, max_size=6)


def write_documents(path: Path, documents: list[str], field: str = "text") -> Path:
    """Documents as a file of the format that its name says."""
    if path.suffix == ".parquet":
        table = pyarrow.table({"number": list(range(len(documents))), field: documents})
        parquet.write_table(table, path, row_group_size=2)
        return path
    lines = "\n".join(json.dumps({"number": i, field: text}) for i, text in enumerate(documents))
    compress = {".gz": gzip.compress, ".zst": zstd.compress}.get(path.suffix, bytes)
    path.write_bytes(compress(lines.encode()))
    return path


def content_of(*paths: Path, **how: str) -> str:
    return "".join(text for _, text in Texts(paths, **how).pieces())


@pytest.mark.parametrize("suffix", [".txt.gz", ".txt.zst", ".md.gz"])
def test_a_compressed_text_is_the_text(suffix: str, tmp_path: Path) -> None:
    compress = gzip.compress if suffix.endswith("gz") else zstd.compress
    path, plain = tmp_path / f"a{suffix}", tmp_path / "a.txt"
    half = len(TEXT) // 2
    # Several parts, as pigz and pzstd write.
    path.write_bytes(compress(TEXT[:half].encode()) + compress(TEXT[half:].encode()))
    plain.write_text(TEXT, newline="")
    assert content_of(path) == content_of(plain) == TEXT.replace("\r\n", "\n")
    assert content_of(path, plain) == content_of(plain) * 2


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.zst", "a.jsonl.zst", "a.parquet"])
def test_half_a_compressed_file_is_refused_by_name(
    name: str, tmp_path: Path, refused: Callable
) -> None:
    whole = write_documents(tmp_path / name, [TEXT[i:] for i in range(9)]).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with refused(name, "damaged or cut short"):
        content_of(tmp_path / name)
    (tmp_path / name).write_bytes(b"this is something else")
    with refused(name, "damaged or cut short"):
        content_of(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "package"), [("a.txt.zst", "backports.zstd"), ("a.parquet", "datasets")]
)
def test_a_missing_package_is_named(
    name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable
) -> None:
    path = write_documents(tmp_path / name, DOCUMENTS)
    for module in ("backports.zstd", "compression.zstd", "pyarrow"):
        monkeypatch.setitem(sys.modules, module, None)
    with refused(name.rpartition(".")[2], f"pip install {package}"):
        content_of(path)


@settings(max_examples=30)
@given(
    ANY_DOCUMENTS,
    st.sampled_from([".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"]),
    st.integers(1, 30),
)
@example(DOCUMENTS, ".jsonl", 5)
def test_each_document_ends_with_u0003_and_is_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, documents: list[str], suffix: str, piece: int
) -> None:
    path = write_documents(tmp_path_factory.getbasetemp() / f"documents{suffix}", documents, "body")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "PIECE_SIZE", piece)
        pieces = [text for _, text in Texts([path], text_field="body").pieces()]
    expected = [text.replace(DOCUMENT_END, "") + DOCUMENT_END for text in documents]
    assert "".join(pieces) == "".join(expected)
    assert all(0 < len(text) <= piece for text in pieces)


def test_a_plain_text_among_documents_is_one_of_them(tmp_path: Path) -> None:
    plain = tmp_path / "plain.txt"
    plain.write_bytes(b"\xef\xbb\xbfA plain\r\ntext \x03 without an end")
    lines = write_documents(tmp_path / "lines.jsonl", ["one", "two"])
    assert content_of(plain, lines) == "A plain\ntext  without an end\x03one\x03two\x03"
    assert content_of(lines, plain) == "one\x03two\x03A plain\ntext  without an end\x03"
    # Plain texts alone stay as they are, U+0003 included.
    twice = content_of(plain, plain)
    assert twice.count(DOCUMENT_END) == 2 and "\nA plain" in twice


def test_other_endings_are_plain_text_and_usual_ones_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_bytes("# Überschrift\r\n".encode("latin-1"))
    (tmp_path / "b.md.gz").write_bytes(gzip.compress("# é\n".encode("latin-1")))
    files = text_files(str(tmp_path), tmp_path, (".md",))
    assert content_of(*files, encoding="latin-1") == "# Überschrift\n# é\n"
    write_documents(tmp_path / "c.jsonl", ["one"])
    assert content_of(*text_files(str(tmp_path), tmp_path, (".jsonl",))) == f"one{DOCUMENT_END}"


BAD_LINES = {
    '{"text": "one"}\n\n{"txet": "x", "n": 1}': [
        "line 3",
        "no text under 'text'",
        "txet",
        "--text_field=",
    ],
    '{"text": "one"}\n{"text": 5}': ["line 2", "the value of 'text' is not a string"],
    '{"source": "one", "target": "two"}': ["line 1", "add --architecture=encoder_decoder"],
    '{"text": "one"}\n["text"]': ["line 2", "no text under"],
    '{"text": "one"}\n{"text": "tw': ["line 2", "invalid JSON"],
    "[" * 100_000: ["line 1", "invalid JSON"],
    '{"text": "' + "x" * 2000 + '"}': ["line 1", "less than 1,000 bytes"],
}


@pytest.mark.parametrize("lines", BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_line_without_a_text_is_named(
    lines: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable
) -> None:
    monkeypatch.setattr(formats, "MAX_LINE_BYTES", 1000 if "xxx" in lines else 1 << 20)
    path = tmp_path / "bad.jsonl"
    path.write_text(lines)
    with refused("bad.jsonl", *BAD_LINES[lines]):
        content_of(path)


def test_a_table_without_the_field_names_those_that_it_has(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"a\.parquet, row 1: there is no text under 'text'; it has body: name one"
    ):
        content_of(write_documents(tmp_path / "a.parquet", DOCUMENTS, "body"))


def test_nothing_is_shown_for_a_small_text_and_lines_for_a_large_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.txt"
    path.write_text(TEXT)
    content_of(path)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("kqv.progress.QUIET_SECONDS", 0.0)
    monkeypatch.setattr("kqv.progress.LINE_INTERVAL", 0.0)
    content_of(path)
    size = path.stat().st_size
    assert capsys.readouterr().err == f"reading: {size:,} of {size:,} bytes, 00:00 left\n"
