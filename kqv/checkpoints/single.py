"""A checkpoint as one file: what torch.save makes of it, followed by a seal.

The seal is the SHA-256 of all bytes before it; torch.load ignores it. The archive's own checksums
leave out its table of contents and miss some flipped bits. A file without a seal can be nanoGPT's:
it is read as strictly, then converted (kqv/exchange/nanogpt.py).

Saving is atomic: a crash leaves the old file or the new one. Loading runs no code
(kqv/checkpoints/archive.py).
"""

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import torch

from kqv.checkpoints.archive import read_archive
from kqv.checkpoints.format import check_format
from kqv.errors import MachineError, UserError
from kqv.exchange.nanogpt import from_nanogpt
from kqv.files import open_regular, replacing
from kqv.run_files import FORMAT

SEAL = b"sha256:"
HASH_CHUNK = 1 << 20  # bytes read at a time


def save_checkpoint(path: Path, state: dict[str, Any], keep: Path | None = None) -> None:
    """Write `state` to `path` atomically: to a temporary name, fsync, rename.

    The checkpoint that was at `path` is renamed to `keep` if that is given.

    Raises MachineError if it cannot be written; the file at `path` is unchanged then. If the folder
    was removed or renamed during the run, the checkpoint goes into a new one, and the MachineError
    says so.
    """
    folder_missing = not path.parent.exists()
    resume = f"python train.py --init_from=resume --out_dir={path.parent}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, keep) as file:
            torch.save({"format": FORMAT, **state}, file)
            file.seek(0)
            file.write(SEAL + hashlib.file_digest(file, "sha256").digest())
    except (OSError, RuntimeError) as error:
        # torch's archive writer turns a full disk into a RuntimeError.
        reason = error.strerror if isinstance(error, OSError) else "the disk may be full"
        hint = "no checkpoint was saved yet: free some space, then start again"
        if path.exists():
            hint = f"the previous one is kept: free some space, then resume with {resume}"
        raise MachineError(f"{path} could not be written ({reason}); {hint}") from None
    if folder_missing:
        raise MachineError(
            f"{path.parent} was removed or renamed during the run: {path} is in a new folder; "
            f"resume with {resume}"
        )


def load_file(path: Path) -> dict[str, Any]:
    """Load a checkpoint file of kqv or nanoGPT; tensors are on the CPU.

    Raises UserError naming the file if it is missing, damaged, unsafe or no checkpoint.
    """
    sealed = True
    try:
        with open_regular(path) as file:
            sealed = _check_seal(file, path)
            state = read_archive(file, verified=sealed)
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
    except Exception:  # a malformed file can raise anything
        if sealed:
            raise UserError(
                f"{path} is no checkpoint, although its seal fits: use another copy or train again"
            ) from None
        raise _not_a_checkpoint(path) from None
    if sealed:
        return check_format(state, path)
    if not isinstance(state, dict) or "model_args" not in state or "format" in state:
        raise _not_a_checkpoint(path)  # one of ours that lost its end has a format
    return from_nanogpt(state, path)


def _not_a_checkpoint(path: Path) -> UserError:
    return UserError(
        f"{path} is no checkpoint of kqv or nanoGPT, or was cut short: "
        f"use another copy or train again"
    )


def _check_seal(file: BinaryIO, path: Path) -> bool:
    """Whether the file ends with a seal.

    Raises UserError if the seal is not the checksum of the bytes before it.
    """
    size = max(0, file.seek(0, os.SEEK_END) - len(SEAL) - hashlib.sha256().digest_size)
    file.seek(size)
    seal = file.read()
    if not seal.startswith(SEAL):
        return False
    file.seek(0)
    digest = hashlib.sha256()
    while size > 0 and (chunk := file.read(min(size, HASH_CHUNK))):
        digest.update(chunk)
        size -= len(chunk)
    if seal != SEAL + digest.digest():
        raise UserError(
            f"{path} is damaged: it is not what was saved; use another copy or train again"
        )
    return True
