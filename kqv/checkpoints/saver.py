"""What a run writes, when, and what happens if the disk refuses it.

ckpt.pt      at an evaluation with the lowest loss so far
last.pt      at each evaluation, every checkpoint_minutes, and when the run stops
earlier.pt   the last.pt before that
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kqv.checkpoints.loading import find_checkpoint, load_for_rank
from kqv.checkpoints.restoring import model_state
from kqv.checkpoints.sharded import restore_weights, save_sharded
from kqv.checkpoints.single import save_checkpoint
from kqv.errors import MachineError
from kqv.run_files import BEST, EARLIER, LATEST
from kqv.training.log import RunLog, SilentLog
from kqv.training.run import Run
from model import GPT


class Saver:
    """Writes the metrics and checkpoints of a run; keeps its lowest validation loss."""

    def __init__(
        self, run: Run, log: RunLog | SilentLog, best_val_loss: float, resume: str
    ) -> None:
        """`resume` is the command that resumes the run."""
        self.run, self.log, self.best_val_loss, self.resume = run, log, best_val_loss, resume
        self.folder = Path(run.settings.out_dir)
        self.saved_at = time.perf_counter()

    def is_due(self) -> bool:
        """Whether rank 0 has not written last.pt for checkpoint_minutes."""
        minutes = self.run.settings.checkpoint_minutes
        age = time.perf_counter() - self.saved_at
        return bool(minutes) and self.run.ranks.is_main and age > 60 * minutes

    def save(self, metrics: dict[str, Any], evaluated: bool, due: bool, last: bool) -> None:
        """Write the metrics of this step, then the checkpoints that it is time for. All ranks call
        this together.

        The metrics come first: a run that is killed in between resumes from an earlier step and
        writes them again. Raises MachineError if a write fails and --on_write_error=stop, or if it
        was the last checkpoint of the run.
        """
        run = self.run
        if metrics:
            self.attempt(self.log.write, run.step, **metrics)
        if evaluated or due or run.stop or last:
            # a power cut must not leave a checkpoint that is newer than the metrics
            self.attempt(self.log.flush)
        if evaluated:
            self._save_best(metrics["val_loss"])
        # In float16 steps are skipped now and then while the scale of the gradients is found.
        sound = not run.skipped_in_a_row or run.trainer.scale_may_fall
        sound = sound and math.isfinite(metrics.get("val_loss", 0.0))
        if run.stop or (last and sound):
            self._save_latest()  # no later try will come, so a failure ends the run
        elif sound and (evaluated or due):
            self.attempt(self._save_latest)
            self.saved_at = time.perf_counter()

    def attempt(self, write: Callable[..., object], *values: Any, **named: Any) -> bool:
        """Call `write`; if the disk refuses, end the run, or say so and train on, as
        --on_write_error has it. Returns whether it was written."""
        try:
            write(*values, **named)
        except (MachineError, OSError) as error:
            if self.run.settings.on_write_error == "continue":
                self.log.say(f"{error}; training goes on")
                return False
            if isinstance(error, OSError):
                saved = (self.folder / LATEST).exists()
                hint = recovery_hint(self.run, self.resume) if saved else "then start again"
                raise MachineError(
                    f"{self.folder} takes no more ({error.strerror}): free some space; {hint}"
                ) from None
            raise
        return True

    def load_best(self, model: GPT) -> tuple[Path, int]:
        """Load the checkpoint that sampling takes into the model, unless it is of this step, as the
        model is. Returns its path and its step, on every rank. All ranks call this together."""
        ranks, fsdp = self.run.ranks, self.run.settings.fsdp
        ranks.broadcast(None)  # rank 0 has written it
        path, best = Path(), {}
        if ranks.is_main or fsdp:
            path = find_checkpoint(str(self.folder))
            best = load_for_rank(path, fsdp)
        path, step = ranks.broadcast((path, best["iter_num"] if ranks.is_main else 0))
        if step != self.run.step:
            if not fsdp:
                best = {"model": ranks.broadcast(best["model"] if ranks.is_main else {})}
            restore_weights(best, path, model)
        return path, step

    def _save_best(self, val_loss: float) -> None:
        """Write ckpt.pt if this is the lowest loss. If that fails, the loss is not remembered: the
        next one that beats the saved model is written."""
        settings = self.run.settings
        if not (val_loss < self.best_val_loss or settings.always_save_checkpoint):
            return
        before, self.best_val_loss = self.best_val_loss, min(self.best_val_loss, val_loss)
        untrained = self.run.step == 0 and settings.init_from == "scratch"  # not worth sampling
        if not untrained and not self.attempt(self._write, BEST):
            self.best_val_loss = before

    def _save_latest(self) -> None:
        self._write(LATEST, keep=self.folder / EARLIER)

    def _write(self, name: str, keep: Path | None = None) -> None:
        run = self.run
        state = self._state()
        if run.settings.fsdp:
            save_sharded(self.folder / name, state, run.ranks, keep)
        elif run.ranks.is_main:
            save_checkpoint(self.folder / name, state, keep)

    def _state(self) -> dict[str, Any]:
        """All that a resume needs."""
        run, trainer, data = self.run, self.run.trainer, self.run.data
        return {
            **model_state(trainer.model, data.tokenizer, data.source_tokenizer),
            "optimizer": [optimizer.state_dict() for optimizer in trainer.optimizers],
            "scaler": trainer.scaler.state_dict(),
            "iter_num": run.step,
            "best_val_loss": self.best_val_loss,
            "config": asdict(run.settings),
            "text": data.fingerprint,
            "skipped": run.skipped,
            "skipped_in_a_row": run.skipped_in_a_row,
            "launch": run.ranks.launch.id,
            "sources": list(data.dataset.sources),
        }


def recovery_hint(run: Run, resume: str) -> str:
    """What to say if the run dies: how to go on with what was saved. `resume` is the command."""
    others = ", and on the other machines with their --node_rank"
    several = others if run.ranks.launch.nodes > 1 else ""
    return f"what was saved in {run.settings.out_dir} is whole: go on with {resume}{several}"
