"""What a user can rely on of --dataset=: it is prepared once, and nothing else is run."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.byte_pairs import PAIRS
from helpers.texts import nanogpt_meta, text_of, texts_of, write

from kqv.project import ROOT
from kqv.text import dataset_folders
from kqv.text.bpe import OWN_PATTERN, BpeTokenizer
from kqv.text.byte_level import ByteTokenizer
from kqv.text.datasets import open_dataset, open_texts
from kqv.text.tokenizer import MASK


def test_a_cached_text_is_a_dataset_under_the_name_it_reports(tmp_path: Path) -> None:
    dataset = open_texts([str(write(tmp_path / "novel.txt", "It was a dark and stormy night"))])
    again = open_dataset(dataset.name)
    assert dataset.name.startswith("cache/novel-")
    assert again.folder == dataset.folder and texts_of(again) == texts_of(dataset)


def test_a_text_whose_token_files_are_gone_is_named_with_the_command_that_helps(
    tmp_path: Path, refused: Callable
) -> None:
    path = write(tmp_path / "my novel.txt", "It was a dark and stormy night")
    dataset = open_texts([str(path)], "latin-1")
    assert dataset.sources == [str(path), "--encoding=latin-1"]
    again = open_dataset(dataset.name, sources=dataset.sources, again="python train.py")
    assert again.folder == dataset.folder
    shutil.rmtree(dataset.folder)
    with refused("my novel.txt", "gone", "prepare the text again with python train.py"):
        open_dataset(dataset.name, sources=dataset.sources, again="python train.py")


def test_a_dataset_is_prepared_by_its_script_the_first_time(data: Path, refused: Callable) -> None:
    folder = data / "tiny"
    folder.mkdir(parents=True)
    project = str(ROOT)
    script = f"""
import sys; sys.path.insert(0, {project!r})
from pathlib import Path
from kqv.text.datasets import prepare_dataset
folder = Path(__file__).parent
with (folder / "runs").open("a") as file: file.write("x")
(folder / "input.txt").write_text("hello tiny world")
prepare_dataset([folder / "input.txt"], folder)
"""
    write(folder / "prepare.py", script)
    for _ in range(2):
        assert text_of(open_dataset("tiny")) == "hello tiny world"
    assert (folder / "runs").read_text() == "x"
    with refused("no dataset tinny", "tiny"):
        open_dataset("tinny")
    (data / "broken").mkdir()
    script = write(data / "broken" / "prepare.py", "raise SystemExit(3)")
    with refused(str(script), "status 3"):
        open_dataset("broken")


def test_a_folder_that_nanogpt_prepared_is_a_dataset(data: Path) -> None:
    folder = data / "from_nanogpt"
    folder.mkdir(parents=True)
    text = "to be or not to be"
    characters = "".join(sorted(set(text)))
    ids = np.array([characters.index(c) for c in text], dtype=np.uint16)
    ids[:16].tofile(folder / "train.bin")
    ids[16:].tofile(folder / "val.bin")
    (folder / "meta.pkl").write_bytes(pickle.dumps(nanogpt_meta(characters)))
    dataset = open_dataset("from_nanogpt")
    assert (dataset.train_tokens, dataset.val_tokens) == (16, 2)
    assert dataset.vocab_size == len(characters)
    assert text_of(dataset) == text


def test_a_name_cannot_lead_to_a_script_elsewhere(
    data: Path, tmp_path: Path, refused: Callable
) -> None:
    """The name may come from a checkpoint."""
    data.mkdir(exist_ok=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write(elsewhere / "prepare.py", f"open({str(tmp_path / 'trace')!r}, 'w')")
    for name in (
        str(elsewhere),
        os.path.relpath(elsewhere, data),
        "nothing/../" + os.path.relpath(elsewhere, data),
    ):
        with refused("no dataset"):
            open_dataset(name)
    assert not (tmp_path / "trace").exists()


# --- GPT-2's vocabulary ---------------------------------------------------------------------------


@pytest.fixture
def gpt2_ids(data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as nanoGPT's data/shakespeare/prepare.py leaves it.

    Another vocabulary takes the place of GPT-2's, whose files are not here.
    """
    monkeypatch.setattr(dataset_folders, "load_tiktoken", {"gpt2": PAIRS}.__getitem__)
    folder = data / "shakespeare"
    folder.mkdir(parents=True)
    for name in ("train", "val"):
        np.array(PAIRS.encode(f"the {name} cat"), dtype=np.uint16).tofile(folder / f"{name}.bin")
    write(folder / "prepare.py", "raise SystemExit(3)")
    return folder


def test_a_folder_without_a_vocabulary_has_gpt2s_as_nanogpt_assumes(
    gpt2_ids: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = open_dataset("shakespeare")
    assert texts_of(dataset) == ("the train cat", "the val cat") and dataset.tokenizer == PAIRS
    assert "taken for those of GPT-2" in capsys.readouterr().err


def test_another_tokenizer_than_a_folder_has_reads_its_text(
    gpt2_ids: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable
) -> None:
    assert open_dataset("shakespeare", "gpt2").folder == gpt2_ids
    with refused("tokens of gpt2 and no input.txt", "name a text file"):
        open_dataset("shakespeare", "bytes")
    write(gpt2_ids / "input.txt", "the whole cat")
    monkeypatch.setattr(
        dataset_folders, "load_tiktoken", None
    )  # its files are not needed for another
    dataset = open_dataset("shakespeare", "bytes")
    assert dataset.tokenizer == ByteTokenizer() and text_of(dataset) == "the whole cat"


def test_the_tokenizer_of_a_checkpoint_saves_downloading_gpt2s_again(
    gpt2_ids: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_folders, "load_tiktoken", None)
    own = BpeTokenizer("gpt2", OWN_PATTERN, PAIRS.tokens)
    assert open_dataset("shakespeare", own).tokenizer is own


def test_an_encoder_s_tokenizer_finds_the_dataset_that_was_prepared_without_the_mask(
    tmp_path, data
) -> None:
    text = tmp_path / "novel.txt"
    text.write_text("to be or not to be " * 20)
    dataset = open_texts([str(text)])
    with_mask = dataset.tokenizer.with_markers(MASK)
    again = open_texts([str(text)], tokenizer=with_mask)
    assert again.folder == dataset.folder
    assert again.tokenizer == dataset.tokenizer
