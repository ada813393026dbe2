"""One line for people about a run, made from numbers; "" where there is nothing to say.

Losses in the usual units; how often a run reads its text, and what would fit better; a run that is
finished; a checkpoint that is hardly trained. Nothing here imports torch.
"""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kqv.options.settings import TrainSettings
from kqv.project import CONFIGS, shell_command
from kqv.run_files import BEST, EARLIER, LATEST

YEAR = 365.25 * 86400  # seconds

FEW_PASSES = 0.5  # passes below which more of a text should be read,
LARGE_TEXT = 10  # if it has more tokens than this for each parameter
MANY_PASSES = 100  # passes from which on a model memorises its text
ENOUGH_PASSES = 20  # passes that are advised then

# The recipe for a text that is large for the default model: what it takes (README.md, "Measured").
RECIPE = CONFIGS / "shakespeare_cpu.py"
RECIPE_PARAMETERS = 4.9e6
RECIPE_STEP = 16 * 256  # tokens
RECIPE_SPEED = 9_900  # tokens/s on two cores

MOST_KNOWN = 0.5  # of a text may be masked in training, and an encoder hardly knows an empty one

# A model of fewer steps, or of a smaller share of those planned, is hardly trained.
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
    each = loss / characters
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
    each = [loss / characters for loss in (uniform, frequencies)]
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
    step reads. `can_grow`: the model is a new one of a text, to be trained on a CPU.
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
            f"{said}; a text read so often is memorised: --max_iters={fewer}, more text or "
            f"{dropout_advice(settings)} help"
        )
    return said


def dropout_advice(settings: TrainSettings) -> str:
    """The dropout that would help against memorising."""
    return "a higher --dropout" if settings.dropout else "--dropout=0.2"


def finished_remark(step: int, planned: int, out_dir: str, resume: str) -> str:
    """What to say when a finished run is resumed. `resume` is the command that resumes it."""
    sample = shell_command("sample.py", f"--out_dir={out_dir}")
    longer = 2 * max(step, planned) or TrainSettings.max_iters
    return (
        f"the run in {out_dir} is finished (step {step:,}): "
        f"{resume} --max_iters={longer} trains on, {sample} writes text"
    )


def no_best_remark(taken: str) -> str:
    """Why a folder has no ckpt.pt, and what sample.py takes in its place."""
    no_best = f"no evaluation has yet beaten the untrained model, so there is no {BEST}"
    return f"{no_best}; sample.py takes {taken}"


def checkpoint_remarks(checkpoint: Mapping[str, Any], path: Path, where: str) -> list[str]:
    """What to know about the checkpoint at `path` before its model is used. `where` is the file or
    folder that was asked for."""
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


def filling_remark(mask_rate: float | str | None) -> str:
    """What to say when an encoder that learned with this mask_rate writes a text from nothing."""
    if not isinstance(mask_rate, float) or mask_rate > MOST_KNOWN:
        return ""
    return (
        f"this encoder has learned to fill in {mask_rate:.0%} of a text, not all of it: blanks in "
        f"--start= suit it better, and training with --mask_rate=uniform suits this"
    )
