"""What a run says while it trains: to people, to metrics.jsonl, and to experiment trackers."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from kqv import STARTED
from kqv.options.settings import TrainSettings
from kqv.progress import Bar
from kqv.run_files import CURVE, METRICS
from kqv.training.curve import draw_curve
from kqv.training.metrics import MEASURES, MetricsFile, finite
from kqv.training.overfitting import Overfitting
from kqv.training.pace import Pace
from kqv.training.remarks import finished_remark, passes_remark
from kqv.training.trackers import trackers_of

if TYPE_CHECKING:
    from kqv.training.run import Run


class RunLog:
    """The progress bar, metrics file and trackers of one run, on rank 0; use it as a context."""

    def __init__(self, settings: TrainSettings, first_step: int, pace: Pace | None = None) -> None:
        """`first_step` is where a resumed run goes on. `pace` watches the speed."""
        self.folder, self.steps = Path(settings.out_dir), settings.max_iters
        self.first_step, self.began = first_step, time.perf_counter()
        self.file = MetricsFile(self.folder, first_step)
        self.overfitting, self.pace = Overfitting(settings), pace
        for line in self.file.lines:
            self.overfitting.see(line)
        latest = self.file.lines[-1] if self.file.lines else {}
        self.unfinished: dict[str, Any] = {}
        """metrics of `first_step` itself; the caller adds to them and writes that line again"""
        if latest.get("step") == first_step:
            self.unfinished = {key: value for key, value in latest.items() if key in MEASURES}
        self.trackers = trackers_of(settings, first_step)
        self.bar = Bar(self.steps, first_step)
        self.say = self.bar.say

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
        self.file.close()
        for tracker in self.trackers:
            tracker.finish(self.folder / CURVE)

    def progress(self, step: int, loss: float, tokens_per_second: float) -> None:
        """Move the bar to `step`."""
        self.bar.move(step, f"loss {loss:.3f}, {tokens_per_second:,.0f} tokens/s")

    def write(self, step: int, **metrics: Any) -> None:
        """Write the line of `step` (keys: kqv/training/metrics.py), and show it if there is no bar.

        Raises OSError if the disk is full; the next call writes this line too.
        """
        seconds = round(time.perf_counter() - STARTED, 3)
        line = finite({"step": step, **metrics, "wall_seconds": seconds})
        self._show(step, metrics)
        self._remark(line)
        numbers = {
            key: value
            for key, value in line.items()
            if key != "step" and not isinstance(value, list)
        }
        for tracker in self.trackers:
            tracker.numbers(step, numbers)
        self.file.write(line)

    def flush(self) -> None:
        """Flush metrics.jsonl to the disk. Raises OSError if that fails."""
        self.file.flush()

    @property
    def remark(self) -> str:
        """What there is to say about overfitting at the end, or ""."""
        return self.overfitting.remark

    def sample(self, step: int, text: str) -> None:
        """Show a text that the model wrote."""
        self.say(text + "\n")
        for tracker in self.trackers:
            tracker.sample(step, text)

    def curve(self) -> None:
        """Draw the losses. A failure is said, and loses nothing else."""
        try:
            draw_curve(self.folder)
        except Exception as error:  # a drawing library can raise anything: the run is saved
            reason = " ".join(str(error).split())[:200]
            self.say(
                f"the curve was not drawn ({reason}): its numbers are in {self.folder / METRICS}"
            )

    def _remark(self, line: dict[str, Any]) -> None:
        """Say what a person should know about these numbers."""
        remarks = [self.overfitting.see(line)]
        if self.pace and "tokens_per_second" in line:
            remarks.append(self.pace.see(line["tokens_per_second"]))
        for remark in filter(None, remarks):
            self.say(remark)

    def _show(self, step: int, metrics: dict[str, Any]) -> None:
        """A line for people, where there is no bar."""
        if not self.bar.terminal and "train_loss" in metrics and step > self.first_step:
            each = (time.perf_counter() - self.began) / (step - self.first_step)
            left = tqdm.format_interval(each * (self.steps - step))
            self.say(
                f"step {step}/{self.steps}: loss {metrics['train_loss']:.4f}, "
                f"{metrics['tokens_per_second']:,.0f} tokens/s, {left} left"
            )


class SilentLog:
    """The log of a rank that neither writes nor prints."""

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


def open_log(run: "Run", resume: str) -> RunLog | SilentLog:
    """The log of a run, which begins with what the run is. `resume` is the command that resumes
    it."""
    if not run.ranks.is_main:
        return SilentLog()
    settings, machine = run.settings, run.trainer.machine
    watched = machine.threads and run.ranks.world_size == 1
    log = RunLog(settings, run.step, Pace(machine.threads, resume) if watched else None)
    parameters = run.trainer.model.parameter_count()
    log.say(f"{parameters:,} parameters; {run.data}; {run.ranks}{machine}")
    for remark in run.data.remarks:
        log.say(remark)
    if run.step < settings.max_iters:
        amount, thing = run.data.size
        learns_a_text = settings.architecture != "encoder_decoder"
        can_grow = machine.threads > 0 and settings.init_from == "scratch" and learns_a_text
        step_size = run.data.step_size(settings)
        log.say(passes_remark(settings, amount, thing, parameters, step_size, can_grow))
    elif settings.init_from == "resume" and not run.ranks.launch.restarts:
        log.say(finished_remark(run.step, settings.max_iters, settings.out_dir, resume))
    return log
