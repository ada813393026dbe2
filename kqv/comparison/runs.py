"""What is compared: configurations, their runs, and what came of them, in numbers and in words."""

import ast
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from kqv.files import MAX_NOTE_BYTES, read_small
from kqv.options.settings import TrainSettings
from kqv.training.metrics import LAYER_MEASURES, read_metrics

FACTS = "facts.json"  # in the folder of a run that is finished: parameters, sample, machine, torch
ALONE = "configurations"  # the group of those whose names have one word

MEASURES = dict(
    zip(
        LAYER_MEASURES,
        ("Var(q·k)", "Var(scaled)", "entropy, nats", "saturated rows", "gradient norm"),
        strict=True,
    )
)


@dataclass
class Run:
    """One configuration with one seed, trained or to be trained into its out_dir."""

    settings: TrainSettings

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return Path(self.settings.out_dir)

    @property
    def facts(self) -> dict[str, Any]:
        """What was written down when it was finished; nothing before that."""
        try:
            return dict(json.loads(read_small(self.folder / FACTS, MAX_NOTE_BYTES)))
        except (OSError, ValueError, TypeError):
            return {}

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        """Its metrics, once it has ended."""
        return read_metrics(self.folder)

    @property
    def loss(self) -> float | None:
        """The loss per character over the whole validation split after the last step; None if it did not get there."""
        loss = self.lines[-1].get("val_loss_full") if self.lines and self.facts else None
        return loss and loss / self.characters_per_token

    @property
    def characters_per_token(self) -> float:
        """What losses per token are divided by, so that those of different tokens can be compared."""
        last = self.lines[-1] if self.lines else {}
        return (
            last["val_loss_full"] / last["val_loss_per_character"]
            if last.get("val_loss_per_character")
            else 1.0
        )

    def seconds(self, steps: Sequence[int]) -> list[float]:
        """The time spent in training up to each of these steps.

        wall_seconds would not tell: it begins anew when a stopped run goes on, and counts evaluations and the start of the
        process. So the time is added up from the speed of each stretch of steps.
        """
        a_step = (
            self.settings.batch_size
            * self.settings.block_size
            * self.settings.gradient_accumulation_steps
        )
        clock = [(0, 0.0)]
        for line in self.lines:
            if line.get("tokens_per_second"):
                step, seconds = clock[-1]
                clock.append(
                    (
                        line["step"],
                        seconds + (line["step"] - step) * a_step / line["tokens_per_second"],
                    )
                )
        import numpy as np

        known, so_far = zip(*clock, strict=True)
        return np.interp(steps, known, so_far).tolist()


@dataclass
class Configuration:
    """What one config file asks for: its docstring, what it changes, and its run for each seed."""

    name: str
    docstring: str
    changes: dict[str, Any]
    settings: TrainSettings
    runs: list[Run] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    """those that it names itself"""
    text: str = ""
    """what the user calls the text that it is trained on"""

    @property
    def group(self) -> str:
        """Its name without the last word."""
        return Path(self.name).stem.rpartition("_")[0] or ALONE

    @property
    def question(self) -> str:
        """The first paragraph of the docstring, which those of a group share."""
        return self.docstring.partition("\n\n")[0]

    @property
    def remark(self) -> str:
        """The rest of it: what this one is."""
        return self.docstring.partition("\n\n")[2]

    @property
    def losses(self) -> list[float]:
        """Of the seeds that got to the end."""
        return [run.loss for run in self.runs if run.loss is not None]

    def values(self, key: str, layer: int | None = None) -> dict[int, list[float]]:
        """What was measured at each step, one value a seed; of one layer, if the measure has layers."""
        found: dict[int, list[float]] = {}
        for run in self.runs:
            for line in run.lines:
                value = line.get(key)
                if layer is not None and value is not None:
                    value = value[layer] if layer < len(value) else None
                if value is not None:
                    if key == "val_loss":
                        value /= run.characters_per_token
                    found.setdefault(line["step"], []).append(value)
        return dict(sorted(found.items()))


def docstring(path: Path) -> str:
    """What a config file says at its top, whole paragraphs. The file is read, not run."""
    try:
        return ast.get_docstring(ast.parse(path.read_bytes())) or ""
    except (OSError, SyntaxError, ValueError):
        return ""


def loss_table(configurations: Sequence[Configuration]) -> str:
    """The losses for the terminal."""
    rows = [("configuration", "parameters", "validation loss", "seconds")]
    rows += [
        (each.name, parameters(each), loss(each), training_seconds(each)) for each in configurations
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(word.rjust(width) for word, width in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in rows
    )


# --- numbers as words ----------------------------------------------------------------------------------------------


def loss(configuration: Configuration) -> str:
    """Mean and sample standard deviation of the validation loss over the seeds."""
    losses, count = configuration.losses, len(configuration.runs)
    if not losses:
        return "not finished"
    spread = f" ± {statistics.stdev(losses):.4f}" if len(losses) > 1 else ""
    missing = f" ({count - len(losses)} of {count} not finished)" if len(losses) < count else ""
    return f"{statistics.mean(losses):.4f}{spread}{missing}"


def bits(configuration: Configuration) -> str:
    """The mean loss in bits per character."""
    return (
        f"{statistics.mean(configuration.losses) / math.log(2):.3f}" if configuration.losses else ""
    )


def parameters(configuration: Configuration) -> str:
    """How many numbers are trained."""
    facts = next((run.facts for run in configuration.runs if run.facts), None)
    return f"{facts['parameters']:,}" if facts else ""


def training_seconds(configuration: Configuration) -> str:
    """The mean time of training, without evaluations."""
    times = _whole_times(configuration)
    return f"{statistics.mean(times):.1f}" if times else ""


def speed(configuration: Configuration) -> str:
    """Tokens per second, over all its runs."""
    times, settings = _whole_times(configuration), configuration.settings
    tokens = (
        settings.max_iters
        * settings.batch_size
        * settings.block_size
        * settings.gradient_accumulation_steps
    )
    return f"{tokens * len(times) / sum(times):,.0f}" if sum(times) else ""


def _whole_times(configuration: Configuration) -> list[float]:
    return [run.seconds([run.settings.max_iters])[0] for run in configuration.runs if run.facts]


def change(configuration: Configuration, measure: str) -> str:
    """A measure of the layers, their mean: at its first and at its last evaluation."""
    means = []
    for step in (min, max):
        at_step = [
            configuration.values(measure, layer) for layer in range(configuration.settings.n_layer)
        ]
        there = [statistics.mean(values[step(values)]) for values in at_step if values]
        means.append(short(statistics.mean(there)) if there else "–")
    return " → ".join(means)


def short(number: float) -> str:
    """A number in three digits, or as many as are before its point.

    >>> short(0.012345), short(12345.6)
    ('0.0123', '12,346')
    """
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def assignments(changes: dict[str, Any]) -> str:
    """Settings as a config file writes them."""
    return ", ".join(f"{name} = {value!r}" for name, value in changes.items())
