"""What a checkpoint holds.

A checkpoint is a dictionary (the names that nanoGPT has too are nanoGPT's):

    format            "kqv 1"
    model             weights by name
    model_args        the fields of GPTConfig
    tokenizer         what Tokenizer.to_dict returns
    source_tokenizer  that of an encoder-decoder's sources, if it is another one
    optimizer         the state of each optimizer
    scaler            the state of the float16 gradient scaler
    config            the fields of TrainSettings
    iter_num          training steps done
    best_val_loss     lowest estimate so far
    skipped           updates skipped so far           (since November 2026)
    skipped_in_a_row  of these, the latest in a row    (since November 2026)
    text              identifies the training text     (since November 2026)

Sampling needs the model, its arguments and the tokenizer; a resume needs the rest too. On disk it
is one file (kqv/checkpoints/single.py) or, from a sharded run, a folder
(kqv/checkpoints/sharded.py).
"""

import math
import re
from pathlib import Path
from typing import Any

from kqv.errors import UserError
from kqv.run_files import FORMAT, VERSION

PARTS: dict[str, type] = {
    "model": dict,
    "model_args": dict,
    "tokenizer": dict,
    "source_tokenizer": dict,
    "optimizer": list,
    "scaler": dict,
    "config": dict,
    "iter_num": int,
    "best_val_loss": float,
    "skipped": int,
    "skipped_in_a_row": int,
    "text": str,
}
OPTIONAL = ("source_tokenizer", "skipped", "skipped_in_a_row", "text")  # not in every checkpoint

MAX_STEPS = 2**40  # of a run
MAX_SCALE = 2.0**64  # of the gradient scaler


def check_format(state: Any, path: Path) -> dict[str, Any]:
    """Return `state` if it is a checkpoint of this version whose parts have the right types.

    Raises UserError if it is not.
    """
    version = None
    if isinstance(state, dict):
        version = re.fullmatch(r"kqv (\d{1,9})", str(state.get("format")))
    if not version:
        raise UserError(f"{path} is no checkpoint of kqv (format {FORMAT!r})")
    if int(version[1]) != VERSION:
        raise UserError(
            f"{path} has format {version[0]!r} and this kqv reads {FORMAT!r}: "
            f"use the version that wrote it"
        )
    for name, kind in PARTS.items():
        if name in state and not isinstance(state[name], kind):
            raise UserError(f"{path} cannot be used: its {name} is of the wrong kind")
    return state


def check_resumable(state: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return `state` if it has all that a resume needs, with numbers that a run can have.

    Raises UserError if it does not.
    """
    for name in PARTS:
        if name not in state and name not in OPTIONAL:
            raise UserError(
                f"{path} has no {name}, which a resume needs: "
                f"start a new run from it with --init_from={path}"
            )
    counts = [state.get(name, 0) for name in ("iter_num", "skipped", "skipped_in_a_row")]
    # Comparisons that are false for nan, too.
    possible = all(0 <= count <= MAX_STEPS for count in counts)
    possible &= state["best_val_loss"] > -math.inf
    possible &= all(_is_scale(number) for number in state["scaler"].values())
    if not possible:
        raise UserError(
            f"{path} cannot be used: no run has its numbers; use another copy or train again"
        )
    return state


def _is_scale(number: Any) -> bool:
    return isinstance(number, int | float) and abs(number) < MAX_SCALE
