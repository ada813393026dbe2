"""metrics.jsonl: the numbers of a run, one JSON object a line, at most one line for each step.

A line has `step` and those of these keys that apply. Losses are in nats per token. A number that is
not finite is left out: JSON has no word for it.

    train_loss              mean loss of the step's global batch
    val_loss                estimate of the validation loss
    val_loss_full           validation loss over the whole split
    val_loss_per_character  the same per character, where a token is something else
    learning_rate, grad_norm, tokens_per_second
    skipped                 updates skipped so far, because a number was not finite
    wall_seconds            since the process started

With --inner_figures=True evaluations have lists too, one number a layer: raw_variance,
scaled_variance, entropy and saturated (means over heads and a few validation windows, of an
encoder-decoder those of cross-attention; see kqv/inside), and grad_norm_layers (of the step
before, not clipped).
"""

import json
import math
import os
from pathlib import Path
from typing import Any

from kqv.files import read_small, replacing
from kqv.run_files import LARGEST_METRICS, METRICS

LAYER_MEASURES = ("raw_variance", "scaled_variance", "entropy", "saturated", "grad_norm_layers")
MEASURES = (
    "train_loss", "val_loss", "val_loss_full", "val_loss_per_character", "learning_rate",
    "grad_norm", "skipped", "tokens_per_second", *LAYER_MEASURES,
)  # fmt: skip


class MetricsFile:
    """The metrics.jsonl of a run, open for appending; whole lines only, whatever fails."""

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        """`first_step` is where a resumed run goes on: lines of later steps are dropped."""
        self.path = folder / METRICS
        self.lines = []
        if first_step:
            self.lines = [line for line in read_metrics(folder) if line["step"] <= first_step]
        self.unwritten = b""
        self._rewrite()

    def write(self, line: dict[str, Any]) -> None:
        """Append a line, or replace the last one if it is of the same step.

        Raises OSError if the disk is full. The file has whole lines then, and the next call writes
        this line too.
        """
        if self.lines and self.lines[-1]["step"] == line["step"]:
            self.lines[-1], before = line, self.file
            self._rewrite()
            before.close()
        else:
            self._append(_json_line(line))

    def flush(self) -> None:
        """Flush the file to the disk. Raises OSError if that fails."""
        os.fsync(self.file.fileno())

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def _rewrite(self) -> None:
        """Write the earlier lines anew, whole or not at all, and open the file for appending."""
        with replacing(self.path) as file:
            file.writelines(map(_json_line, self.lines))
        self.file = self.path.open("ab", buffering=0)
        self.unwritten = b""

    def _append(self, line: bytes) -> None:
        self.unwritten += line
        size = self.file.seek(0, os.SEEK_END)
        try:
            written = self.file.write(self.unwritten)
            if written != len(self.unwritten):  # only a part found room: a second try raises why
                self.file.write(self.unwritten[written:])
        except OSError:
            self.file.truncate(size)
            raise
        self.unwritten = b""


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; [] if there is no such file. Half a line that a crash
    left is skipped."""
    try:
        text = read_small(folder / METRICS, LARGEST_METRICS).decode(errors="replace")
    except FileNotFoundError:
        return []
    lines = map(_parsed, text.splitlines())
    return [line for line in lines if isinstance(line, dict) and isinstance(line.get("step"), int)]


def finite(line: dict[str, Any]) -> dict[str, Any]:
    """The entries of a line that are finite numbers, or lists of them."""
    return {
        key: value
        for key, value in line.items()
        if all(map(math.isfinite, value if isinstance(value, list) else [value]))
    }


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _json_line(line: dict[str, Any]) -> bytes:
    return json.dumps(line).encode() + b"\n"
