"""data/openwebtext/prepare.py makes nanoGPT's files: its split, <|endoftext|> after documents."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from helpers.byte_pairs import ALL_BYTES

from kqv.project import ROOT as PROJECT
from kqv.text.bpe import OWN_PATTERN, BpeTokenizer
from kqv.text.registry import load_tokenizer

LIKE_GPT2 = BpeTokenizer(
    "gpt2", OWN_PATTERN, [*ALL_BYTES, b"th", b"the", b" d"], {"<|endoftext|>": 259}
)

DOCUMENTS = [
    f"Document {i}\r\nis the one about {'the ' * (i % 7)}é <|endoftext|>" for i in range(3000)
]


@pytest.fixture
def prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, in a folder of its own.

    Another vocabulary takes the place of GPT-2's, whose files are not here.
    """
    pytest.importorskip("datasets").disable_progress_bars()
    spec = importlib.util.spec_from_file_location(
        "openwebtext", PROJECT / "data" / "openwebtext" / "prepare.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("HF_HOME", "HF_HUB_DISABLE_TELEMETRY"):  # the script sets them; restored after
        monkeypatch.setenv(name, str(tmp_path / "cache"))
    monkeypatch.setattr(module, "FOLDER", tmp_path / "openwebtext")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("kqv.text.registry.load_tiktoken", {"gpt2": LIKE_GPT2}.__getitem__)
    (tmp_path / "openwebtext").mkdir()
    return module


def local_copy(folder: Path, suffix: str) -> Path:
    """The documents in three files of a format."""
    folder.mkdir()
    for number in range(3):
        part = DOCUMENTS[1000 * number : 1000 * (number + 1)]
        path = folder / f"train-{number:05}-of-00003{suffix}"
        if suffix == ".parquet":
            pyarrow = pytest.importorskip("pyarrow")
            importlib.import_module("pyarrow.parquet").write_table(
                pyarrow.table({"text": part}), path
            )
        else:
            path.write_text("".join(json.dumps({"text": text}) + "\n" for text in part))
    return folder


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_a_local_copy_becomes_the_ids_that_nanogpt_makes(
    prepare: ModuleType, tmp_path: Path, suffix: str
) -> None:
    prepare.main([f"--input={local_copy(tmp_path / 'files', suffix)}"])
    order = np.random.default_rng(2357).permutation(3000)
    for name, documents in (("val", order[:2]), ("train", order[2:])):  # 0.0005 of 3000, rounded up
        expected = [token for i in documents for token in (*LIKE_GPT2.encode(DOCUMENTS[i]), 259)]
        assert np.fromfile(tmp_path / "openwebtext" / f"{name}.bin", np.uint16).tolist() == expected
    assert load_tokenizer(tmp_path / "openwebtext") == LIKE_GPT2
    names = {path.name for path in (tmp_path / "openwebtext").iterdir()}
    assert names == {"train.bin", "val.bin", "tokenizer.json", "prepared.json"}


def test_what_it_cannot_use_is_one_line(
    prepare: ModuleType, tmp_path: Path, refused: Callable
) -> None:
    with refused("is no option", "--input=files"):
        prepare.main(["files"])
    with refused("no folder of .parquet files, nor of .jsonl files"):
        prepare.main([f"--input={tmp_path / 'nowhere'}"])
    with refused("tokenizer=char", "bytes"):
        prepare.main(["--tokenizer=char"])
    (tmp_path / "bad.parquet").write_bytes(b"nonsense")
    with refused("cannot be loaded", "files are whole"):
        prepare.main([f"--input={tmp_path}"])


@pytest.mark.parametrize("row", ['{"text": null}', '{"text": 7}', '{"body": "a"}'])
def test_a_row_without_a_text_is_one_line(
    prepare: ModuleType, tmp_path: Path, refused: Callable, row: str
) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.jsonl").write_text(f"{row}\n" * 5)
    with refused("text"):
        prepare.main([f"--input={tmp_path / 'files'}"])


def test_without_a_network_it_says_what_to_do_and_writes_into_its_own_folder_only(
    tmp_path: Path,
) -> None:
    pytest.importorskip("datasets")
    folder = tmp_path / "data" / "openwebtext"
    folder.mkdir(parents=True)
    shutil.copy(PROJECT / "data" / "openwebtext" / "prepare.py", folder)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {
        "PYTHONPATH": str(PROJECT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HUB_OFFLINE": "1",
    }
    environment["HOME"] = str(tmp_path / "home")
    command = [sys.executable, str(folder / "prepare.py"), "--tokenizer=bytes"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert (
        "54 GB" in done.stderr.splitlines()[0]
        and str(folder / "cache") in done.stderr.splitlines()[0]
    )
    assert "--input=FOLDER" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "home").exists() and {path.name for path in folder.iterdir()} <= {
        "prepare.py",
        "cache",
    }
