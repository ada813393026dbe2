"""Runs and configurations of a comparison that were never trained: their metrics are made up."""

import json
from pathlib import Path
from typing import Any

from kqv.comparison.runs import FACTS, Configuration, Run
from kqv.options.settings import TrainSettings

METRICS: list[dict[str, Any]] = [
    {"step": 0, "val_loss": 4.0, "raw_variance": [8.0, 10.0], "wall_seconds": 1.0},
    {"step": 10, "tokens_per_second": 100, "wall_seconds": 2.0},
    {
        "step": 20,
        "tokens_per_second": 200,
        "val_loss": 2.0,
        "raw_variance": [20.0, 30.0],
        "val_loss_full": 2.5,
    },
]


def made_up_run(folder: Path, lines: list[dict[str, Any]], **settings: Any) -> Run:
    """A run of 20 steps of 10 tokens with these metrics, finished if the last has a final loss."""
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if lines and "val_loss_full" in lines[-1]:
        facts = {"parameters": 1234, "sample": "Where?\n", "machine": "a laptop", "torch": "2"}
        (folder / FACTS).write_text(json.dumps(facts))
    shape = {"max_iters": 20, "batch_size": 2, "block_size": 5, "n_layer": 2}
    return Run(TrainSettings(out_dir=str(folder), **shape, **settings))


def made_up_configuration(folder: Path, name: str, *losses: float, **changes: Any) -> Configuration:
    """A configuration whose seeds 0, 1, ... ended with these losses."""
    runs = []
    for seed, loss in enumerate(losses):
        lines = [*METRICS[:2], {**METRICS[2], "val_loss_full": loss}]
        runs.append(made_up_run(folder / f"{name}-{seed}", lines, seed=seed))
    group = name.rpartition("_")[0]
    settings = runs[0].settings
    return Configuration(name, group, f"Why {name}?", f"It is {name}.", changes, settings, runs)
