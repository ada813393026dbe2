"""What a user can rely on of checkpoints: whole or refused, never half, never silently different, and nothing in one is run."""

import dataclasses
import math
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoints import SHAPE, TOKENIZER, same, seal
from helpers.hostile import Hostile
from helpers.models import random_ids, randomised

from kqv.checkpoints.single import (
    PARTS,
    find_checkpoint,
    load_checkpoint,
    load_latest,
    model_state,
    restore_model,
    save_checkpoint,
)
from kqv.errors import MachineError
from kqv.project import ROOT as PROJECT
from kqv.text.characters import CharTokenizer
from model import GPT2, MLP, GPTConfig


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    """All kinds of things that a checkpoint holds."""
    weights = torch.arange(6.0).reshape(2, 3)
    return {
        "model": {"weight": weights, "tied": weights, "half": torch.ones(2, dtype=torch.bfloat16)},
        "optimizer": [{"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"betas": (0.9, 0.95), "params": [0]}]}],
        "tokenizer": TOKENIZER.to_dict(), "iter_num": 3, "best_val_loss": math.inf, "config": {"bias": False, "start": "é\n"},
    }  # fmt: skip


def test_what_was_saved_is_loaded(state: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pt"
    for iter_num in (3, 4):  # the second takes the place of the first
        save_checkpoint(path, {**state, "iter_num": iter_num})
        assert same(load_checkpoint(path), {"format": "kqv 1", **state, "iter_num": iter_num})
        assert same(
            torch.load(path, weights_only=True), load_checkpoint(path)
        )  # other tools can read it too
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "options",
    [{}, {**GPT2, "bias": True}, {"position": "sinusoidal", "attention_scale": 0.5, "window": 3}],
)
def test_a_restored_model_is_the_model(options: dict[str, Any], tmp_path: Path) -> None:
    model = randomised(GPTConfig(**SHAPE, **options))
    save_checkpoint(tmp_path / "ckpt.pt", model_state(model, TOKENIZER))
    restored, tokenizer = restore_model(load_checkpoint(tmp_path / "ckpt.pt"), tmp_path / "ckpt.pt")
    assert restored.config == model.config
    assert tokenizer.characters == TOKENIZER.characters
    ids = random_ids(model.config)
    assert torch.equal(restored.eval()(ids), model(ids))
    assert restored.parameter_count() == model.parameter_count()


# --- damage -------------------------------------------------------------------------------------------------------


SMALL = {"model": {"weight": torch.arange(6.0).reshape(2, 3)}, "iter_num": 3}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a small checkpoint."""
    path = tmp_path_factory.mktemp("saved") / "ckpt.pt"
    save_checkpoint(path, SMALL)
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


# --- what is no checkpoint ----------------------------------------------------------------------------------------


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
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(
                name, pickle.dumps(content, protocol=2) if name.endswith("/data.pkl") else data
            )


@pytest.mark.parametrize("save", [save_zip, save_legacy, save_pickle, save_swapped])
def test_code_in_a_checkpoint_is_refused_and_not_run(
    save: Callable, tmp_path: Path, refused: Callable
) -> None:
    path, trace = tmp_path / "ckpt.pt", tmp_path / "code was run"
    save({"format": "kqv 1", "model": {}, "surprise": Hostile(trace)}, path)
    pickle.loads(path.read_bytes()) if save is save_pickle else torch.load(path, weights_only=False)
    assert trace.exists()  # so it is hostile to who is careless
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


@pytest.mark.parametrize(
    "content",
    [
        {"model": {}, "model_args": {}, "iter_num": 5},
        {"format": "v 1"},
        {"format": None},
        {},
        [],
        None,
        torch.ones(3),
        "kqv 1",
    ],
    ids=repr,
)
def test_a_file_that_torch_wrote_for_something_else_is_refused(
    content: Any, tmp_path: Path, refused: Callable
) -> None:
    path = tmp_path / "ckpt.pt"
    torch.save(content, path)
    for _ in range(2):  # without a seal and with one
        with refused(str(path), "no checkpoint of kqv"):
            load_checkpoint(path)
        seal(path)


def test_a_place_without_a_checkpoint_is_refused_by_name(tmp_path: Path, refused: Callable) -> None:
    (tmp_path / "file").write_text("text")
    for path in (
        tmp_path / "missing.pt",
        tmp_path,
        tmp_path / "file" / "ckpt.pt",
        tmp_path / ("long" * 100),
    ):
        with refused(str(path)):
            load_checkpoint(path)


def test_a_folder_means_the_first_of_its_checkpoints_and_a_file_itself(
    tmp_path: Path, refused: Callable
) -> None:
    with refused(str(tmp_path), "ckpt.pt or last.pt", "train.py"):
        find_checkpoint(str(tmp_path), ("ckpt.pt", "last.pt"))
    (tmp_path / "last.pt").touch()
    assert find_checkpoint(str(tmp_path), ("ckpt.pt", "last.pt")) == tmp_path / "last.pt"
    (tmp_path / "ckpt.pt").touch()
    assert find_checkpoint(str(tmp_path), ("ckpt.pt", "last.pt")) == tmp_path / "ckpt.pt"
    assert find_checkpoint(str(tmp_path), ("last.pt", "ckpt.pt")) == tmp_path / "last.pt"
    assert (
        find_checkpoint(str(tmp_path / "last.pt"), ("ckpt.pt", "last.pt")) == tmp_path / "last.pt"
    )


def test_a_format_of_another_version_is_named(tmp_path: Path, refused: Callable) -> None:
    path = tmp_path / "ckpt.pt"
    torch.save({"format": "kqv 7"}, path)
    with refused(str(path), "'kqv 7'", "'kqv 1'"):
        load_checkpoint(seal(path))


# --- the newest that is whole -------------------------------------------------------------------------------------


RESUMABLE = {
    "model": {}, "model_args": {}, "tokenizer": {}, "optimizer": [], "scaler": {}, "config": {}, "iter_num": 0,
    "best_val_loss": 1.5,
}  # fmt: skip


@pytest.mark.parametrize("part", RESUMABLE)
def test_a_resume_needs_every_part(part: str, tmp_path: Path, refused: Callable) -> None:
    save_checkpoint(
        tmp_path / "last.pt", {name: value for name, value in RESUMABLE.items() if name != part}
    )
    with refused(str(tmp_path / "last.pt"), f"no {part}", "--init_from="):
        load_latest(str(tmp_path))


def test_the_checkpoint_before_is_kept(tmp_path: Path) -> None:
    for iter_num in range(4):
        save_checkpoint(
            tmp_path / "last.pt", {**RESUMABLE, "iter_num": iter_num}, keep=tmp_path / "earlier.pt"
        )
        assert load_latest(str(tmp_path))[0]["iter_num"] == iter_num
        assert not iter_num or load_checkpoint(tmp_path / "earlier.pt")["iter_num"] == iter_num - 1
    assert {path.name for path in tmp_path.iterdir()} == {"last.pt", "earlier.pt"}


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "gone"])
def test_a_run_goes_on_from_the_newest_checkpoint_that_is_whole(
    damage: str, saved: bytes, tmp_path: Path, refused: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["last.pt", "earlier.pt", "ckpt.pt"]
    for iter_num, name in enumerate(names):
        save_checkpoint(tmp_path / name, {**RESUMABLE, "iter_num": iter_num})
    for bad in names[:2]:
        spoil(tmp_path / bad, damage)
        state, path = load_latest(str(tmp_path))
        assert path.name == names[state["iter_num"]] == names[names.index(bad) + 1]
        said = capsys.readouterr().err
        assert damage == "gone" or (str(tmp_path / bad) in said and str(path) in said)
    spoil(tmp_path / "ckpt.pt", damage)
    with refused(str(tmp_path)):
        load_latest(str(tmp_path))


def spoil(path: Path, damage: str) -> None:
    data = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(
            {
                "flipped": data[:500] + bytes([data[500] ^ 4]) + data[501:],
                "cut": data[:-100],
                "empty": b"",
            }[damage]
        )


# --- claims -------------------------------------------------------------------------------------------------------


def test_a_torch_that_believes_such_claims_is_refused() -> None:
    script = "import torch; torch.__version__ = type(torch.__version__)('2.9.1'); import sample; sample.main([])"
    script = f"from kqv.errors import run_script; run_script(lambda _: exec({script!r}))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=PROJECT
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "torch 2.9.1" in done.stderr and "pip install -r requirements.txt" in done.stderr


@pytest.mark.parametrize(
    "claims",
    [
        {"model_args": {"block_size": 10**12}}, {"model_args": {"n_layer": 10**9}}, {"model_args": {"n_embd": 10**6}},
        {"model_args": {"n_embd": 2 * 10**9}}, {"model": {"head.weight": torch.ones(1, 1).expand(10**6, 10**6)}},
    ],
    ids=repr,
)  # fmt: skip
def test_a_claimed_size_is_refused_before_the_model_is_made(
    claims: dict[str, Any], tmp_path: Path, refused: Callable
) -> None:
    state = model_state(randomised(GPTConfig(**SHAPE)), TOKENIZER)
    for part, changes in claims.items():
        state[part] = state[part] | changes
    with refused(str(tmp_path / "ckpt.pt"), "cannot be used"):
        restore_model(state, tmp_path / "ckpt.pt")


@pytest.mark.parametrize("position", ["rope", "learned", "sinusoidal"])
def test_a_changed_model_of_fewer_weights_is_restored(
    position: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("model.SwiGLU", MLP)  # without a gate
    model = randomised(GPTConfig(**{**SHAPE, "n_layer": 3, "position": position}))
    back, _ = restore_model(model_state(model, TOKENIZER), tmp_path / "ckpt.pt")
    assert all(
        torch.equal(weight, back.state_dict()[name]) for name, weight in model.state_dict().items()
    )


@pytest.mark.parametrize("part", [part for part in PARTS if part != "text"])
def test_a_part_of_the_wrong_kind_is_refused(part: str, tmp_path: Path, refused: Callable) -> None:
    path = tmp_path / "ckpt.pt"
    save_checkpoint(path, {part: "rubbish"})
    with refused(str(path), part, "wrong kind"):
        load_checkpoint(path)


MISFITS = {
    "no weights": {"model": {}},
    "weights of another kind": {"model": "weights"},
    "no vocabulary": {"tokenizer": None},
    "a larger vocabulary": {"tokenizer": CharTokenizer.of("hello world!\n").to_dict()},
    "no shape": {"model_args": None},
    **{
        f"{name}={value!r}": {"model_args": {**dataclasses.asdict(GPTConfig(**SHAPE)), name: value}}
        for name, value in {
            "n_layer": 2, "n_embd": 12, "bias": True, "qk_norm": False, "vocab_size": 5, "mlp": "relu3", "norm": "batchnorm",
            "position": "alibi", "mask": "diagonal", "attention_score": "cubed", "attention_scale": "cube", "n_head": 0,
            "block_size": None, "experts": 8, "window": 2**70, "rope_base": 2**70, "mlp_width": 2**70,
        }.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_checkpoint_whose_parts_do_not_fit_is_refused(
    misfit: str, tmp_path: Path, refused: Callable
) -> None:
    state = model_state(randomised(GPTConfig(**SHAPE)), TOKENIZER)
    restore_model(state, tmp_path / "ckpt.pt")
    with refused(str(tmp_path / "ckpt.pt"), "cannot be used"):
        restore_model({**state, **MISFITS[misfit]}, tmp_path / "ckpt.pt")


@pytest.mark.parametrize("missing", ["model", "model_args", "tokenizer"])
def test_a_checkpoint_without_one_of_its_parts_is_refused(
    missing: str, tmp_path: Path, refused: Callable
) -> None:
    state = model_state(randomised(GPTConfig(**SHAPE)), TOKENIZER)
    del state[missing]
    with refused(str(tmp_path / "ckpt.pt"), missing):
        restore_model(state, tmp_path / "ckpt.pt")


@pytest.mark.skipif(os.name != "posix", reason="needs named pipes")
@pytest.mark.parametrize("kind", ["pipe", "/dev/zero"])
def test_a_pipe_or_a_device_is_no_checkpoint_and_is_not_waited_for(
    kind: str, tmp_path: Path, refused: Callable
) -> None:
    path = tmp_path / "ckpt.pt"
    os.mkfifo(path) if kind == "pipe" else path.symlink_to(kind)
    with refused(str(path), "a device or a pipe, not a file"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "change",
    [
        {"iter_num": -1}, {"iter_num": 10**600}, {"skipped": -3}, {"skipped_in_a_row": 10**600}, {"best_val_loss": math.nan},
        {"best_val_loss": -math.inf}, {"scaler": {"scale": math.nan}}, {"scaler": {"scale": 10**600}}, {"scaler": {"scale": "x"}},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_numbers_that_no_run_has_are_refused(
    change: dict[str, Any], tmp_path: Path, refused: Callable
) -> None:
    save_checkpoint(tmp_path / "last.pt", RESUMABLE | change)
    with refused(str(tmp_path / "last.pt"), "numbers", "use another copy or train again"):
        load_latest(str(tmp_path))


# --- a full disk --------------------------------------------------------------------------------------------------


RESUME = "python train.py --init_from=resume --out_dir="


@pytest.mark.parametrize("size", [0, 1000, 100_000])
def test_a_full_disk_costs_the_new_checkpoint_and_never_the_old(
    size: int, state: dict[str, Any], tmp_path: Path, small_disk: Callable[[int], None]
) -> None:
    path, big = tmp_path / "ckpt.pt", {**state, "model": {"weight": torch.ones(100_000)}}
    for known, words in (([], "start again"), ([path], f"go on with {RESUME}{tmp_path}")):
        if known:
            save_checkpoint(path, state)
        small_disk(size)
        try:
            with pytest.raises(MachineError) as caught:
                save_checkpoint(path, big)
        finally:
            small_disk(1 << 30)
        message = str(caught.value)
        assert str(path) in message and words in message and len(message.splitlines()) == 1
        assert list(tmp_path.iterdir()) == known
    assert same(load_checkpoint(path), {"format": "kqv 1", **state})


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_said_so(state: dict[str, Any], tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(MachineError, match="Permission denied"):
        save_checkpoint(tmp_path / "ckpt.pt", state)
    tmp_path.chmod(0o700)
