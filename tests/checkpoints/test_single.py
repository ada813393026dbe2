"""A checkpoint file is loaded as it was saved or refused, never half and never silently different;
no code in it is run, and a full disk costs only the new one."""

import math
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoints import RESUMABLE, TOKENIZER, same, seal
from helpers.hostile import Hostile

from kqv.checkpoints.loading import load_checkpoint, load_latest
from kqv.checkpoints.single import save_checkpoint
from kqv.errors import MachineError

WEIGHT = torch.arange(6.0).reshape(2, 3)
STATE: dict[str, Any] = {
    "model": {"weight": WEIGHT, "tied": WEIGHT, "half": torch.ones(2, dtype=torch.bfloat16)},
    "optimizer": [
        {
            "state": {0: {"step": torch.tensor(3.0)}},
            "param_groups": [{"betas": (0.9, 0.95), "params": [0]}],
        }
    ],
    "tokenizer": TOKENIZER.to_dict(),
    "iter_num": 3,
    "best_val_loss": math.inf,
    "config": {"bias": False, "start": "é\n"},
}
RESUME = "python train.py --init_from=resume --out_dir="


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pt"
    for iter_num in (3, 4):  # the second replaces the first
        save_checkpoint(path, {**STATE, "iter_num": iter_num})
        loaded = load_checkpoint(path)
        assert same(loaded, {"format": "kqv 1", **STATE, "iter_num": iter_num})
        assert same(torch.load(path, weights_only=True), loaded)  # other tools can read it, too
        assert list(tmp_path.iterdir()) == [path]


def test_the_previous_checkpoint_is_kept(tmp_path: Path) -> None:
    path, earlier = tmp_path / "last.pt", tmp_path / "earlier.pt"
    for iter_num in range(4):
        save_checkpoint(path, {**RESUMABLE, "iter_num": iter_num}, keep=earlier)
        assert load_latest(str(tmp_path))[0]["iter_num"] == iter_num
        assert not iter_num or load_checkpoint(earlier)["iter_num"] == iter_num - 1
    assert {path.name for path in tmp_path.iterdir()} == {"last.pt", "earlier.pt"}


# --- damage -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a small checkpoint."""
    path = tmp_path_factory.mktemp("saved") / "ckpt.pt"
    save_checkpoint(path, {"model": {"weight": WEIGHT}, "iter_num": 3})
    return path.read_bytes()


def test_a_checkpoint_cut_short_is_refused(saved: bytes, tmp_path: Path, refused: Callable) -> None:
    path = tmp_path / "cut.pt"
    for length in [*range(0, len(saved), 3), len(saved) - 1]:
        path.write_bytes(saved[:length])
        with refused(str(path)):
            load_checkpoint(path)


def test_a_checkpoint_with_a_flipped_bit_is_refused(
    saved: bytes, tmp_path: Path, refused: Callable
) -> None:
    path = tmp_path / "flipped.pt"
    for place in range(len(saved)):
        damaged = bytearray(saved)
        damaged[place] ^= 1 << place * 5 % 8
        path.write_bytes(damaged)
        with refused(str(path)):
            load_checkpoint(path)


# --- other files ------------------------------------------------------------------------------


def save_zip(content: Any, path: Path) -> None:
    torch.save(content, path)


def save_legacy(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_pickle(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


def save_swapped(content: Any, path: Path) -> None:
    """A good checkpoint whose data.pkl was replaced."""
    save_checkpoint(path, {"model": {"weight": torch.ones(3)}})
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    (name,) = (name for name in files if name.endswith("/data.pkl"))
    files[name] = pickle.dumps(content, protocol=2)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


@pytest.mark.parametrize("save", [save_zip, save_legacy, save_pickle, save_swapped])
def test_code_in_a_checkpoint_is_refused_and_not_run(
    save: Callable, tmp_path: Path, refused: Callable
) -> None:
    path, trace = tmp_path / "ckpt.pt", tmp_path / "code was run"
    save({"format": "kqv 1", "model": {}, "surprise": Hostile(trace)}, path)
    if save is save_pickle:
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert trace.exists()  # so it does harm where it is trusted
    trace.unlink()
    for _ in range(2):  # without a seal and with one
        with refused(str(path)):
            load_checkpoint(path)
        assert not trace.exists()
        seal(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"ROMEO:\nWhat light", b"PK\3\4", b"PK\5\6" + bytes(18), b"\x80\x02}.", bytes(1000)],
)
def test_a_file_of_another_kind_is_refused_by_name(
    content: bytes, tmp_path: Path, refused: Callable
) -> None:
    path = tmp_path / "ckpt.pt"
    path.write_bytes(content)
    for _ in range(2):  # without a seal and with one
        with refused(str(path)):
            load_checkpoint(path)
        seal(path)


NO_CHECKPOINTS = [
    *({"model": {}, "model_args": {}, "iter_num": 5}, {"format": "v 1"}, {"format": None}),
    *({}, [], None, torch.ones(3), "kqv 1"),
]


@pytest.mark.parametrize("content", NO_CHECKPOINTS, ids=repr)
def test_a_file_that_torch_wrote_for_something_else_is_refused(
    content: Any, tmp_path: Path, refused: Callable
) -> None:
    path = tmp_path / "ckpt.pt"
    torch.save(content, path)
    for _ in range(2):  # without a seal and with one
        with refused(str(path), "no checkpoint of kqv"):
            load_checkpoint(path)
        seal(path)


@pytest.mark.skipif(os.name != "posix", reason="needs named pipes")
@pytest.mark.parametrize("kind", ["pipe", "/dev/zero"])
def test_a_pipe_or_a_device_is_no_checkpoint_and_is_not_waited_for(
    kind: str, tmp_path: Path, refused: Callable
) -> None:
    path = tmp_path / "ckpt.pt"
    os.mkfifo(path) if kind == "pipe" else path.symlink_to(kind)
    with refused(str(path), "a device or a pipe, not a file"):
        load_checkpoint(path)


def test_a_place_without_a_checkpoint_is_refused_by_name(tmp_path: Path, refused: Callable) -> None:
    (tmp_path / "file").write_text("text")
    names = ["missing.pt", "", "file/ckpt.pt", "long" * 100]
    for path in (tmp_path / name for name in names):
        with refused(str(path)):
            load_checkpoint(path)


# --- a full disk ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1000, 100_000])
def test_a_full_disk_costs_the_new_checkpoint_and_never_the_old(
    size: int, tmp_path: Path, small_disk: Callable[[int], None]
) -> None:
    path, big = tmp_path / "ckpt.pt", {**STATE, "model": {"weight": torch.ones(100_000)}}
    for existing, words in (([], "start again"), ([path], f"resume with {RESUME}{tmp_path}")):
        if existing:
            save_checkpoint(path, STATE)
        small_disk(size)
        try:
            with pytest.raises(MachineError) as caught:
                save_checkpoint(path, big)
        finally:
            small_disk(1 << 30)
        message = str(caught.value)
        assert str(path) in message and words in message and len(message.splitlines()) == 1
        assert list(tmp_path.iterdir()) == existing
    assert same(load_checkpoint(path), {"format": "kqv 1", **STATE})


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(MachineError, match="Permission denied"):
        save_checkpoint(tmp_path / "ckpt.pt", STATE)
    tmp_path.chmod(0o700)
