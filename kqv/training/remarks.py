"""What a person should hear about a run: numbers in, one line out, or "" where there is nothing to
say.

The model memorises its text; training has become slow; the text is too large or too small for so
many steps; a checkpoint is hardly trained. Nothing here computes on tensors, and torch is not
imported.
"""

import math
import os
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kqv.machine.load import Usage, core_count, may_spin, usage
from kqv.options.settings import TrainSettings
from kqv.project import CONFIGS, shell_command
from kqv.run_files import BEST, EARLIER, LATEST

YEAR = 365.25 * 86400  # seconds

RISE = 0.05  # of the best validation loss, and nats: what it rises less is not overfitting yet
BELOW = 0.8  # times the validation loss: the training loss must be below that

SPELL = 4.0  # seconds over which speeds are averaged before they are compared
SPELLS = 5  # that must all be slow
SLOW = 0.5  # times the speed of before
SHARED = 0.5  # cores of other programs that explain it

FEW_PASSES = 0.5  # passes below which more of a text should be read,
LARGE_TEXT = 10  # if it has more tokens than this for each parameter
MANY_PASSES = 100  # passes from which on a text is learnt by heart
ENOUGH_PASSES = 20  # passes that are advised then

# The recipe for a text that is large for the default model: what it takes (README.md, "Measured").
RECIPE = CONFIGS / "shakespeare_cpu.py"
RECIPE_PARAMETERS = 4.9e6
RECIPE_STEP = 16 * 256  # tokens
RECIPE_SPEED = 9_900  # tokens/s on two cores

# A model of fewer steps, or of a smaller part of those planned, is hardly trained.
FEW_STEPS, FEW_PLANNED = 10, 0.1


def duration(seconds: float) -> str:
    """A length of time as a person would say it.

    >>> [duration(seconds) for seconds in (5, 300, 16_000, 1e6, 3.2e9)]
    ['5 seconds', '5 minutes', '4.4 hours', '12 days', '101 years']
    """
    for unit, length, until in (
        ("seconds", 1, 120),
        ("minutes", 60, 120),
        ("hours", 3600, 72),
        ("days", 86400, 730),
    ):
        count = seconds / length
        if count < until:
            digits = 1 if length >= 3600 and count < 10 else 0
            return f"{count:,.{digits}f} {unit}"
    return f"{seconds / YEAR:,.0f} years"


def amount(count: float) -> str:
    """A large number in words.

    >>> amount(950), amount(2_048_000), amount(27e6), amount(9.04e9)
    ('950', '2.0 million', '27 million', '9.0 billion')
    """
    for word, size in (("billion", 1e9), ("million", 1e6)):
        if count >= size:
            digits = 0 if count >= 10 * size else 1
            return f"{count / size:,.{digits}f} {word}"
    return f"{count:,.0f}"


def describe_loss(loss: float, characters: float = 1.0) -> str:
    """A loss in the usual units; `characters` is how many a token has.

    >>> describe_loss(1.5)
    '1.5000 nats per character (2.164 bits)'
    >>> describe_loss(3, 2)
    '3.0000 nats per token, 1.5000 per character (2.164 bits)'
    """
    each = loss / max(characters, 1e-9)
    units = (
        f"{loss:.4f} nats per character"
        if characters == 1
        else f"{loss:.4f} nats per token, {each:.4f} per character"
    )
    return f"{units} ({each / math.log(2):.3f} bits)"


def describe_trivial_losses(uniform: float, frequencies: float, characters: float = 1.0) -> str:
    """The same in words; `characters` is how many a token has.

    >>> describe_trivial_losses(4.1744, 3.3127)
    '4.1744 by guessing, 3.3127 by letter frequencies'
    >>> describe_trivial_losses(6.931, 5.9, 2)
    '6.9310 by guessing (3.4655 per character), 5.9000 by token frequencies (2.9500)'
    """
    if characters == 1:
        return f"{uniform:.4f} by guessing, {frequencies:.4f} by letter frequencies"
    each = [loss / max(characters, 1e-9) for loss in (uniform, frequencies)]
    guessing = f"{uniform:.4f} by guessing ({each[0]:.4f} per character)"
    return f"{guessing}, {frequencies:.4f} by token frequencies ({each[1]:.4f})"


def passes_remark(
    settings: TrainSettings,
    tokens: int,
    thing: str,
    parameters: int,
    step_tokens: int,
    can_grow: bool,
) -> str:
    """How often a run reads its text, and what would fit better where that is far too seldom or too
    often.

    `tokens` are those of the training split, `thing` is what they are called, `step_tokens` what a
    step reads. `can_grow`: the model is a new one, to be trained on a CPU.
    """
    steps = settings.max_iters
    passes = steps * step_tokens / tokens
    number = f"{passes:.2f}" if passes < 10 else f"{passes:,.0f}"
    if 0 < passes < 0.01:
        number = "less than 0.01"
    said = (
        f"{steps:,} steps read {amount(steps * step_tokens)} {thing}: "
        f"{number} passes over the {amount(tokens)} for training"
    )
    if passes < FEW_PASSES and tokens > LARGE_TEXT * parameters:
        if can_grow and parameters < RECIPE_PARAMETERS / 2:
            once = math.ceil(tokens / RECIPE_STEP)
            recipe = f"{os.path.relpath(RECIPE)} --dropout=0 --max_iters={once}"
            return (
                f"{said}; a larger model learns more from so large a text: add {recipe} "
                f"--out_dir={settings.out_dir} for {amount(RECIPE_PARAMETERS)} parameters that "
                f"read it once (on two cores about {duration(tokens / RECIPE_SPEED)})"
            )
        return f"{said}; --max_iters={math.ceil(tokens / step_tokens)} reads it once"
    if passes >= MANY_PASSES:
        fewer = max(1, round(ENOUGH_PASSES * tokens / step_tokens))
        return (
            f"{said}; a text read so often is learnt by heart: --max_iters={fewer}, more text or "
            f"{_dropout(settings)} help"
        )
    return said


def _dropout(settings: TrainSettings) -> str:
    return "a higher --dropout" if settings.dropout else "--dropout=0.2"


class Overfitting:
    """Notices, from the lines of metrics.jsonl, that a model memorises its text instead of learning
    from it.

    The sign: the validation loss is clearly above its best, while the training loss is clearly
    below it and has fallen. The estimate reads the same windows each time, so that it does not rise
    by chance; where training diverges both losses rise.
    """

    def __init__(self, settings: TrainSettings) -> None:
        self.help = f"fewer steps (--max_iters), more text or {_dropout(settings)} help"
        self.best = self.train_then = math.inf  # lowest validation loss, training loss at that step
        self.best_step = 0
        self.train = math.nan  # mean training loss between the last two evaluations
        self.recent: dict[int, float] = {}  # training losses since, by step
        self.evaluated = -1  # step of the last evaluation
        self.said = False
        self.remark = ""
        """what there is to say after the last evaluation"""

    def see(self, line: Mapping[str, Any]) -> str:
        """The remark when it is true for the first time, else "". A resumed run writes the line of
        its first step again: what was seen of that does not count twice."""
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
            # A model that has not been trained has the loss of one text and of the other.
            self.best, self.best_step = loss, step
            self.train_then = loss if math.isnan(self.train) else self.train
        self.remark = ""
        if overfits(loss, self.best, self.train, self.train_then):
            self.remark = (
                f"validation loss has risen since step {self.best_step} "
                f"({self.best:.2f} → {loss:.2f}) while the training loss fell to "
                f"{self.train:.2f}: the model memorises the text; {self.help}"
            )
        fresh = bool(self.remark) and not self.said
        self.said = self.said or fresh
        return self.remark if fresh else ""


def overfits(loss: float, best: float, train: float, train_then: float) -> bool:
    """Whether a validation loss, beside the best so far and the training losses now and at the
    best, means memorising.

    >>> overfits(4.61, best=3.74, train=0.90, train_then=3.7)
    True
    >>> overfits(1.56, best=1.55, train=1.30, train_then=1.4)
    False
    """
    return loss > best + RISE * max(1.0, best) and train < BELOW * loss and train < train_then


class Pace:
    """Notices that training has become much slower than it was, and why.

    Speeds are averaged over spells of some seconds. The best is the slowest of SPELLS in a row, and
    training is slow where the fastest of the last SPELLS is below half of that: neither one fast
    report nor one slow one counts.
    """

    def __init__(self, threads: int, resume: str) -> None:
        """`threads` compute; `resume` is the command that goes on with the run."""
        self.command = f"GOMP_SPINCOUNT=0 {resume}" if may_spin(threads) else ""
        self.best, self.said = 0.0, False
        self.speeds: deque[float] = deque(maxlen=SPELLS)
        self.usages: deque[Usage | None] = deque(maxlen=SPELLS)  # when each of these spells began
        self._begin(time.perf_counter(), usage())

    def _begin(self, now: float, used: Usage | None) -> None:
        self.began, self.used = now, used
        self.reports: list[float] = []

    def see(self, tokens_per_second: float) -> str:
        """The remark when it is true for the first time, else ""."""
        self.reports.append(tokens_per_second)
        now = time.perf_counter()
        if self.said or now - self.began < SPELL:
            return ""
        self.speeds.append(sum(self.reports) / len(self.reports))
        self.usages.append(self.used)
        used = usage()
        self._begin(now, used)
        if len(self.speeds) < SPELLS:
            return ""
        self.best = max(self.best, min(self.speeds))
        if max(self.speeds) > SLOW * self.best:
            return ""
        self.said = True
        before = self.usages[0]
        others = used.others_since(before) if used and before else None
        speed = sum(self.speeds) / SPELLS
        return slow_remark(speed, self.best, others, core_count(), self.command)


def slow_remark(speed: float, before: float, others: float | None, cores: int, command: str) -> str:
    """The line about training that has become slow. `others` is how many cores other programs use,
    None where that is not known; `command` goes on in a way that is faster beside them, "" where
    there is none.

    >>> slow_remark(4200, 55600, 1.4, 2, "")
    'training is slow, 4,200 tokens/s after 55,600: other programs use 1.4 of 2 cores'
    """
    slow = f"training is slow, {speed:,.0f} tokens/s after {before:,.0f}"
    if others is None:
        return slow
    if others < SHARED:
        cause = "no other program uses the cores, so it is the machine (heat, battery, swapping)"
        return f"{slow}: {cause}"
    advice = f"; Ctrl-C, then {command}" if command else ""
    return f"{slow}: other programs use {others:.1f} of {cores} cores{advice}"


def finished_remark(step: int, planned: int, out_dir: str, resume: str) -> str:
    """What to say when a run is resumed that has done all its steps. `resume` is the command that
    was to go on with it."""
    sample = shell_command("sample.py", f"--out_dir={out_dir}")
    longer = 2 * max(step, planned) or TrainSettings.max_iters
    return (
        f"the run in {out_dir} is finished (step {step:,} of {planned:,}): "
        f"{resume} --max_iters={longer} trains on, {sample} writes text"
    )


def no_best_remark(taken: str) -> str:
    """Why a folder has no ckpt.pt, and what sample.py takes in its place."""
    no_best = f"no evaluation has beaten the untrained model, so there is no {BEST}"
    return f"{no_best}; sample.py takes {taken}"


def checkpoint_remarks(checkpoint: Mapping[str, Any], path: Path, where: str) -> list[str]:
    """What to know of the checkpoint at `path` before its model is used. `where` was asked for: a
    file or a folder."""
    remarks = []
    if path.name in (LATEST, EARLIER) and Path(where) == path.parent:
        remarks.append(f"{path.parent}: {no_best_remark(path.name)}")
    step, config = checkpoint.get("iter_num"), checkpoint.get("config")
    if not isinstance(step, int) or not isinstance(config, dict) or checkpoint.get("nanogpt"):
        return remarks
    planned = config.get("max_iters")
    begun_here = config.get("init_from") in ("scratch", "resume")  # not with another's weights
    if not isinstance(planned, int) or not begun_here:
        return remarks
    if step < FEW_STEPS or step < FEW_PLANNED * planned:
        longer = [] if step < planned else [f"--max_iters={TrainSettings.max_iters}"]
        resume = ["--init_from=resume", f"--out_dir={path.parent}", *longer]
        trains_on = shell_command("train.py", *resume)
        where_it_is = f"it is of step {step:,} of {planned:,}"
        remarks.append(f"{path} is hardly trained: {where_it_is}; {trains_on} trains on")
    return remarks
