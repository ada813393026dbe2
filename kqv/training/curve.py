"""loss.png: the losses of a run over its steps."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kqv.files import replacing
from kqv.plotting import empty_figure
from kqv.run_files import CURVE
from kqv.training.metrics import read_metrics


def draw_curve(folder: Path) -> Path:
    """Draw the losses in metrics.jsonl to loss.png in the same folder. Returns its path."""
    lines = read_metrics(folder)
    figure = empty_figure(6.4, 4)
    axes = figure.add_subplot()
    axes.plot(*_points(lines, "train_loss"), color="#0072b2", linewidth=1, alpha=0.7,
              label="training")  # fmt: skip
    axes.plot(*_points(lines, "val_loss"), "o-", color="#d55e00", markersize=3,
              label="validation (estimate)")  # fmt: skip
    steps, losses = _points(lines, "val_loss_full")
    if steps:
        label = f"whole validation split: {losses[-1]:.3f}"
        axes.plot(steps, losses, "*", color="#009e73", markersize=10, label=label)
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
