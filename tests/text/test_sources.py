"""What a user can rely on of formats: packed texts are read as they were, documents stay apart, a mistake is named."""

import errno
import gzip
import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kqv.errors import UserError
from kqv.text import formats
from kqv.text.sources import read_endings, text_files
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


def written(path: Path, documents: list[str], field: str = "text") -> Path:
    """Documents as a file of the format that its name says."""
    if path.suffix == ".parquet":
        table = pyarrow.table({"number": list(range(len(documents))), field: documents})
        parquet.write_table(table, path, row_group_size=2)
        return path
    lines = "\n".join(
        json.dumps({"number": i, field: text}) for i, text in enumerate(documents)
    ).encode()
    packed = {".gz": gzip.compress, ".zst": zstd.compress}.get(path.suffix, bytes)
    path.write_bytes(packed(lines))
    return path


def text_of(*paths: Path, **how: str) -> str:
    return "".join(text for _, text in Texts(paths, **how).pieces())


@pytest.mark.parametrize("suffix", [".txt.gz", ".txt.zst", ".md.gz"])
def test_a_packed_text_is_the_text(suffix: str, tmp_path: Path) -> None:
    pack = gzip.compress if suffix.endswith("gz") else zstd.compress
    path, plain = tmp_path / f"a{suffix}", tmp_path / "a.txt"
    half = len(TEXT) // 2
    path.write_bytes(
        pack(TEXT[:half].encode()) + pack(TEXT[half:].encode())
    )  # as pigz and pzstd write: in several parts
    plain.write_text(TEXT, newline="")
    assert text_of(path) == text_of(plain) == TEXT.replace("\r\n", "\n")
    assert text_of(path, plain) == text_of(plain) * 2


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.zst", "a.jsonl.zst", "a.parquet"])
def test_half_a_packed_file_is_refused_by_name(
    name: str, tmp_path: Path, refused: Callable
) -> None:
    whole = written(tmp_path / name, [TEXT[i:] for i in range(9)]).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with refused(name, "damaged or cut short"):
        text_of(tmp_path / name)
    (tmp_path / name).write_bytes(b"this is something else")
    with refused(name, "damaged or cut short"):
        text_of(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "package"), [("a.txt.zst", "backports.zstd"), ("a.parquet", "datasets")]
)
def test_a_missing_package_is_named(
    name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable
) -> None:
    path = written(tmp_path / name, DOCUMENTS)
    for module in ("backports.zstd", "compression.zstd", "pyarrow"):
        monkeypatch.setitem(importlib.import_module("sys").modules, module, None)
    with refused(name.rpartition(".")[2], f"pip install {package}"):
        text_of(path)


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
    path = written(tmp_path_factory.getbasetemp() / f"documents{suffix}", documents, "body")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "PIECE_SIZE", piece)
        pieces = [text for _, text in Texts([path], text_field="body").pieces()]
    assert "".join(pieces) == "".join(
        text.replace(DOCUMENT_END, "") + DOCUMENT_END for text in documents
    )
    assert all(0 < len(text) <= piece for text in pieces)


def test_a_plain_text_among_documents_is_one_of_them(tmp_path: Path) -> None:
    plain = tmp_path / "plain.txt"
    plain.write_bytes(b"\xef\xbb\xbfA plain\r\ntext \x03 without an end")
    lines = written(tmp_path / "lines.jsonl", ["one", "two"])
    assert (
        text_of(plain, lines)
        == f"A plain\ntext  without an end{DOCUMENT_END}one{DOCUMENT_END}two{DOCUMENT_END}"
    )
    assert (
        text_of(lines, plain)
        == f"one{DOCUMENT_END}two{DOCUMENT_END}A plain\ntext  without an end{DOCUMENT_END}"
    )
    assert text_of(plain, plain).count(DOCUMENT_END) == 2 and "\nA plain" in text_of(
        plain, plain
    )  # alone, it is as it was


def test_a_folder_stands_for_its_texts_of_all_formats_in_order_of_name(tmp_path: Path) -> None:
    names = [
        "a.txt",
        "b.txt.gz",
        "c.jsonl",
        "d.jsonl.zst",
        "e.parquet",
        "f.md",
        "g.gz",
        "h.json",
        "sub/i.txt.zst",
    ]
    (tmp_path / "sub").mkdir()
    for name in names:
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in text_files(str(tmp_path), tmp_path)]
    assert found == ["a.txt", "b.txt.gz", "c.jsonl", "d.jsonl.zst", "e.parquet", "sub/i.txt.zst"]


def touched(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def read_from(folder: Path, endings: str = "") -> list[str]:
    found = text_files(str(folder), folder, read_endings(endings))
    return [path.relative_to(folder).as_posix() for path in found]


def test_hidden_and_linked_folders_are_skipped_and_one_line_says_what_was_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [
        "a.txt",
        "b.txt",
        "c.jsonl.gz",
        "sub/d.txt",
        "x.md",
        "y.md",
        "sub/z.png",
        "README",
        "old.TXT",
    ]
    folder = touched(
        tmp_path / "letters", *names, ".secret/e.txt", "sub/.venv/f.txt", ".hidden.txt"
    )
    (folder / "circle").symlink_to(folder)
    (folder / "loop.txt").symlink_to(folder / "loop.txt")
    os.mkfifo(folder / "pipe.txt")
    assert read_from(folder) == ["a.txt", "b.txt", "c.jsonl.gz", "sub/d.txt"]
    assert capsys.readouterr().err == (
        f"{folder}: reading 3 .txt and 1 .jsonl.gz files; skipped 2 .md, 1 .TXT, 1 .png, 1 broken link, 1 extensionless file, "
        f"1 hidden file, 2 hidden folders, 1 linked folder and 1 special file; --endings=md,py reads these endings instead\n"
    )
    assert read_from(folder / "sub" / ".venv") == ["f.txt"]  # who names it means it
    assert capsys.readouterr().err == f"{folder}/sub/.venv: reading 1 .txt file\n"


def test_the_endings_that_are_named_are_read_and_no_others(tmp_path: Path) -> None:
    folder = touched(
        tmp_path / "x",
        "a.md",
        "b.py.gz",
        "c.txt",
        "d.html",
        "sub/e.md.zst",
        "f.jsonl",
        "md",
        ".git/g.md",
        "h.rmd",
    )
    for option in ("md,py", ".md, .py", "*.md,*.py"):
        assert read_from(folder, option) == ["a.md", "b.py.gz", "sub/e.md.zst"]
    assert read_from(folder, "html") == ["d.html"]
    assert read_from(folder, "jsonl,txt") == ["c.txt", "f.jsonl"]


def test_other_endings_are_plain_text_and_usual_ones_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_bytes("# Überschrift\r\n".encode("latin-1"))
    (tmp_path / "b.md.gz").write_bytes(gzip.compress("# é\n".encode("latin-1")))
    assert (
        text_of(*text_files(str(tmp_path), tmp_path, (".md",)), encoding="latin-1")
        == "# Überschrift\n# é\n"
    )
    written(tmp_path / "c.jsonl", ["one"])
    assert text_of(*text_files(str(tmp_path), tmp_path, (".jsonl",))) == f"one{DOCUMENT_END}"


def test_a_folder_without_the_endings_says_which_it_has(tmp_path: Path, refused: Callable) -> None:
    folder = touched(tmp_path / "x", "a.md", "b.md", "c.py", ".git/d.txt")
    with refused(
        f"{folder} has no .txt, .jsonl or .parquet files, but 2 .md, 1 .py and 1 hidden folder: --endings=md reads"
    ):
        read_from(folder)
    with refused(f"{folder} has no .html files"):
        read_from(folder, "html")
    with refused("endings=md,, has an empty one", "--endings=md,py"):
        read_from(folder, "md,,")


def test_a_folder_that_cannot_be_read_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable
) -> None:
    folder = touched(tmp_path / "x", "a.txt", "closed/b.txt")

    def scandir(path: str, real: Callable = os.scandir) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)  # the mode of a folder says nothing to root
    with refused(f"{folder / 'closed'} cannot be read: Permission denied"):
        read_from(folder)


BAD_LINES = {
    '{"text": "one"}\n\n{"txet": "x", "n": 1}': [
        "line 3",
        "no text under 'text'",
        "txet",
        "--text_field=",
    ],
    '{"text": "one"}\n{"text": 5}': ["line 2", "no text under 'text'", "--text_field="],
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
        text_of(path)


def test_a_table_without_the_field_names_those_that_it_has(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"a\.parquet, row 1: there is no text under 'text'; it has body: name one"
    ):
        text_of(written(tmp_path / "a.parquet", DOCUMENTS, "body"))


def test_nothing_is_shown_for_a_small_text_and_lines_for_a_large_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.txt"
    path.write_text(TEXT)
    text_of(path)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("kqv.progress.QUIET_SECONDS", 0.0)
    monkeypatch.setattr("kqv.progress.LINE_INTERVAL", 0.0)
    text_of(path)
    size = path.stat().st_size
    assert capsys.readouterr().err == f"reading: {size:,} of {size:,} bytes, 00:00 left\n"
