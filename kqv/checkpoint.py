"""Checkpoints: self-contained, written so that a crash loses nothing, read so that nothing runs.

A checkpoint is what `torch.save` makes of this dictionary (the names that nanoGPT has too are nanoGPT's):

    format          "kqv 1"
    model           weights by name                 model_args    the fields of GPTConfig
    optimizer       one state a optimizer           tokenizer     what CharTokenizer.to_dict gives
    iter_num        training steps done             config        the fields of TrainSettings
    best_val_loss   lowest estimate so far          checksum      of all the rest
"""

import hashlib
import pickle
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from kqv.errors import MachineError, UserError
from kqv.files import replacing
from kqv.tokenizer import CharTokenizer, tokenizer_from_dict
from model import GPT, GPTConfig

FORMAT = "kqv 1"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` to `path`: to another name, flushed, then renamed, so `path` is whole at every moment.

    Raises MachineError if it cannot be written; what was at `path` is still there then.
    """
    try:
        with replacing(path) as file:
            state = {"format": FORMAT, **state}
            torch.save({**state, "checksum": checksum(state)}, file)
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"no checkpoint {path}: python train.py --out_dir=FOLDER makes one in FOLDER") from None
    except (IsADirectoryError, PermissionError) as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except pickle.UnpicklingError:
        raise UserError(f"{path} is no checkpoint, or holds more than data and could run code: nothing in it was run") from None
    except Exception:  # what a damaged file makes the readers of archives and pickles raise has no end
        raise UserError(f"{path} is no checkpoint, or only a part of one: use another copy or train again") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path} is no checkpoint of kqv (format {FORMAT!r}): it cannot be used here")
    if state.pop("checksum", None) != checksum(state):
        raise UserError(f"{path} is damaged: its content is not what was saved; use another copy or train again")
    return state


def checksum(state: dict[str, Any]) -> str:
    """SHA-256 of nested dictionaries, lists, plain values and tensors, in hexadecimal.

    It is made of the content, not of the file: neither torch.load nor the archive's own checksums, which do not
    cover its table of contents, notice every flipped bit.
    """
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        match value:
            case torch.Tensor():
                digest.update(f"tensor {value.dtype} {tuple(value.shape)}:".encode())
                digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
            case dict():
                digest.update(f"dict {len(value)}:".encode())
                for key, item in value.items():
                    add(key)
                    add(item)
            case list() | tuple():
                digest.update(f"list {len(value)}:".encode())
                for item in value:
                    add(item)
            case _:
                digest.update(f"{type(value).__name__} {value!r}:".encode())

    add(state)
    return digest.hexdigest()


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
