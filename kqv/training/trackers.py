"""Experiment trackers, only if asked for: TensorBoard, Weights & Biases.

Each gets the settings and the name of the run, the numbers of metrics.jsonl, the samples, and at
the end the curve.
"""

import html
import os
from pathlib import Path
from typing import Any, Protocol

from kqv.options.settings import TrainSettings
from kqv.plotting import import_matplotlib
from kqv.run_files import TENSORBOARD


class Tracker(Protocol):
    """Receives what a run logs."""

    def numbers(self, step: int, metrics: dict[str, float]) -> None:
        """The metrics of one step."""

    def sample(self, step: int, text: str) -> None:
        """A text that the model wrote."""

    def finish(self, curve: Path) -> None:
        """End the run; `curve` is the path of the picture, if there is one."""


def trackers_of(settings: TrainSettings, first_step: int) -> list[Tracker]:
    """The trackers that the settings ask for."""
    trackers: list[Tracker] = [TensorBoard(settings, first_step)] if settings.tensorboard else []
    return trackers + ([WeightsAndBiases(settings)] if settings.wandb_log else [])


class TensorBoard:
    """Event files in out_dir/tensorboard; `tensorboard --logdir=OUT_DIR` shows them."""

    def __init__(self, settings: TrainSettings, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # what a killed run wrote about later steps is hidden when it resumes
        self.writer = SummaryWriter(
            Path(settings.out_dir) / TENSORBOARD, purge_step=first_step or None
        )
        rows = "".join(f"| {name} | {value} |\n" for name, value in vars(settings).items())
        self.writer.add_text(
            "settings", f"| {settings.wandb_run_name} | |\n|---|---|\n{rows}", first_step
        )
        self.step = first_step

    def numbers(self, step: int, metrics: dict[str, float]) -> None:
        """Write a scalar for each metric, under its name in metrics.jsonl."""
        self.step = step
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def sample(self, step: int, text: str) -> None:
        """Write the text; four spaces make it code in Markdown."""
        self.writer.add_text("sample", "".join(f"    {line}\n" for line in text.split("\n")), step)

    def finish(self, curve: Path) -> None:
        """Write the curve and close the file."""
        if curve.exists():
            picture = import_matplotlib().image.imread(curve)[..., :3]
            self.writer.add_image("curve", picture, self.step, dataformats="HWC")
        self.writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases, its files in out_dir/wandb. Without an account it stays there;
    `wandb sync` uploads it."""

    def __init__(self, settings: TrainSettings) -> None:
        os.environ.setdefault(
            "WANDB_CACHE_DIR", str(Path(settings.out_dir, "wandb", "cache").absolute())
        )
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        online = "WANDB_MODE" in os.environ or wandb.login(prompt=False)  # asks nothing
        options: dict[str, Any] = {
            "project": settings.wandb_project,
            "name": settings.wandb_run_name,
            "config": vars(settings),
        }
        options |= {
            "dir": settings.out_dir,
            "settings": wandb.Settings(console="off", init_timeout=30),
        }
        try:
            self.run = wandb.init(**options, mode=None if online else "offline")
        except wandb.Error:  # no network, or no such account
            self.run = wandb.init(**options, mode="offline")
        self.picture, self.page, self.teardown = wandb.Image, wandb.Html, wandb.teardown

    def numbers(self, step: int, metrics: dict[str, float]) -> None:
        """Log the metrics under their names in metrics.jsonl."""
        self.run.log(metrics, step=step)

    def sample(self, step: int, text: str) -> None:
        """Log the text."""
        self.run.log({"sample": self.page(f"<pre>{html.escape(text)}</pre>")}, step=step)

    def finish(self, curve: Path) -> None:
        """Log the curve and end the run. finish() alone would not wait until its files are
        written."""
        if curve.exists():
            self.run.log({"curve": self.picture(str(curve))})
        self.run.finish()
        self.teardown()
