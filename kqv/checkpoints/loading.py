"""Find and load what a user names: a checkpoint, the folder of a run, or a model made elsewhere.

load_checkpoint(path)      one checkpoint, single or sharded
load_any("out")            a checkpoint, a Hugging Face folder or a .safetensors file
load_model("out")          the same, with its model and tokenizer ready to use
load_latest("out")         the newest intact checkpoint of a run, to resume from
"""

import functools
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kqv.checkpoints.format import check_format, check_resumable
from kqv.checkpoints.restoring import restore_model, restore_source_tokenizer
from kqv.checkpoints.sharded import is_sharded, load_full, load_shapes
from kqv.checkpoints.single import load_file
from kqv.errors import UserError
from kqv.exchange.huggingface import from_huggingface
from kqv.exchange.safetensors import from_safetensors
from kqv.run_files import CONFIG, METRICS, TO_RESUME, TO_USE
from kqv.text.tokenizer import Tokenizer
from model import GPT


class LoadedModel(NamedTuple):
    """A model ready to use, and where it comes from."""

    model: GPT
    tokenizer: Tokenizer
    checkpoint: dict[str, Any]
    path: Path

    @property
    def source_tokenizer(self) -> Tokenizer:
        """That of an encoder-decoder's sources; `tokenizer` if both sides have one vocabulary."""
        return restore_source_tokenizer(self.checkpoint, self.tokenizer)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint of kqv or nanoGPT; tensors are on the CPU.

    Only plain data and tensors are read, and no code is run.

    Raises UserError naming the path if it is missing, damaged, unsafe or no checkpoint.
    """
    return load_for_rank(path, fsdp=False)


def load_for_rank(path: Path, fsdp: bool | None) -> dict[str, Any]:
    """Load a checkpoint to train from; with FSDP, leave the tensors of a sharded one on disk.

    Shapes stand in place of these tensors (`holds_shapes`), and each rank loads its own shards
    later (`restore_shards`). `fsdp` says whether the run will be sharded; None keeps the
    checkpoint's own setting.

    Raises UserError as load_checkpoint does.
    """
    if not is_sharded(path):
        return load_file(path)
    state = check_format(load_shapes(path), path)
    if fsdp is None:
        fsdp = state.get("config", {}).get("fsdp", False)
    return state if fsdp else load_full(path, state)


def load_latest(
    out_dir: str, read: Callable[[Path], dict[str, Any]] = load_checkpoint
) -> tuple[dict[str, Any], Path]:
    """Load the newest intact checkpoint of the run in out_dir. Returns it and its path.

    A damaged one is skipped with a line on stderr, and the one before it is tried.

    Raises UserError if none is intact.
    """
    newest = find_checkpoint(out_dir, TO_RESUME)
    candidates = [newest]
    if Path(out_dir).is_dir():
        others = (newest.with_name(name) for name in TO_RESUME if name != newest.name)
        candidates += [path for path in others if path.exists()]
    for path, previous in itertools.pairwise(candidates):
        try:
            return check_resumable(read(path), path), path
        except UserError as error:
            print(f"{error}; resuming from the previous one, {previous}", file=sys.stderr)
    return check_resumable(read(candidates[-1]), candidates[-1]), candidates[-1]


def is_of_launch(launch: str, out_dir: str) -> bool:
    """Whether this launch of torchrun already saved a checkpoint in out_dir before a restart."""
    read = functools.partial(load_for_rank, fsdp=True)
    try:
        state, _ = load_latest(out_dir, read)
    except UserError:
        return False
    return state.get("launch") == launch


def find_checkpoint(where: str, names: Sequence[str] = TO_USE) -> Path:
    """The checkpoint at `where`: a file, or the first of `names` that exists in a folder.

    Raises UserError if the folder has none.
    """
    path = Path(where)
    if is_sharded(path) or not (path.is_dir() or names == TO_RESUME):
        return path
    for name in names:
        if (path / name).exists():
            return path / name
    raise UserError(
        f"{path} has no checkpoint ({' or '.join(names)}): "
        f"train one with python train.py --out_dir={path}"
    )


def load_any(where: str) -> tuple[dict[str, Any], Path]:
    """Load a checkpoint, a folder of a Hugging Face model, or a .safetensors file of ours.

    Returns the checkpoint and its path. Raises UserError if there is none, or it is damaged.
    """
    path = Path(where)
    # The folder of a run has a config.json, too: its own.
    of_a_run = any((path / name).exists() for name in (METRICS, *TO_USE))
    if path.is_dir() and (path / CONFIG).exists() and not of_a_run:
        return from_huggingface(path), path / CONFIG
    if path.suffix == ".safetensors":
        return from_safetensors(path), path
    path = find_checkpoint(where)
    return load_checkpoint(path), path


def load_model(where: str) -> LoadedModel:
    """Load what `load_any` finds, and make its model and tokenizer.

    Raises UserError if there is none, or it is damaged.
    """
    checkpoint, path = load_any(where)
    model, tokenizer = restore_model(checkpoint, path)
    return LoadedModel(model, tokenizer, checkpoint, path)
