"""Overfitting, noticed while a run trains."""

import math
from collections.abc import Mapping
from typing import Any

from kqv.options.settings import TrainSettings
from kqv.training.remarks import dropout_advice

RISE = 0.05  # of the best validation loss, and nats: a smaller rise is not overfitting yet
BELOW = 0.8  # times the validation loss: the training loss must be below that


class Overfitting:
    """Notices, from the lines of metrics.jsonl, that a model memorises its text.

    It does when the validation loss is clearly above its best while the training loss is clearly
    below it and has fallen. The estimate reads the same windows each time, so it does not rise by
    chance; when training diverges, both losses rise.
    """

    def __init__(self, settings: TrainSettings) -> None:
        self.help = f"fewer steps (--max_iters), more text or {dropout_advice(settings)} help"
        self.best = self.train_then = math.inf  # lowest validation loss, training loss at that step
        self.best_step = 0
        self.train = math.nan  # mean training loss between the last two evaluations
        self.recent: dict[int, float] = {}  # training losses since, by step
        self.evaluated = -1  # step of the last evaluation
        self.said = False
        self.remark = ""
        """what there is to say after the last evaluation"""

    def see(self, line: Mapping[str, Any]) -> str:
        """The remark when it becomes true for the first time, else "".

        A resumed run writes the line of its first step again, which does not count twice.
        """
        step = line["step"]
        if step == self.evaluated:
            return ""
        if "train_loss" in line:
            self.recent[step] = line["train_loss"]
        if "val_loss" not in line:
            return ""
        loss, self.evaluated = line["val_loss"], step
        if self.recent:
            self.train, self.recent = sum(self.recent.values()) / len(self.recent), {}
        if loss < self.best:
            # An untrained model has the same loss on both splits.
            self.best, self.best_step = loss, step
            self.train_then = loss if math.isnan(self.train) else self.train
        self.remark = ""
        if overfits(loss, self.best, self.train, self.train_then):
            self.remark = (
                f"validation loss has risen since step {self.best_step} "
                f"({self.best:.2f} → {loss:.2f}) while the training loss fell to "
                f"{self.train:.2f}: the model memorises the text; {self.help}"
            )
        if not self.remark or self.said:
            return ""
        self.said = True
        return self.remark


def overfits(loss: float, best: float, train: float, train_then: float) -> bool:
    """Whether a validation loss means memorising: compared with the best one so far, and with the
    training losses now and at that step, all in nats.

    >>> overfits(4.61, best=3.74, train=0.90, train_then=3.7)
    True
    >>> overfits(1.56, best=1.55, train=1.30, train_then=1.4)
    False
    """
    return loss > best + RISE * max(1.0, best) and train < BELOW * loss and train < train_then
