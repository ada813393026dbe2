"""What a run says of itself: a bar for people (kqv/progress.py), metrics.jsonl for machines, a picture of the curve, other reports.

metrics.jsonl has one object a line, at most one for each step, with the keys that apply: step, train_loss,
val_loss (the estimate), val_loss_full (the whole split), val_loss_per_character (the same, where a token is something else),
learning_rate, grad_norm, tokens_per_second,
skipped (updates so far that were not made, because a number was not finite), wall_seconds (since the process started).
With --inner_figures=True evaluations have lists too, one number a layer: raw_variance, scaled_variance, entropy and
saturated (see MEANINGS in kqv/inside/figures.py; means over the heads and a few windows of the validation split) and
grad_norm_layers (of the step before, not clipped).
Losses are nats per token. What is not finite is left out: JSON has no word for it.
"""

import json
import math
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from kqv import STARTED
from kqv.files import read_small, replacing
from kqv.options.settings import TrainSettings
from kqv.progress import Bar
from kqv.run_files import CURVE, LARGEST_METRICS, METRICS
from kqv.training.remarks import Overfitting, Pace
from kqv.training.trackers import reports_of

LAYER_MEASURES = ("raw_variance", "scaled_variance", "entropy", "saturated", "grad_norm_layers")
MEASURES = (
    "train_loss", "val_loss", "val_loss_full", "val_loss_per_character", "learning_rate", "grad_norm", "skipped",
    "tokens_per_second", *LAYER_MEASURES,
)  # fmt: skip


class RunLog:
    """The progress bar and the metrics file of one training run; use it as a context."""

    def __init__(self, settings: TrainSettings, first_step: int, pace: Pace | None = None) -> None:
        """`first_step` is where a resumed run goes on: lines of later steps are dropped from its
        metrics file. `pace` watches the speed."""
        self.folder = Path(settings.out_dir)
        self.first_step, self.began = first_step, time.perf_counter()
        self.steps = settings.max_iters
        self.lines = (
            [line for line in read_metrics(self.folder) if line["step"] <= first_step]
            if first_step
            else []
        )
        self.overfitting, self.pace = Overfitting(settings), pace
        for earlier in self.lines:
            self.overfitting.see(earlier)
        self._begin()
        there = self.lines[-1] if self.lines and self.lines[-1]["step"] == first_step else {}
        self.unfinished = {key: value for key, value in there.items() if key in MEASURES}
        """What was measured at `first_step` itself; the caller adds to it and writes that line again."""
        self.reports = reports_of(settings, first_step)
        self.bar = Bar(self.steps, first_step)
        self.say = self.bar.say

    def _begin(self) -> None:
        """Write the lines of earlier steps anew, whole or not at all, and open the file to add to it."""
        with replacing(self.folder / METRICS) as file:
            file.writelines(map(_json_line, self.lines))
        self.file = (self.folder / METRICS).open("ab", buffering=0)
        self.unwritten = b""

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
        self.file.close()
        for report in self.reports:
            report.finish(self.folder / CURVE)

    def progress(self, step: int, loss: float, tokens_per_second: float) -> None:
        """Move the bar to `step`."""
        self.bar.move(step, f"loss {loss:.3f}, {tokens_per_second:,.0f} tokens/s")

    def write(self, step: int, **metrics: Any) -> None:
        """Append the line of `step`, numbers and lists of them, to metrics.jsonl, and show it where there is no bar.

        Raises OSError if the disk is full; the file is whole then, and the next call writes this line too.
        """
        line = {"step": step, **metrics, "wall_seconds": round(time.perf_counter() - STARTED, 3)}
        line = {key: value for key, value in line.items() if _is_finite(value)}
        self._show(step, metrics)
        self._remark(line)
        for report in self.reports:
            report.numbers(
                step,
                {
                    key: value
                    for key, value in line.items()
                    if key != "step" and not isinstance(value, list)
                },
            )
        if self.lines and self.lines[-1]["step"] == step:  # the line that a stopped run had begun
            self.lines[-1], before = line, self.file
            self._begin()
            before.close()
        else:
            self._append(_json_line(line))

    def flush(self) -> None:
        """Flush metrics.jsonl to the disk. Raises OSError if that fails."""
        os.fsync(self.file.fileno())

    def _remark(self, line: dict[str, Any]) -> None:
        """Say what a person should hear of these numbers."""
        remarks = [self.overfitting.see(line)]
        if self.pace and "tokens_per_second" in line:
            remarks.append(self.pace.see(line["tokens_per_second"]))
        for remark in filter(None, remarks):
            self.say(remark)

    @property
    def remark(self) -> str:
        """What there is to say of the model at the end, or ""."""
        return self.overfitting.remark

    def sample(self, step: int, text: str) -> None:
        """A text that the model wrote."""
        self.say(text + "\n")
        for report in self.reports:
            report.sample(step, text)

    def curve(self) -> None:
        """Draw the losses. That they cannot be drawn is said, and loses nothing else."""
        try:
            draw_curve(self.folder)
        except Exception as error:  # whatever a drawing library raises: the run is done, and kept
            reason = " ".join(str(error).split())[:200]
            self.say(
                f"the curve was not drawn ({reason}): its numbers are in {self.folder / METRICS}"
            )

    def _append(self, line: bytes) -> None:
        self.unwritten += line
        size = self.file.seek(0, os.SEEK_END)
        try:
            written = self.file.write(self.unwritten)
            if written != len(self.unwritten):  # only a part found room: the next try tells why
                self.file.write(self.unwritten[written:])
        except OSError:
            self.file.truncate(size)
            raise
        self.unwritten = b""

    def _show(self, step: int, metrics: dict[str, Any]) -> None:
        if not self.bar.terminal and "train_loss" in metrics and step > self.first_step:
            left = (
                (time.perf_counter() - self.began) / (step - self.first_step) * (self.steps - step)
            )
            self.say(
                f"step {step}/{self.steps}: loss {metrics['train_loss']:.4f}, "
                f"{metrics['tokens_per_second']:,.0f} tokens/s, {tqdm.format_interval(left)} left"
            )


class SilentLog:
    """What stands in place of a RunLog in a process that neither writes nor prints."""

    unfinished: dict[str, Any] = {}  # noqa: RUF012 (never changed)
    remark = ""

    def __enter__(self) -> "SilentLog":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, text: str) -> None:
        """Nothing."""

    def sample(self, step: int, text: str) -> None:
        """Nothing."""

    def curve(self) -> None:
        """Nothing."""

    def progress(self, step: int, loss: float, tokens_per_second: float) -> None:
        """Nothing."""

    def write(self, step: int, **metrics: Any) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing."""


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; none if there is no such file. Half a line that a crash left is left out."""
    try:
        text = read_small(folder / METRICS, LARGEST_METRICS).decode(errors="replace")
    except FileNotFoundError:
        return []
    return [
        line
        for line in map(_parsed, text.splitlines())
        if isinstance(line, dict) and isinstance(line.get("step"), int)
    ]


def draw_curve(folder: Path) -> Path:
    """Draw the losses in metrics.jsonl over the steps to loss.png in the same folder. Returns its path."""
    from kqv.plotting import empty_figure  # which needs read_metrics itself

    lines = read_metrics(folder)
    figure = empty_figure(6.4, 4)
    axes = figure.add_subplot()
    axes.plot(
        *_points(lines, "train_loss"), color="#0072b2", linewidth=1, alpha=0.7, label="training"
    )
    axes.plot(
        *_points(lines, "val_loss"),
        "o-",
        color="#d55e00",
        markersize=3,
        label="validation (estimate)",
    )
    whole = _points(lines, "val_loss_full")
    if whole[0]:
        axes.plot(
            *whole,
            "*",
            color="#009e73",
            markersize=10,
            label=f"whole validation split: {whole[1][-1]:.3f}",
        )
    axes.set(xlabel="step", ylabel="loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend()
    path = folder / CURVE
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=100)
    return path


def _points(lines: Iterable[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    found = [(line["step"], line[key]) for line in lines if key in line]
    return [step for step, _ in found], [value for _, value in found]


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _is_finite(value: Any) -> bool:
    return all(map(math.isfinite, value if isinstance(value, list) else [value]))


def _json_line(line: dict[str, Any]) -> bytes:
    return json.dumps(line).encode() + b"\n"
