"""Checkpoints of sharded runs: a folder to which each rank writes its own shards.

    last.pt/shard-00001-model-00001-of-00001.safetensors    the shards, one file a rank
    last.pt/state.json    all that is no tensor, the SHA-256 of each file of shards, and its own

torch.distributed.checkpoint (DCP) writes and reads the shards, as safetensors: its own format is a
pickle. The folder is written under another name and renamed when it is complete. Any number of
ranks can load it, and so can one process that is not distributed.

    save_sharded(path, state, ranks)             all ranks together
    load_shapes(path)                            the checkpoint, with shapes in place of tensors
    load_full(path, load_shapes(path))           the checkpoint with all its tensors, unsharded
    restore_shards(path, model, optimizers)      tensors into a sharded model, on all ranks together
    restore_weights(state, path, model)          weights into a model; either may be sharded
"""

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
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
from kqv.machine.wrapping import local, sharding
from kqv.run_files import FORMAT

if TYPE_CHECKING:
    from kqv.machine.ranks import Ranks
    from kqv.training.optimizers import Optimizer
    from model import GPT

STATE = "state.json"
TIED = ("head.weight", "encoder.embedding.weight")  # weights that may be embedding.weight
MAX_STATE = 1 << 25  # bytes of state.json: a vocabulary and the settings

Shapes = dict[str, torch.Size]


def save_sharded(
    path: Path, state: dict[str, Any], ranks: "Ranks", keep: Path | None = None
) -> None:
    """Write `state` to the folder `path` atomically, its tensors sharded.

    All ranks call this together. The checkpoint that was at `path` is renamed to `keep` if that is
    given.

    Raises MachineError on every rank if one of them cannot write; `path` is unchanged then.
    """
    fresh = path.with_name(f".{path.name}.shards.tmp")
    tensors = flatten(state["model"], state["optimizer"])
    rest = {name: value for name, value in state.items() if name not in ("model", "optimizer")}
    rest["weights"] = [len(optimizer["state"]) for optimizer in state["optimizer"]]
    for action, on_this_rank in (
        (partial(_make_empty, fresh), ranks.is_main),
        (partial(_write_shards, fresh, tensors), True),
        (partial(_complete, fresh, rest, path, keep), ranks.is_main),
    ):
        errors = ranks.all_gather(_error_of(action) if on_this_rank else "")
        if any(errors):
            if ranks.is_main:
                remove(fresh)
            reason = next(filter(None, errors))
            raise MachineError(
                f"{path} could not be written ({reason}); the previous one is kept: "
                f"free some space, then resume with --init_from=resume"
            )


def _error_of(action: Callable[[], None]) -> str:
    """Run a part of saving. Returns the message of its error, "" if there is none."""
    try:
        action()
    except (OSError, RuntimeError, _dcp().api.CheckpointException) as error:
        return getattr(error, "strerror", None) or str(error).strip().splitlines()[-1]
    return ""


def _make_empty(folder: Path) -> None:
    remove(folder)
    folder.mkdir()


def _write_shards(folder: Path, tensors: dict[str, Tensor]) -> None:
    dcp = _dcp()
    with _silence_dcp():
        writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
        dcp.save(tensors, storage_writer=writer)


def _complete(folder: Path, rest: dict[str, Any], path: Path, keep: Path | None) -> None:
    """Add state.json with its checksums to a folder of shards, and rename the folder to `path`."""
    text = json.dumps({"format": FORMAT, "files": _digests(folder), **rest})
    sealed = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "state": text}
    with (folder / STATE).open("w") as file:
        json.dump(sealed, file)
        file.flush()
        os.fsync(file.fileno())
    flush_folder(folder)
    take_place(folder, path, keep)


def is_sharded(path: Path) -> bool:
    """Whether `path` is a sharded checkpoint."""
    try:
        return path.is_dir() and (path / STATE).is_file()
    except OSError:  # such as a name that is too long: who opens it reports that
        return False


def load_shapes(path: Path) -> dict[str, Any]:
    """Load a sharded checkpoint with shapes in place of its weights, and empty optimizer state.

    Each file is read once, to compare it with its checksum.

    Raises UserError naming the folder if it is damaged.
    """
    with _refuse_damage(path):
        sealed = json.loads(read_small(path / STATE, MAX_STATE))
        if hashlib.sha256(sealed["state"].encode()).hexdigest() != sealed["sha256"]:
            raise ValueError
        state = json.loads(sealed["state"])
        if state["files"] != _digests(path):
            raise ValueError
        shapes = _shapes(path)
        if not all(0 <= count <= len(shapes) for count in state["weights"]):
            raise ValueError  # an optimizer trains at most the weights that there are
        state["model"] = {
            name.removeprefix("model."): shape for name, shape in _of("model", shapes).items()
        }
        for name in _tied(state["model_args"]):
            state["model"][name] = state["model"]["embedding.weight"]
        state["optimizer"] = [{} for _ in state["weights"]]
        return state


def holds_shapes(state: dict[str, Any] | None) -> bool:
    """Whether a checkpoint was loaded by `load_shapes`, and its tensors are still on disk."""
    return state is not None and all(
        isinstance(weights, torch.Size) for weights in state["model"].values()
    )


def load_full(path: Path, state: dict[str, Any]) -> dict[str, Any]:
    """Load all tensors of a sharded checkpoint, unsharded, given what `load_shapes` returned.

    The result is as if the run had not been sharded.

    Raises UserError naming the folder if it is damaged.
    """
    with _refuse_damage(path):
        tensors = {name: torch.empty(shape) for name, shape in _shapes(path).items()}
        _read_shards(path, tensors, no_dist=True)
        for name in _tied(state["model_args"]):
            tensors[f"model.{name}"] = tensors["model.embedding.weight"]
        weights = {name: tensors[f"model.{name}"] for name in state["model"]}
        optimizers: list[dict[str, Any]] = [
            {"state": {number: {} for number in range(count)}} for count in state["weights"]
        ]
        for name, tensor in tensors.items():
            match name.split("."):
                case "optimizer", optimizer, number, moment:
                    optimizers[int(optimizer)]["state"][int(number)][moment] = tensor
    rest = {name: value for name, value in state.items() if name not in ("files", "weights")}
    return {**rest, "model": weights, "optimizer": optimizers}


def restore_shards(path: Path, model: "GPT", optimizers: Sequence["Optimizer"]) -> None:
    """Load a sharded checkpoint into a sharded model and the state of its optimizers.

    All ranks call this together; any number of ranks may have written the checkpoint.

    Raises UserError if the checkpoint is damaged, or was written by other optimizers.
    """
    with _refuse_damage(path):
        stored = _shapes(path)
    for place, optimizer in enumerate(optimizers):
        _make_state(optimizer, f"optimizer.{place}", stored)
    tensors = flatten(model.state_dict(), [optimizer.state_dict() for optimizer in optimizers])
    here = {name: tensor.shape for name, tensor in tensors.items()}
    if _of("model", here) != _of("model", stored):
        raise UserError(f"{path} cannot be used: its weights are not the model's")
    if optimizers and _of("optimizer", here) != _of("optimizer", stored):
        raise UserError("the checkpoint's optimizer state does not fit: keep its --optimizer")
    _read_shards(path, tensors, no_dist=False)


def _make_state(optimizer: "Optimizer", name: str, stored: Mapping[str, Any]) -> None:
    """Give an optimizer zeros for those of its moments that a checkpoint has."""
    for number, weights in enumerate(optimizer.parameters()):
        moments = optimizer.state[weights] = {}
        for moment in optimizer.moments:
            if f"{name}.{number}.{moment}" not in stored:
                continue
            if moment == "step":
                moments[moment] = torch.zeros((), device=weights.device)
            else:
                moments[moment] = torch.zeros_like(weights)


def restore_weights(state: dict[str, Any], path: Path, model: "GPT") -> None:
    """Load checkpoint weights into a model; either may be sharded.

    `state` is the checkpoint that was loaded from `path`.
    """
    if holds_shapes(state):
        restore_shards(path, model, [])
    elif any(hasattr(weights, "to_local") for weights in model.parameters()):
        sharding().load_full(model, state["model"])
    else:
        model.load_state_dict(state["model"])


def flatten(model: Mapping[str, Tensor], optimizers: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """The tensors of a checkpoint by unique names: model.NAME, optimizer.NUMBER.WEIGHT.MOMENT.

    `model` is a state_dict of GPT, `optimizers` are those of its optimizers. A head or an encoder's
    embedding that is the embedding is left out: safetensors store a tensor once.
    """
    embedding = local(model["embedding.weight"]).data_ptr()
    tensors = {
        f"model.{name}": tensor
        for name, tensor in model.items()
        if not (name in TIED and local(tensor).data_ptr() == embedding)
    }
    for number, optimizer in enumerate(optimizers):
        for weight, moments in optimizer["state"].items():
            for moment, tensor in moments.items():
                tensors[f"optimizer.{number}.{weight}.{moment}"] = tensor
    return tensors


def _tied(config: Mapping[str, Any]) -> list[str]:
    """Which of TIED are the embedding in a model of this configuration."""
    pairs = config.get("architecture", "decoder") == "encoder_decoder"
    one_vocabulary = pairs and not config["source_vocab_size"]
    return [
        name
        for name, tied in zip(TIED, (config["tie_weights"], one_vocabulary), strict=True)
        if tied
    ]


def _read_shards(path: Path, tensors: Mapping[str, Tensor], no_dist: bool) -> None:
    """Fill tensors, named as by `flatten`, from a checkpoint.

    With `no_dist` the tensors are whole and this process reads alone; else all ranks call this
    together, each with its shards.
    """
    dcp = _dcp()
    with _silence_dcp():
        reader = dcp.HuggingFaceStorageReader(str(path))
        dcp.load(dict(tensors), storage_reader=reader, no_dist=no_dist)


def _shapes(path: Path) -> Shapes:
    """The unsharded shapes of all tensors of a checkpoint, by name.

    Raises ValueError if the shards of a tensor are not its rows, each once, as FSDP shards them: a
    row without a shard would be left uninitialized.
    """
    for file in path.glob("*.safetensors"):
        check_safetensors_header(file)
    metadata = _dcp().HuggingFaceStorageReader(str(path)).read_metadata()
    return {name: _whole_shape(tensor) for name, tensor in metadata.state_dict_metadata.items()}


def _whole_shape(tensor: Any) -> torch.Size:
    """The shape of a tensor of DCP's TensorStorageMetadata. Raises ValueError as `_shapes` does."""
    shape, rows = tensor.size, 0
    for shard in sorted(tensor.chunks, key=lambda shard: (*shard.offsets, *shard.sizes)):
        expected = [rows, *[0] * (len(shape) - 1)][: len(shape)]
        if list(shard.offsets) != expected or shard.sizes[1:] != shape[1:]:
            raise ValueError
        rows += shard.sizes[0] if shape else 1
    if rows != (shape[0] if shape else 1):
        raise ValueError
    return shape


def _of(kind: str, shapes: Mapping[str, torch.Size]) -> Shapes:
    """The shapes of the model, or of the optimizers."""
    return {name: shape for name, shape in shapes.items() if name.startswith(f"{kind}.")}


def _digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file of shards."""
    digests = {}
    for path in sorted(folder.glob("*.safetensors")):
        with open_regular(path) as file:
            digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _dcp() -> Any:
    """torch.distributed.checkpoint, whose import takes two thirds of a second."""
    import torch.distributed.checkpoint as dcp

    return dcp


@contextmanager
def _refuse_damage(path: Path) -> Iterator[None]:
    """A malformed checkpoint can raise anything: map it to one UserError."""
    try:
        yield
    except MemoryError:
        raise
    except Exception:
        raise UserError(
            f"{path} is damaged: it is not what was saved; use another copy or train again"
        ) from None


@contextmanager
def _silence_dcp() -> Iterator[None]:
    """Suppress DCP's warnings about itself, and its log of errors that are reported here."""
    logging.getLogger("torch.distributed.checkpoint").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
