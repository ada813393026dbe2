"""Checkpoints: self-contained, written so that a crash loses nothing, read so that nothing runs.

A checkpoint is what `torch.save` makes of this dictionary (the names that nanoGPT has too are nanoGPT's):

    format          "kqv 1"
    model           weights by name                 model_args    the fields of GPTConfig
    optimizer       the state of each optimizer     tokenizer     what CharTokenizer.to_dict gives
    iter_num        training steps done             config        the fields of TrainSettings
    best_val_loss   lowest estimate so far          scaler        the state of the float16 gradient scaler

followed by a seal, the SHA-256 of the bytes before it, which torch.load does not mind.
"""

import hashlib
import os
import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import torch

from kqv.errors import MachineError, UserError
from kqv.files import replacing
from kqv.tokenizer import CharTokenizer, tokenizer_from_dict
from model import GPT, GPTConfig

FORMAT = "kqv 1"
SEAL = b"sha256:"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` to `path`: to another name, flushed, then renamed, so `path` is whole at every moment.

    Raises MachineError if it cannot be written; what was at `path` is still there then.
    """
    try:
        with replacing(path) as file:
            torch.save({"format": FORMAT, **state}, file)
            file.seek(0)
            file.write(SEAL + hashlib.file_digest(file, "sha256").digest())
    except (OSError, RuntimeError) as error:  # torch's archive writer turns a full disk into a RuntimeError
        reason = error.strerror if isinstance(error, OSError) else "the disk may be full"
        hint = "there is none yet: free some space, then start again"
        if path.exists():
            command = f"python train.py --init_from=resume --out_dir={path.parent}"
            hint = f"the one before it is kept: free some space, then go on with {command}"
        raise MachineError(f"{path} could not be written ({reason}); {hint}") from None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; tensors come to the CPU. Only plain data and tensors are read, nothing is run.

    Raises UserError naming the file if it is missing, damaged, unsafe or no checkpoint of ours.
    """
    try:
        with path.open("rb") as file:
            _check_seal(file, path)
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"no checkpoint {path}: python train.py --out_dir=FOLDER makes one in FOLDER") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except pickle.UnpicklingError:
        raise UserError(f"{path} holds more than data and could run code: nothing in it was run") from None
    except UserError:
        raise
    except Exception:  # what torch raises for a file made to look like a checkpoint has no end
        raise UserError(f"{path} is no checkpoint, whatever its seal says: use another copy or train again") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path} is no checkpoint of kqv (format {FORMAT!r}): it cannot be used here")
    return state


def _check_seal(file: BinaryIO, path: Path) -> None:
    """Raises UserError unless the file ends with the checksum of all that stands before it.

    Neither torch.load nor the archive's own checksums, which leave out its table of contents, notice every
    flipped bit.
    """
    size = max(0, file.seek(0, os.SEEK_END) - len(SEAL) - hashlib.sha256().digest_size)
    file.seek(0)
    digest = hashlib.sha256()
    while size > 0 and (piece := file.read(min(size, 1 << 20))):
        digest.update(piece)
        size -= len(piece)
    seal = file.read()
    if not seal.startswith(SEAL):
        raise UserError(f"{path} is no checkpoint of kqv, or only a part of one: use another copy or train again")
    if seal != SEAL + digest.digest():
        raise UserError(f"{path} is damaged: it is not what was saved; use another copy or train again")


def find_checkpoint(where: str, *names: str) -> Path:
    """The checkpoint that `where` means: a file, or a folder with one of `names`, the first of them that is there.

    Raises UserError if there is none.
    """
    path = Path(where)
    if not path.is_dir():
        return path
    for name in names:
        if (path / name).exists():
            return path / name
    raise UserError(f"{path} has no checkpoint ({' or '.join(names)}): train one with python train.py --out_dir={path}")


def restore_model(state: dict[str, Any], path: Path, dropout: float = 0.0) -> tuple[GPT, CharTokenizer]:
    """The model and the tokenizer of a checkpoint. Raises UserError if its parts do not fit together."""
    try:
        config = GPTConfig(**{**state["model_args"], "dropout": dropout})
        tokenizer = tokenizer_from_dict(state["tokenizer"])
        if tokenizer.vocab_size != config.vocab_size:
            raise UserError("the vocabulary is not the model's")
        model = GPT(config)
        model.load_state_dict(state["model"])
    except (UserError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} cannot be used: {' '.join(str(error).split())}") from None
    return model, tokenizer


def model_state(model: GPT, tokenizer: CharTokenizer) -> dict[str, Any]:
    """The part of a checkpoint that sampling needs."""
    return {"model": model.state_dict(), "model_args": asdict(model.config), "tokenizer": tokenizer.to_dict()}
