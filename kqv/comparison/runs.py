"""What is compared: configurations, and their runs with what was measured in them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from kqv.files import MAX_NOTE_BYTES, read_small
from kqv.options.settings import TrainSettings
from kqv.run_files import CONFIG
from kqv.training.metrics import read_metrics

FACTS = "facts.json"  # in the folder of a finished run: parameters, sample, machine, torch


@dataclass
class Run:
    """One configuration with one seed, trained or to be trained into its out_dir."""

    settings: TrainSettings

    @property
    def folder(self) -> Path:
        """Its out_dir."""
        return Path(self.settings.out_dir)

    @property
    def facts(self) -> dict[str, Any]:
        """What processes.py wrote down when the run was finished; empty before that."""
        return _read_json(self.folder / FACTS)

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of its metrics.jsonl, once it has ended."""
        return read_metrics(self.folder)

    @property
    def loss(self) -> float | None:
        """Loss of the whole validation split after the last step, in nats per character.

        None if the run is not finished.
        """
        if not self.metrics or not self.facts:
            return None
        loss = self.metrics[-1].get("val_loss_full")
        return None if loss is None else loss / self.characters_per_token

    @property
    def characters_per_token(self) -> float:
        """What a loss per token is divided by, so that different tokenizers can be compared."""
        last = self.metrics[-1] if self.metrics else {}
        per_character = last.get("val_loss_per_character")
        return last["val_loss_full"] / per_character if per_character else 1.0

    @cached_property
    def written(self) -> dict[str, Any]:
        """Its config.json, which train.py writes when it starts; empty before that."""
        return _read_json(self.folder / CONFIG)

    @property
    def tokens_per_step(self) -> int:
        """Size of the global batch in tokens; of pairs, on average."""
        windows = self.settings.step_windows * self.settings.block_size
        return self.written.get("step_tokens", windows)

    @property
    def measured(self) -> str:
        """What its loss is a mean over; "" if it has not started."""
        return self.written.get("measured", "")

    def seconds(self, steps: Sequence[int]) -> list[float]:
        """The time spent in training up to each of these steps.

        wall_seconds would not do: it starts anew when a stopped run is resumed, and includes
        evaluations and the start of the process. So the time is summed from the speed of each
        stretch of steps.
        """
        known, elapsed = [0], [0.0]
        for line in self.metrics:
            speed = line.get("tokens_per_second")
            if speed and line["step"] > known[-1]:
                tokens = (line["step"] - known[-1]) * self.tokens_per_step
                elapsed.append(elapsed[-1] + tokens / speed)
                known.append(line["step"])
        import numpy as np  # here, so that compare.py --help does not wait for it

        return [float(second) for second in np.interp(steps, known, elapsed)]


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a small JSON file; empty if there is none."""
    try:
        return dict(json.loads(read_small(path, MAX_NOTE_BYTES)))
    except (OSError, ValueError, TypeError):
        return {}


@dataclass
class Configuration:
    """One config file, or one of its variants: what it changes, and its run for each seed."""

    name: str
    group: str
    """the section of the report; configurations of one question share it"""
    question: str
    remark: str
    """what this configuration is"""
    changes: dict[str, Any]
    """the options that it sets itself"""
    settings: TrainSettings
    runs: list[Run] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    """the texts that it names itself"""
    text: str = ""
    """what the user calls the text that it is trained on"""

    @property
    def measured(self) -> str:
        """What its loss is a mean over; "" if no run has started."""
        return next((run.measured for run in self.runs if run.measured), "")

    @property
    def losses(self) -> list[float]:
        """Of the finished runs, one per seed, in nats per character."""
        return [run.loss for run in self.runs if run.loss is not None]

    def values(self, key: str, layer: int | None = None) -> dict[int, list[float]]:
        """What was measured at each step, one value per seed; `layer` picks from a list of layers.

        Losses are per character.
        """
        found: dict[int, list[float]] = {}
        for run in self.runs:
            for line in run.metrics:
                value = line.get(key)
                if layer is not None and value is not None:
                    value = value[layer] if layer < len(value) else None
                if value is None:
                    continue
                if key == "val_loss":
                    value /= run.characters_per_token
                found.setdefault(line["step"], []).append(value)
        return dict(sorted(found.items()))
