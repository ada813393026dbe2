"""Checkpoints for tests."""

import hashlib
from pathlib import Path
from typing import Any

import torch

from kqv.checkpoints.single import SEAL
from kqv.text.characters import CharTokenizer

TOKENIZER = CharTokenizer.of("hello world\n")
SHAPE = {
    "vocab_size": TOKENIZER.vocab_size,
    "block_size": 8,
    "n_layer": 1,
    "n_head": 2,
    "n_embd": 8,
}
# A checkpoint that a run can resume from, as far as its parts tell.
RESUMABLE: dict[str, Any] = {
    "model": {},
    "model_args": {},
    "tokenizer": {},
    "optimizer": [],
    "scaler": {},
    "config": {},
    "iter_num": 0,
    "best_val_loss": 1.5,
}


def same(one: Any, other: Any) -> bool:
    """Equal in value and type, down to the last bit of each tensor."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or one != one


def seal(path: Path) -> Path:
    """Append the seal of a checkpoint. It guards against accidents only: anybody can make one."""
    path.write_bytes(path.read_bytes() + SEAL + hashlib.sha256(path.read_bytes()).digest())
    return path
