"""A run: what the training loop holds from step to step."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from kqv.machine.ranks import Ranks
from kqv.options.settings import TrainSettings
from kqv.training.data import RunData
from kqv.training.evaluation import Evaluator
from kqv.training.trainer import Trainer


@dataclass
class Run:
    """A model in training, its text, and how far it is."""

    settings: TrainSettings
    ranks: Ranks
    data: RunData
    trainer: Trainer
    evaluator: Evaluator
    step: int = 0
    """training steps done"""
    skipped: int = 0
    """steps whose update was skipped because a number in it was not finite"""
    skipped_in_a_row: int = 0
    signals: Sequence[int] = field(default_factory=list)
    """the stop signals that this process has received"""
    stop: bool = False
    """whether any rank has received one"""
