"""A sharded checkpoint: its shards are the rows of its tensors, each once, or it is refused in one
line. (tests/end_to_end/test_several_processes.py has checkpoints of real ranks.)"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoints import SHAPE, TOKENIZER
from helpers.models import randomised
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from kqv.checkpoints.loading import load_checkpoint, load_for_rank
from kqv.checkpoints.restoring import restore_model
from kqv.checkpoints.sharded import flatten, restore_shards
from kqv.errors import UserError
from model import GPT, GPTConfig

CONFIG = GPTConfig(**SHAPE)
MOMENTS = {
    number: {"step": torch.tensor(1.0), "exp_avg": torch.ones_like(weight)}
    for number, weight in enumerate(GPT(CONFIG).parameters())
}
EMBEDDING = "model.embedding.weight"
Change = Callable[[int, dict[str, torch.Tensor], dict[str, Any]], None]


def unchanged(rank: int, tensors: dict[str, torch.Tensor], places: dict[str, Any]) -> None:
    """The shards as they are."""


def write(folder: Path, change: Change = unchanged) -> Path:
    """A sharded checkpoint of two ranks, as save_sharded writes it.

    `change` may alter the tensors and places of a rank.
    """
    tensors = flatten(randomised(CONFIG).state_dict(), [{"state": MOMENTS}])
    folder.mkdir(parents=True, exist_ok=True)
    for rank in range(2):
        shards, places = {}, {}
        for name, tensor in tensors.items():
            rows = tensor.detach().chunk(2) if tensor.ndim else (tensor,)
            if rank < len(rows):
                shards[name] = rows[rank].clone()
                first = [rank * len(rows[0])] if tensor.ndim else []
                places[name] = {"saved_offsets": first + [0] * (tensor.ndim - 1)}
        change(rank, shards, places)
        path = folder / f"shard-{rank + 1:05}-model-00001-of-00001.safetensors"
        save_file(shards, path, metadata={"DCP_SHARDING_INFO": json.dumps(places)})
    write_state(folder)
    return folder


def write_state(folder: Path, **changes: Any) -> None:
    """The state.json of a folder of shards, with some of its values changed."""
    state = {
        "format": "kqv 1",
        "model_args": asdict(CONFIG),
        "tokenizer": TOKENIZER.to_dict(),
        "scaler": {},
        "config": {},
        "iter_num": 1,
        "best_val_loss": 1.0,
        "files": {path.name: sha256(path.read_bytes()) for path in folder.glob("*.safetensors")},
        "weights": [len(MOMENTS)],
    }
    text = json.dumps(state | changes)
    (folder / "state.json").write_text(json.dumps({"sha256": sha256(text.encode()), "state": text}))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def at(place: Any) -> Change:
    """The second shard of the embedding at another place."""

    def change(rank: int, shards: dict[str, torch.Tensor], places: dict[str, Any]) -> None:
        if rank:
            places[EMBEDDING]["saved_offsets"] = place

    return change


def without_place(rank: int, shards: dict[str, torch.Tensor], places: dict[str, Any]) -> None:
    del places[EMBEDDING]


def without_second(rank: int, shards: dict[str, torch.Tensor], places: dict[str, Any]) -> None:
    if rank:
        del shards[EMBEDDING]


def without_any(rank: int, shards: dict[str, torch.Tensor], places: dict[str, Any]) -> None:
    del shards[EMBEDDING]


def first_twice(rank: int, shards: dict[str, torch.Tensor], places: dict[str, Any]) -> None:
    places[EMBEDDING]["saved_offsets"] = [0, 0]


def moments_of_nothing(rank: int, shards: dict[str, torch.Tensor], places: dict[str, Any]) -> None:
    shards["optimizer.x.y.z"] = torch.ones(2)
    places["optimizer.x.y.z"] = {"saved_offsets": [2 * rank]}


PLACES = [
    *([-5, 0], [10**12, 0], [2**70, 0], [6, 0], [4, 0], [5, 1], [5], []),
    *("x", None, [5.5, 0], [[5], 0]),
]
CHANGES = [*map(at, PLACES), without_place, first_twice]


def test_a_sharded_checkpoint_is_loaded_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "last.pt")
    model, _ = restore_model(load_checkpoint(path), path)
    for name, weight in randomised(CONFIG).state_dict().items():
        assert torch.equal(model.state_dict()[name], weight)


@pytest.mark.parametrize("change", CHANGES)
def test_shards_that_are_not_the_rows_of_their_tensor_are_refused(
    change: Change, tmp_path: Path, refused: Callable
) -> None:
    path = write(tmp_path / "last.pt", change)
    for read in (load_checkpoint, lambda path: load_for_rank(path, fsdp=True)):
        with refused(str(path), "use another copy or train again"):
            read(path)
    with refused(str(path), "use another copy or train again"):
        restore_shards(path, randomised(CONFIG), [])


@pytest.mark.parametrize("change", [without_second, without_any])
def test_weights_that_are_not_the_model_s_are_refused(
    change: Change, tmp_path: Path, refused: Callable
) -> None:
    path = write(tmp_path / "last.pt", change)
    with refused(str(path), "cannot be used"):
        restore_model(load_checkpoint(path), path)
    with refused(str(path), "weights are not the model's"):
        restore_shards(path, randomised(CONFIG), [])


def test_moments_of_no_weight_are_refused(tmp_path: Path, refused: Callable) -> None:
    path = write(tmp_path / "last.pt", moments_of_nothing)
    with refused(str(path), "another copy"):
        load_checkpoint(path)


@pytest.mark.skipif(os.name != "posix", reason="needs named pipes")
@pytest.mark.parametrize("name", ["state.json", "shard-00003-model-00001-of-00001.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "/dev/zero"])
def test_a_pipe_or_a_device_in_it_is_refused_and_not_waited_for(
    name: str, kind: str, tmp_path: Path, refused: Callable
) -> None:
    path = write(tmp_path / "last.pt")
    (path / name).unlink(missing_ok=True)
    os.mkfifo(path / name) if kind == "pipe" else (path / name).symlink_to(kind)
    with refused(str(path)):
        load_checkpoint(path)


RUBBISH = st.none() | st.integers() | st.text(max_size=3) | st.lists(st.integers(-9, 9), max_size=3)
NAMES = [
    *("format", "model_args", "tokenizer", "scaler", "config", "iter_num", "best_val_loss"),
    *("files", "weights", "model", "optimizer"),
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sharded checkpoint whose state.json may be overwritten."""
    return write(tmp_path_factory.mktemp("any") / "last.pt")


@given(st.sampled_from(NAMES), RUBBISH | st.dictionaries(st.text(max_size=2), RUBBISH, max_size=2))
def test_any_state_is_used_or_refused(shards: Path, name: str, value: Any) -> None:
    write_state(shards, **{name: value})
    for read in (load_checkpoint, lambda path: load_for_rank(path, fsdp=None)):
        try:
            restore_model(read(shards), shards)
        except UserError as error:
            assert str(shards) in str(error)
