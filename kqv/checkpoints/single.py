"""Checkpoints: self-contained, written so that a crash loses nothing, read so that nothing runs.

A checkpoint is what `torch.save` makes of this dictionary (the names that nanoGPT has too are nanoGPT's):

    format          "kqv 1"
    model           weights by name                 model_args    the fields of GPTConfig
    optimizer       the state of each optimizer     tokenizer     what Tokenizer.to_dict gives
    iter_num        training steps done             config        the fields of TrainSettings
    best_val_loss   lowest estimate so far          scaler        the state of the float16 gradient scaler
    skipped         updates skipped so far          skipped_in_a_row   and just now, see train.py
    text            what tells the training text    (the last three are missing in checkpoints before November 2026)

followed by a seal, the SHA-256 of the bytes before it, which torch.load does not mind. It is read by kqv/checkpoints/archive.py.

A sharded run writes a folder of the same name (kqv/checkpoints/sharded.py), which is read as if it were such a file.
A file without a seal can be nanoGPT's: it is read as strictly, and then as if it were ours (kqv/exchange/nanogpt.py).
"""

import functools
import hashlib
import itertools
import math
import os
import pickle
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch

from kqv.checkpoints.archive import read_archive
from kqv.checkpoints.sharded import holds_shapes, is_sharded, load_whole, open_sharded
from kqv.errors import MachineError, UserError
from kqv.exchange.importing import from_huggingface, from_safetensors
from kqv.exchange.nanogpt import from_nanogpt
from kqv.files import open_regular, replacing
from kqv.run_files import CONFIG, FORMAT, METRICS, TO_RESUME, TO_USE, VERSION
from kqv.text.registry import tokenizer_from_dict
from kqv.text.tokenizer import Tokenizer
from model import GPT, GPTConfig

if torch.__version__ < "2.10":
    raise UserError(
        f"torch {torch.__version__} believes what a checkpoint says of its size (CVE-2026-24747): pip install -r requirements.txt"
    )

SEAL = b"sha256:"
MOST_STEPS, LARGEST_SCALE = 2**40, 2.0**64  # of a run; comparing with them refuses nan too
LONGEST_BLOCK = (
    2**17
)  # tables of positions are as long as a block, and no weight in the file says how long that is

# What there is in a checkpoint, and the kind of it. Sampling needs the first three.
PARTS = {
    "model": dict, "model_args": dict, "tokenizer": dict, "optimizer": list, "scaler": dict, "config": dict, "iter_num": int,
    "best_val_loss": float, "skipped": int, "skipped_in_a_row": int, "text": str,
}  # fmt: skip

_NO_CHECKPOINT = (
    "{} is no checkpoint of kqv or nanoGPT, or only a part of one: use another copy or train again"
)


def save_checkpoint(path: Path, state: dict[str, Any], keep: Path | None = None) -> None:
    """Write `state` to `path`: to another name, flushed, then renamed, so `path` is whole at every moment. The checkpoint
    that was there is renamed to `keep` if that is given.

    Raises MachineError if it cannot be written; what was at `path` is still there then. If the folder has been removed or
    renamed meanwhile, a new one gets the checkpoint, and the MachineError says so.
    """
    gone = not path.parent.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, keep) as file:
            torch.save({"format": FORMAT, **state}, file)
            file.seek(0)
            file.write(SEAL + hashlib.file_digest(file, "sha256").digest())
    except (
        OSError,
        RuntimeError,
    ) as error:  # torch's archive writer turns a full disk into a RuntimeError
        reason = error.strerror if isinstance(error, OSError) else "the disk may be full"
        hint = "there is none yet: free some space, then start again"
        if path.exists():
            command = f"python train.py --init_from=resume --out_dir={path.parent}"
            hint = f"the one before it is kept: free some space, then go on with {command}"
        raise MachineError(f"{path} could not be written ({reason}); {hint}") from None
    if gone:
        command = f"python train.py --init_from=resume --out_dir={path.parent}"
        raise MachineError(
            f"{path.parent} was removed or renamed during the run: {path} is in a new one; go on with {command}"
        )


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of ours or nanoGPT's; tensors come to the CPU. Only plain data and tensors are read, nothing is run.

    Raises UserError naming the file if it is missing, damaged, unsafe or no checkpoint.
    """
    sealed = True
    try:
        if is_sharded(path):
            return _checked(load_whole(path, open_sharded(path)), path)
        with open_regular(path) as file:
            sealed = _is_sealed(file, path)
            state = read_archive(file, checked=sealed)
    except FileNotFoundError:
        raise UserError(
            f"no checkpoint {path}: python train.py --out_dir=FOLDER makes one in FOLDER"
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} holds more than data and could run code: nothing in it was run"
        ) from None
    except (UserError, MemoryError):
        raise
    except Exception:  # what a file made to look like a checkpoint raises has no end
        if not sealed:
            raise UserError(_NO_CHECKPOINT.format(path)) from None
        raise UserError(
            f"{path} is no checkpoint, whatever its seal says: use another copy or train again"
        ) from None
    if not sealed:
        if (
            not isinstance(state, dict) or "model_args" not in state or "format" in state
        ):  # ours has lost its end then
            raise UserError(_NO_CHECKPOINT.format(path))
        return from_nanogpt(state, path)
    return _checked(state, path)


def _checked(state: Any, path: Path) -> dict[str, Any]:
    """What was read, if it is a checkpoint of ours. Raises UserError if it is not."""
    version = (
        re.fullmatch(r"kqv (\d{1,9})", str(state.get("format")))
        if isinstance(state, dict)
        else None
    )
    if not version:
        raise UserError(
            f"{path} is no checkpoint of kqv (format {FORMAT!r}): it cannot be used here"
        )
    if int(version[1]) != VERSION:
        raise UserError(
            f"{path} has format {version[0]!r} and this kqv reads {FORMAT!r}: use the version that wrote it"
        )
    if wrong := [
        name for name, kind in PARTS.items() if name in state and not isinstance(state[name], kind)
    ]:
        raise UserError(f"{path} cannot be used: its {wrong[0]} is of the wrong kind")
    return state


def _is_sealed(file: BinaryIO, path: Path) -> bool:
    """Whether the file ends with a seal. Raises UserError if that is not the checksum of all that stands before it.

    The archive's own checksums leave out its table of contents, and do not notice every flipped bit.
    """
    size = max(0, file.seek(0, os.SEEK_END) - len(SEAL) - hashlib.sha256().digest_size)
    file.seek(size)
    seal = file.read()
    if not seal.startswith(SEAL):
        return False
    file.seek(0)
    digest = hashlib.sha256()
    while size > 0 and (piece := file.read(min(size, 1 << 20))):
        digest.update(piece)
        size -= len(piece)
    if seal != SEAL + digest.digest():
        raise UserError(
            f"{path} is damaged: it is not what was saved; use another copy or train again"
        )
    return True


def load_latest(
    out_dir: str, read: Callable[[Path], dict[str, Any]] = load_checkpoint
) -> tuple[dict[str, Any], Path]:
    """The checkpoint from which the run in out_dir goes on, and where it is: last.pt or, if that is damaged, the one before
    it. What is passed over is said on stderr.

    Raises UserError if none is whole.
    """
    newest = find_checkpoint(out_dir, TO_RESUME)
    older = (
        newest.with_name(name)
        for name in TO_RESUME
        if name != newest.name and Path(out_dir).is_dir()
    )
    found = [newest, *(path for path in older if path.exists())]
    for path, one_before in itertools.pairwise(found):
        try:
            return _load_resumable(path, read), path
        except UserError as error:
            print(f"{error}; going on from the one before it, {one_before}", file=sys.stderr)
    return _load_resumable(found[-1], read), found[-1]


def load_share(path: Path, fsdp: bool | None) -> dict[str, Any]:
    """As load_checkpoint; of a sharded checkpoint that a sharded run goes on with, shapes stand in place of the weights, and
    each process reads its own later. `fsdp` says whether it will be sharded, None that it will be as it was.

    Raises UserError as load_checkpoint does.
    """
    if not is_sharded(path):
        return load_checkpoint(path)
    state = _checked(open_sharded(path), path)
    if fsdp is None:
        fsdp = state.get("config", {}).get("fsdp", False)
    return state if fsdp else load_whole(path, state)


def is_of_launch(launch: str, out_dir: str) -> bool:
    """Whether the run in out_dir was begun by this launch of torchrun, which has started its processes anew."""
    try:
        return (
            load_latest(out_dir, functools.partial(load_share, fsdp=True))[0].get("launch")
            == launch
        )
    except UserError:
        return False


def _load_resumable(path: Path, read: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """A checkpoint with all that a resume needs. Raises UserError if a part is not there."""
    state = read(path)
    newer = ("skipped", "skipped_in_a_row", "text")  # not in the first checkpoints of this format
    if missing := [name for name in PARTS if name not in state and name not in newer]:
        raise UserError(
            f"{path} has no {missing[0]}, which a resume needs: start a new run from it with --init_from={path}"
        )
    counts = [state.get(name, 0) for name in ("iter_num", "skipped", "skipped_in_a_row")]
    scale = state["scaler"].values()
    whole = all(0 <= count <= MOST_STEPS for count in counts) and state["best_val_loss"] > -math.inf
    if not whole or not all(
        isinstance(number, int | float) and abs(number) < LARGEST_SCALE for number in scale
    ):
        raise UserError(
            f"{path} cannot be used: its numbers are none of a run; use another copy or train again"
        )
    return state


def find_checkpoint(where: str, names: Sequence[str] = TO_USE) -> Path:
    """The checkpoint that `where` means: a file, or a folder with one of `names`, the first of them that is there.

    Raises UserError if there is none.
    """
    path = Path(where)
    if is_sharded(path) or not (path.is_dir() or names == TO_RESUME):
        return path
    for name in names:
        if (path / name).exists():
            return path / name
    raise UserError(
        f"{path} has no checkpoint ({' or '.join(names)}): train one with python train.py --out_dir={path}"
    )


def load_model(where: str) -> tuple[GPT, Tokenizer, dict[str, Any], Path]:
    """The model to use of a checkpoint file or a folder (see `load_any`), its tokenizer, the whole checkpoint and its path.

    Raises UserError if there is none, or it is damaged.
    """
    checkpoint, path = load_any(where)
    return *restore_model(checkpoint, path), checkpoint, path


def load_any(where: str) -> tuple[dict[str, Any], Path]:
    """A checkpoint of ours or nanoGPT's, a folder of a Hugging Face model, or a .safetensors file of ours; and where it is.

    Raises UserError if there is none, or it is damaged.
    """
    path = Path(where)
    of_a_run = any(
        (path / name).exists() for name in (METRICS, *TO_USE)
    )  # which has a config.json of ours
    if path.is_dir() and (path / CONFIG).exists() and not of_a_run:
        return from_huggingface(path), path / CONFIG
    if path.suffix == ".safetensors":
        return from_safetensors(path), path
    path = find_checkpoint(where)
    return load_checkpoint(path), path


def restore_model(
    state: dict[str, Any], path: Path, block_size: int | None = None
) -> tuple[GPT, Tokenizer]:
    """The model and the tokenizer of a checkpoint; a smaller `block_size` cuts off the positions beyond it. (Of one that
    open_sharded read the weights are yet to come.)

    Raises UserError if its parts do not fit together.
    """
    try:
        config, weights = GPTConfig(**state["model_args"]), state["model"]
        tokenizer = tokenizer_from_dict(state["tokenizer"])
        padded = (
            tokenizer.kind == "bpe" and tokenizer.vocab_size < config.vocab_size
        )  # as nanoGPT's and Qwen3's are
        if tokenizer.vocab_size != config.vocab_size and not padded:
            raise UserError("the vocabulary is not the model's")
        _check_size(config, weights)
        if block_size and block_size < config.block_size:
            config = replace(config, block_size=block_size)
            if config.position == "learned":
                weights = {**weights, "positions.weight": weights["positions.weight"][:block_size]}
        model = GPT(config)
        if not holds_shapes(state):
            model.load_state_dict(weights)
    except (
        UserError,
        LookupError,
        TypeError,
        ValueError,
        ArithmeticError,
        AttributeError,
        RuntimeError,
    ) as error:
        raise UserError(f"{path} cannot be used: {' '.join(str(error).split())}") from None
    return model, tokenizer


def _check_size(config: GPTConfig, weights: dict[str, Any]) -> None:
    """Raises UserError if a model of this shape has more weights than there are: a file can claim any size, and making the
    model takes the memory. (Shapes could be had from the device "meta", whose import takes half a second.)"""
    if holds_shapes({"model": weights}):
        there = sum(map(math.prod, weights.values()))
    elif all(
        isinstance(weight, torch.Tensor) and weight.is_floating_point()
        for weight in weights.values()
    ):
        storages = {
            weight.untyped_storage().data_ptr(): weight for weight in weights.values()
        }  # each once
        there = sum(
            weight.untyped_storage().nbytes() // weight.element_size()
            for weight in storages.values()
        )
    else:
        raise UserError("its weights are no tensors of real numbers")
    positions = config.block_size if config.position == "learned" else 0
    matrices = 3 if config.mlp == "swiglu" else 2
    block = (4 * config.n_embd + matrices * config.hidden) * config.n_embd
    least = config.n_layer * block + (config.vocab_size + positions) * config.n_embd
    if config.block_size > LONGEST_BLOCK or (least > there and _weight_count(config) > there):
        raise UserError("its weights are not the model's")


def _weight_count(config: GPTConfig) -> int:
    """How many weights model.py makes of these options, be it changed or not; its blocks are taken to be alike."""
    with torch.device("meta"):
        one, two = (GPT(replace(config, n_layer=number)).parameter_count() for number in (1, 2))
    return one + (config.n_layer - 1) * (two - one)


def model_state(model: GPT, tokenizer: Tokenizer) -> dict[str, Any]:
    """The part of a checkpoint that sampling needs."""
    return {
        "model": model.state_dict(),
        "model_args": asdict(model.config),
        "tokenizer": tokenizer.to_dict(),
    }
