"""What a user can rely on of prepared pairs: every pair is in them, and they are made once."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.pair_files import pairs_of, words, write_jsonl, write_tsv
from helpers.texts import write
from hypothesis import given, settings
from hypothesis import strategies as st

from kqv.errors import UserError
from kqv.project import ROOT
from kqv.text import pair_preparation
from kqv.text.characters import CharTokenizer
from kqv.text.dataset_folders import load_dataset, load_pairs
from kqv.text.datasets import open_dataset, open_texts, prepare_dataset
from kqv.text.pair_datasets import open_pairs, prepare_pairs
from kqv.text.pair_splits import left_out_remark
from kqv.text.tokenizer import DOCUMENT_END, PAIR_MARKERS, TARGET_BEGIN, UNKNOWN

TOKENIZERS = ["char", "jamo", "bytes", "bpe:300", "symbols"]
SIDE = st.text("ab é😀", min_size=1, max_size=6).filter(str.strip)
TRAIN = st.lists(st.tuples(SIDE, SIDE), min_size=2, max_size=30)


@settings(max_examples=40)
@given(TRAIN, st.sampled_from(["char", "bytes"]), st.sampled_from(["", "char", "bytes"]))
def test_all_pairs_are_prepared_and_the_last_tenth_is_for_validation(
    folder: Path, pairs: list[tuple[str, str]], tokenizer: str, target_tokenizer: str
) -> None:
    path = write_tsv(folder / "x.tsv", pairs)
    dataset = open_pairs([str(path)], tokenizer=tokenizer, target_tokenizer=target_tokenizer)
    cut = int(len(pairs) * 0.9)
    assert pairs_of(dataset, "train") == pairs[:cut]
    assert pairs_of(dataset, "val") == pairs[cut:]
    assert (dataset.train_pairs, dataset.val_pairs) == (cut, len(pairs) - cut)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("target_tokenizer", ["", *TOKENIZERS])
def test_each_tokenizer_does_for_either_side(
    tokenizer: str, target_tokenizer: str, tmp_path: Path
) -> None:
    if "bpe:300" in (tokenizer, target_tokenizer):
        pytest.importorskip("rustbpe")
    path = write_tsv(tmp_path / "x.tsv", words(60))
    dataset = open_pairs([str(path)], tokenizer=tokenizer, target_tokenizer=target_tokenizer)
    assert pairs_of(dataset, "train") + pairs_of(dataset, "val") == words(60)
    target = dataset.tokenizer
    assert target.name == (target_tokenizer or tokenizer)
    assert dataset.source_tokenizer.name == tokenizer
    assert (dataset.source_vocab_size == 0) == (not target_tokenizer)
    markers = [target.marker_id(marker) for marker in (TARGET_BEGIN, DOCUMENT_END)]
    if target.name != "bytes":
        assert markers == [target.vocab_size - 2, target.vocab_size - 1]


def test_one_vocabulary_is_made_from_both_sides_and_two_from_one_each(tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "x.tsv", [("ab", "cd"), ("a", "d")])
    one = open_pairs([str(path)])
    assert one.tokenizer == CharTokenizer("abcd" + UNKNOWN + PAIR_MARKERS)
    assert one.source_tokenizer is one.tokenizer
    two = open_pairs([str(path)], target_tokenizer="char")
    assert two.source_tokenizer == CharTokenizer("ab" + UNKNOWN + PAIR_MARKERS)
    assert two.tokenizer == CharTokenizer("cd" + UNKNOWN + PAIR_MARKERS)


def test_at_most_ten_thousand_pairs_are_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_preparation, "MAX_VALIDATION_PAIRS", 3)
    dataset = open_pairs([str(write_tsv(tmp_path / "x.tsv", words(100)))])
    assert (dataset.train_pairs, dataset.val_pairs) == (97, 3)


# --- a validation file of one's own ---------------------------------------------------------------


def test_with_validation_pairs_of_ones_own_all_others_are_to_train_on(tmp_path: Path) -> None:
    train = write_tsv(tmp_path / "x.tsv", words(20))
    val = write_jsonl(tmp_path / "y.jsonl", words(25)[20:])
    dataset = open_pairs([str(train)], [str(val)])
    assert pairs_of(dataset, "train") == words(20)
    assert pairs_of(dataset, "val") == words(25)[20:]
    assert dataset.sources == [str(train), f"--val_text={val}"] and dataset.title == "x.tsv"


def test_validation_pairs_may_be_two_files(tmp_path: Path) -> None:
    names = [str(write(tmp_path / name, f"{name}\n")) for name in ("a.de", "a.en", "b.de", "b.en")]
    dataset = open_pairs(names[:2], names[2:])
    assert pairs_of(dataset, "train") == [("a.de", "a.en")]
    assert pairs_of(dataset, "val") == [(f"{UNKNOWN}.de", f"{UNKNOWN}.en")]


@pytest.mark.parametrize("tokenizer", ["char", "jamo", "symbols"])
def test_what_only_validation_pairs_have_is_replaced_and_said(
    tokenizer: str, tmp_path: Path
) -> None:
    train = write_tsv(tmp_path / "x.tsv", [("a b", "c d")])
    val = write_tsv(tmp_path / "y.tsv", [("a x", "c y"), ("a b", "c"), ("a b", "x")])
    for _ in range(2):  # also when they are prepared already
        dataset = open_pairs([str(train)], [str(val)], tokenizer=tokenizer)
        expected = [(f"a {UNKNOWN}", f"c {UNKNOWN}"), ("a b", "c"), ("a b", UNKNOWN)]
        assert pairs_of(dataset, "val") == expected
        assert dataset.remark.startswith("2 of 3 validation pairs") and "'x' 'y'" in dataset.remark


def test_a_checkpoint_can_be_tested_without_the_pairs_it_was_trained_on(
    tmp_path: Path, refused: Callable
) -> None:
    trained = open_pairs(
        [str(write_tsv(tmp_path / "x.tsv", words(20)))], target_tokenizer="symbols"
    )
    val = str(write_tsv(tmp_path / "y.tsv", words(9)))
    tokenizers = trained.source_tokenizer, trained.tokenizer
    dataset = open_pairs((), [val], "utf-8", *tokenizers)
    assert pairs_of(dataset, "val") == words(9) and dataset.train_pairs == 0
    with refused("there are no pairs to train on"):
        dataset.open_split("train", 64)
    with refused("name what to train on, too"):
        open_pairs((), [val])


@pytest.mark.parametrize("tokenizer", ["char", "bytes", "bpe:300"])
def test_a_text_may_have_a_validation_text_of_its_own(tokenizer: str, tmp_path: Path) -> None:
    train, val = write(tmp_path / "x.txt", "the cat sat " * 99), write(tmp_path / "y.txt", "a mat!")
    dataset = open_texts([str(train)], tokenizer=tokenizer, val_words=[str(val)])
    decode = dataset.tokenizer.decode
    ids = [
        np.fromfile(dataset.folder / f"{split}.bin", np.uint16).tolist()
        for split in ("train", "val")
    ]
    assert [decode(each) for each in ids] == [train.read_text(), val.read_text()]
    assert dataset.folder != open_texts([str(train)], tokenizer=tokenizer).folder
    again = open_texts([str(train)], tokenizer=dataset.tokenizer, val_words=[str(val)])
    assert again.folder == dataset.folder and f"--val_text={val}" in again.sources
    alone = open_texts((), tokenizer=dataset.tokenizer, val_words=[str(val)])
    assert (alone.train_tokens, alone.val_tokens) == (0, dataset.val_tokens)


def test_a_validation_text_is_documents_if_the_others_are(tmp_path: Path) -> None:
    train = write(tmp_path / "x.jsonl", '{"text": "ab"}\n')
    dataset = open_texts([str(train)], val_words=[str(write(tmp_path / "y.txt", "ba"))])
    ids = np.fromfile(dataset.folder / "val.bin", np.uint16).tolist()
    assert dataset.tokenizer.decode(ids) == f"ba{DOCUMENT_END}"


def test_an_empty_validation_text_or_one_of_other_characters_is_refused(
    tmp_path: Path, refused: Callable
) -> None:
    train = str(write(tmp_path / "x.txt", "the cat"))
    with refused("y.txt: the text is empty"):
        open_texts([train], val_words=[str(write(tmp_path / "y.txt", ""))])
    with refused("1 characters that the checkpoint's vocabulary does not have", "'z'"):
        val = str(write(tmp_path / "z.txt", "z"))
        open_texts([train], tokenizer=CharTokenizer.of("the cat"), val_words=[val])


# --- what is refused ------------------------------------------------------------------------------


def test_too_few_pairs_are_refused(tmp_path: Path, refused: Callable) -> None:
    with refused("x.tsv: there are no pairs in it"):
        open_pairs([str(write(tmp_path / "x.tsv", "\n"))])
    with refused("y.tsv has one pair", "two or more", "--val_text="):
        open_pairs([str(write(tmp_path / "y.tsv", "a\tb\n"))])
    with refused("no such file"):
        open_pairs([str(tmp_path / "z.tsv")])


def test_a_checkpoint_that_lacks_a_character_to_train_on_or_the_markers_says_so(
    tmp_path: Path, refused: Callable
) -> None:
    path = str(write_tsv(tmp_path / "x.tsv", [("ab", "cd"), ("a", "d")]))
    with refused("1 characters that the checkpoint's vocabulary does not have", "'b'"):
        open_pairs([path], tokenizer=CharTokenizer("acd" + UNKNOWN + PAIR_MARKERS))
    with refused("no token U+0002", "train from scratch"):
        open_pairs([path], tokenizer=CharTokenizer("abcd"))


def test_pairs_without_their_record_are_not_taken_for_a_text(
    tmp_path: Path, refused: Callable
) -> None:
    dataset = open_pairs([str(write_tsv(tmp_path / "x.tsv", words(20)))])
    (dataset.folder / "prepared.json").unlink()
    with refused("prepared.json is missing", "prepare the pairs again"):
        load_dataset(dataset.folder)
    assert open_pairs([str(tmp_path / "x.tsv")]).train_pairs == 18  # naming them mends it


@pytest.mark.parametrize("tokenizer", ["jamo", "symbols"])
def test_some_tokenizers_are_for_pairs_only(
    tokenizer: str, tmp_path: Path, refused: Callable
) -> None:
    with refused(f"tokenizer={tokenizer} is for pairs"):
        open_texts([str(write(tmp_path / "x.txt", "the cat"))], tokenizer=tokenizer)


# --- longer than a block --------------------------------------------------------------------------


@given(TRAIN, st.integers(1, 8))
@settings(max_examples=60)
def test_pairs_longer_than_a_block_are_left_out_and_counted(
    folder: Path, pairs: list[tuple[str, str]], block_size: int
) -> None:
    path = str(write_tsv(folder / "x.tsv", [("a", "b"), *pairs, ("a", "b")]))
    dataset = open_pairs([path], [path], tokenizer="char")
    short = [pair for pair in pairs if max(len(pair[0]), len(pair[1]) + 1) <= block_size]
    kept = [("a", "b"), *short, ("a", "b")]
    if block_size < 2:
        with pytest.raises(UserError, match=r"all .* pairs to train on are longer"):
            dataset.open_split("train", block_size)
        return
    split = dataset.open_split("train", block_size)
    decode = dataset.tokenizer.decode
    found = [tuple(map(decode, split.pair(number))) for number in range(len(split))]
    assert found == kept and len(split.left_out) == len(pairs) - len(short)
    remark = left_out_remark(split, "train", block_size)
    assert bool(remark) == (len(short) < len(pairs))
    if remark:
        assert f"{len(pairs) - len(short)} of {len(pairs) + 2} pairs to train on" in remark
        whole = dataset.open_split("train", split.longest)
        assert not len(whole.left_out)
        assert len(dataset.open_split("train", split.longest - 1).left_out)


# --- made once, and found again -------------------------------------------------------------------


def test_pairs_are_prepared_once_and_again_when_anything_changes(tmp_path: Path) -> None:
    pairs = [(f"{source} a", target) for source, target in words(20)]
    path, val = write_tsv(tmp_path / "x.tsv", pairs), write_tsv(tmp_path / "y.tsv", words(5))
    folders = [
        open_pairs([str(path)], **options).folder
        for options in (
            {},
            {"tokenizer": "bytes"},
            {"target_tokenizer": "char"},
            {"target_tokenizer": "symbols"},
            {"val_words": [str(val)]},
            {"encoding": "latin-1"},
        )
    ]
    assert len(set(folders)) == len(folders)
    stamp = (folders[0] / "val.bin").stat()
    again = open_pairs([str(path)])
    assert again.folder == folders[0] and (folders[0] / "val.bin").stat() == stamp
    given_tokenizers = open_pairs([str(path)], tokenizer=again.tokenizer)
    assert given_tokenizers.folder == folders[0]
    write_tsv(path, [*pairs, ("a", "b")])
    assert open_pairs([str(path)]).folder not in folders


@pytest.mark.parametrize(
    "name", ["train.bin", "val.bin", "train.index.bin", "val.index.bin", "source_tokenizer.json"]
)
def test_damaged_pairs_are_prepared_again(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(write_tsv(tmp_path / "x.tsv", words(20)))
    dataset = open_pairs([path], target_tokenizer="char")
    whole = (dataset.folder / name).read_bytes()
    write(dataset.folder / name, whole[:-3])
    assert open_pairs([path], target_tokenizer="char").folder == dataset.folder
    assert (dataset.folder / name).read_bytes() == whole
    assert "damaged: the pairs are prepared again" in capsys.readouterr().err


def test_an_index_that_another_program_has_changed_is_refused(
    tmp_path: Path, refused: Callable
) -> None:
    dataset = open_pairs([str(write_tsv(tmp_path / "x.tsv", words(20)))])
    path = dataset.folder / "train.index.bin"
    index = np.fromfile(path, np.uint64)
    for place, value in ((3, 0), (3, 10**12), (5, index[4])):
        changed = index.copy()
        changed[place] = value
        changed.tofile(path)
        with refused("train.index.bin", "again"):
            dataset.open_split("train", 64)


# Prepares pairs, saves the progress after each list, and kills itself once.
SCRIPT = """
import os, signal, sys
from pathlib import Path
from kqv import project
from kqv.text import pair_files, pair_preparation, pair_tokenizing
from kqv.text.pair_datasets import open_pairs
from kqv.text.unfinished import PairProgress

def save_or_die(progress, workspace, save=PairProgress.save):
    if progress.done > int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    save(progress, workspace)

PairProgress.save = save_or_die
project.DATA, pair_files.MAX_LIST = Path(sys.argv[1]), 50
pair_tokenizing.SAVE_INTERVAL = pair_preparation.SAVE_INTERVAL = 0.0
dataset = open_pairs([sys.argv[2]], [sys.argv[2]], target_tokenizer="symbols")
print(dataset.folder)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.parametrize("most", [0, 320, 1150])
def test_a_killed_preparation_is_continued_where_it_was(
    most: int, tmp_path: Path, data: Path
) -> None:
    path = write_tsv(tmp_path / "x.tsv", words(1000))
    expected = open_pairs([str(path)], [str(path)], target_tokenizer="symbols")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "killed"), str(path)]
    killed = subprocess.run([*command, str(most)], cwd=ROOT, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    (note,) = (tmp_path / "killed").glob("cache/unfinished-*/progress.json")
    before = json.loads(note.read_text())["done"]
    assert before <= most
    done = subprocess.run([*command, str(10**9)], cwd=ROOT, capture_output=True, text=True)
    assert ("continuing what was prepared" in done.stderr) == (before > 0)
    folder = Path(done.stdout.strip())
    names = {path.name for path in expected.folder.iterdir()}
    assert {path.name for path in folder.iterdir()} == names
    for name in names:
        assert (folder / name).read_bytes() == (expected.folder / name).read_bytes()
    assert not list(folder.parent.glob("unfinished-*"))


# --- folders of data/ -----------------------------------------------------------------------------


def test_a_data_folder_of_pairs_is_opened_by_its_name(
    tmp_path: Path, data: Path, refused: Callable
) -> None:
    path = write_tsv(tmp_path / "x.tsv", words(20))
    prepared = prepare_pairs([path], data / "numbers", [path], target_tokenizer="symbols")
    dataset = open_dataset("numbers", target_tokenizer="symbols")
    assert dataset == prepared and dataset == open_dataset("numbers")
    assert pairs_of(dataset, "val") == words(20) and dataset.name == "numbers"
    with refused("tokens of symbols", "--target_tokenizer=bytes"):
        open_dataset("numbers", target_tokenizer="bytes")


def test_pairs_of_a_checkpoint_that_are_gone_or_damaged_are_named(
    tmp_path: Path, data: Path, refused: Callable
) -> None:
    dataset = open_pairs([str(write_tsv(tmp_path / "x.tsv", words(20)))])
    how = dataset.tokenizer, dataset.sources, "python train.py x.tsv"
    assert open_dataset(dataset.name, *how) == dataset
    (dataset.folder / "val.index.bin").unlink()
    with refused("prepared ids of x.tsv are damaged", "python train.py x.tsv"):
        open_dataset(dataset.name, *how)


def test_a_data_folder_with_a_text_is_no_pairs(
    tmp_path: Path, data: Path, refused: Callable
) -> None:
    prepare_dataset([write(tmp_path / "x.txt", "the cat")], data / "x")
    with refused("holds a text, no pairs"):
        load_pairs(data / "x")


def test_pairs_and_a_text_in_one_folder_replace_each_other(
    tmp_path: Path, data: Path, refused: Callable
) -> None:
    text, path = write(tmp_path / "x.txt", "the cat"), write_tsv(tmp_path / "x.tsv", words(20))
    for _ in range(2):
        prepare_pairs([path], data / "x", target_tokenizer="symbols")
        assert len(list((data / "x").iterdir())) == 7
        prepare_dataset([text], data / "x")
        assert open_dataset("x").tokenizer.name == "char"
        assert len(list((data / "x").iterdir())) == 4


@pytest.mark.skipif(os.name != "posix", reason="needs named pipes")
def test_pairs_can_come_from_two_pipes(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("a\nb\n")
    script = (
        "import sys; from pathlib import Path; from kqv import project;"
        "from kqv.text.pair_datasets import open_pairs; project.DATA = Path(sys.argv[1]);"
        "print(open_pairs(sys.argv[2:], target_tokenizer='char').tokenizer.characters)"
    )
    command = f'exec "$0" -c "$1" {tmp_path / "data"} <(echo a; echo b) <(echo c; echo d)'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, script], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.strip("\n") == "cd" + UNKNOWN + PAIR_MARKERS, done.stderr
