"""Checkpoints of sharded runs: a folder in which each process writes its share, through torch.distributed.checkpoint.

    last.pt/shard-00001-model-00001-of-00001.safetensors      the shares, one file a process
    last.pt/state.json                                        all that is no tensor, the SHA-256 of each file, and its own

The files are safetensors: torch's own form of them would be read by running it. A folder of this name is whole, for it was
written under another, and renamed. Any number of processes can read it, and one can too, as an ordinary checkpoint.
"""

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kqv.errors import MachineError, UserError
from kqv.files import (
    check_safetensors_header,
    flush_folder,
    open_regular,
    read_small,
    remove,
    take_place,
)
from kqv.machine.wrapping import local
from kqv.run_files import FORMAT

if TYPE_CHECKING:
    from kqv.machine.ranks import Ranks
    from kqv.training.optimizers import Optimizer
    from model import GPT

STATE = "state.json"
LARGEST_STATE = 1 << 25  # bytes of state.json: a vocabulary and the settings


def save_sharded(
    path: Path, state: dict[str, Any], ranks: "Ranks", keep: Path | None = None
) -> None:
    """Write `state` as save_checkpoint does, its tensors sharded; all processes of the run call this together.

    Raises MachineError in each process if one of them cannot write; what was at `path` is still there then.
    """
    import torch.distributed.checkpoint as dcp

    fresh = path.with_name(f".{path.name}.shards.tmp")
    tensors = flat(state["model"], state["optimizer"])
    rest = {name: value for name, value in state.items() if name not in ("model", "optimizer")}
    rest["weights"] = [len(optimizer["state"]) for optimizer in state["optimizer"]]

    def begin() -> None:
        remove(fresh)
        fresh.mkdir()

    def write() -> None:
        with _quiet():
            dcp.save(
                tensors,
                storage_writer=dcp.HuggingFaceStorageWriter(str(fresh), save_distributed=True),
            )

    def finish() -> None:
        text = json.dumps({"format": FORMAT, "files": _digests(fresh), **rest})
        with (fresh / STATE).open("w") as file:
            json.dump({"sha256": hashlib.sha256(text.encode()).hexdigest(), "state": text}, file)
            file.flush()
            os.fsync(file.fileno())
        flush_folder(fresh)
        take_place(fresh, path, keep)

    for part, mine in ((begin, ranks.is_main), (write, True), (finish, ranks.is_main)):
        trouble = ""
        try:
            if mine:
                part()
        except (OSError, RuntimeError, dcp.api.CheckpointException) as error:
            trouble = getattr(error, "strerror", None) or str(error).strip().splitlines()[-1]
        troubles = ranks.all_gather(trouble)
        if any(troubles):
            if ranks.is_main:
                remove(fresh)
            raise MachineError(
                f"{path} could not be written ({next(filter(None, troubles))}); what was there before is kept: free some "
                f"space, then go on with --init_from=resume"
            )


def is_sharded(path: Path) -> bool:
    """Whether there is a sharded checkpoint."""
    return path.is_dir() and (path / STATE).is_file()


def open_sharded(path: Path) -> dict[str, Any]:
    """A sharded checkpoint with the shapes of its weights in their place, and without moments. Each file is read once, to
    compare it with what was saved.

    Raises UserError naming the folder if it is damaged.
    """
    with _refusing(path):
        sealed = json.loads(read_small(path / STATE, LARGEST_STATE))
        if hashlib.sha256(sealed["state"].encode()).hexdigest() != sealed["sha256"]:
            raise ValueError
        state = json.loads(sealed["state"])
        if state["files"] != _digests(path):
            raise ValueError
        shapes = {name.partition("."): shape for name, shape in _shapes(path).items()}
        if not all(
            0 <= count <= len(shapes) for count in state["weights"]
        ):  # it trains no more weights than it has
            raise ValueError
        state["model"] = {
            name: shape for (kind, _, name), shape in shapes.items() if kind == "model"
        }
        if state["model_args"]["tie_weights"]:
            state["model"]["head.weight"] = state["model"]["embedding.weight"]
        state["optimizer"] = [{} for _ in state["weights"]]
        return state


def holds_shapes(state: dict[str, Any] | None) -> bool:
    """Whether a checkpoint was read by `open_sharded`, and its tensors are yet to come."""
    return state is not None and all(
        isinstance(weights, torch.Size) for weights in state["model"].values()
    )


def load_whole(path: Path, opened: dict[str, Any]) -> dict[str, Any]:
    """A sharded checkpoint that `open_sharded` read as if it were none: with all weights and moments, whole.

    Raises UserError naming the folder if it is damaged.
    """
    with _refusing(path):
        tensors = {name: torch.empty(shape) for name, shape in _shapes(path).items()}
        load_shards(path, tensors, alone=True)
        tied = {"head.weight": "embedding.weight"} if opened["model_args"]["tie_weights"] else {}
        weights = {name: tensors[f"model.{tied.get(name, name)}"] for name in opened["model"]}
        optimizers: list[dict[str, Any]] = [
            {"state": {number: {} for number in range(count)}} for count in opened["weights"]
        ]
        for name, tensor in tensors.items():
            match name.split("."):
                case "optimizer", optimizer, number, moment:
                    optimizers[int(optimizer)]["state"][int(number)][moment] = tensor
    rest = {name: value for name, value in opened.items() if name not in ("files", "weights")}
    return {**rest, "model": weights, "optimizer": optimizers}


def restore_shards(path: Path, model: "GPT", optimizers: Sequence["Optimizer"]) -> None:
    """Fill a sharded model and the moments of its optimizers from a checkpoint that any number of processes wrote.

    Raises UserError if the checkpoint is damaged, or was written by other optimizers.
    """
    with _refusing(path):
        names = _shapes(path)
    for place, optimizer in enumerate(optimizers):
        for number, weights in enumerate(optimizer.parameters()):
            there = [
                moment
                for moment in optimizer.moments
                if f"optimizer.{place}.{number}.{moment}" in names
            ]
            optimizer.state[weights] = {
                moment: torch.zeros((), device=weights.device)
                if moment == "step"
                else torch.zeros_like(weights)
                for moment in there
            }
    tensors = flat(model.state_dict(), [optimizer.state_dict() for optimizer in optimizers])
    here = {name: tensor.shape for name, tensor in tensors.items()}
    if _of("model", here) != _of("model", names):
        raise UserError(f"{path} cannot be used: its weights are not the model's")
    if optimizers and _of("optimizer", here) != _of("optimizer", names):
        raise UserError("the checkpoint's optimizer state does not fit: keep its --optimizer")
    load_shards(path, tensors, alone=False)


def _of(kind: str, shapes: Mapping[str, torch.Size]) -> dict[str, torch.Size]:
    """The shapes of the model, or of the optimizers."""
    return {name: shape for name, shape in shapes.items() if name.startswith(f"{kind}.")}


def restore_weights(state: dict[str, Any], path: Path, model: "GPT") -> None:
    """Give a model, sharded or not, the weights of a checkpoint that is, or is not."""
    if holds_shapes(state):
        restore_shards(path, model, [])
    elif not any(hasattr(weights, "to_local") for weights in model.parameters()):
        model.load_state_dict(state["model"])
    else:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

        set_model_state_dict(model, state["model"], options=StateDictOptions(full_state_dict=True))


def load_shards(path: Path, tensors: Mapping[str, Tensor], alone: bool) -> None:
    """Fill tensors, as `flat` names them, with what a checkpoint has for them: whole ones, for this process `alone`, or the
    shards of all processes, which call this together."""
    import torch.distributed.checkpoint as dcp

    with _quiet():
        dcp.load(
            dict(tensors), storage_reader=dcp.HuggingFaceStorageReader(str(path)), no_dist=alone
        )


def _shapes(path: Path) -> dict[str, torch.Size]:
    """The shapes of all tensors of a checkpoint, unsharded, by their names.

    Raises ValueError if the shards of a tensor are not its rows, each once, as FSDP cuts them: what
    no shard has would be whatever is in memory.
    """
    from torch.distributed.checkpoint import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    for file in path.glob("*.safetensors"):
        check_safetensors_header(file)
    found = HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata
    shapes = {}
    for name, tensor in found.items():
        assert isinstance(tensor, TensorStorageMetadata)
        shape, rows = tensor.size, 0
        for shard in sorted(tensor.chunks, key=lambda shard: (*shard.offsets, *shard.sizes)):
            place = [rows, *[0] * (len(shape) - 1)][: len(shape)]
            if list(shard.offsets) != place or shard.sizes[1:] != shape[1:]:
                raise ValueError
            rows += shard.sizes[0] if shape else 1
        if rows != (shape[0] if shape else 1):
            raise ValueError
        shapes[name] = shape
    return shapes


def flat(model: Mapping[str, Tensor], optimizers: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """The tensors of a checkpoint by one name each: model.NAME, optimizer.NUMBER.WEIGHT.MOMENT. A tied head is the embedding,
    which safetensors hold once."""
    tied = local(model["head.weight"]).data_ptr() == local(model["embedding.weight"]).data_ptr()
    tensors = {
        f"model.{name}": tensor
        for name, tensor in model.items()
        if not (tied and name == "head.weight")
    }
    for number, optimizer in enumerate(optimizers):
        for weight, moments in optimizer["state"].items():
            tensors |= {
                f"optimizer.{number}.{weight}.{moment}": tensor
                for moment, tensor in moments.items()
            }
    return tensors


def _digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file of shards."""
    digests = {}
    for path in sorted(folder.glob("*.safetensors")):
        with open_regular(path) as file:
            digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Turn whatever a folder made to look like a checkpoint can raise, which has no end, into a UserError that names it."""
    try:
        yield
    except MemoryError:
        raise
    except Exception:
        raise UserError(
            f"{path} is damaged: it is not what was saved; use another copy or train again"
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """The library speaks of its own parts, and logs before it raises what is answered here."""
    logging.getLogger("torch.distributed.checkpoint").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
