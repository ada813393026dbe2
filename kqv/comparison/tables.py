"""What came of the configurations, in numbers for tables: for the terminal and the report."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from kqv.comparison.runs import Configuration
from kqv.training.metrics import LAYER_MEASURES

MEASURES = dict(
    zip(
        LAYER_MEASURES,
        ("Var(q·k)", "Var(scaled)", "entropy, nats", "saturated rows", "gradient norm"),
        strict=True,
    )
)
"""What is measured inside the layers: its name in metrics.jsonl, and in tables and pictures."""
LOSS = "loss, nats per character"


def loss_table(configurations: Sequence[Configuration]) -> str:
    """The losses for the terminal."""
    rows = [("configuration", "parameters", LOSS, "seconds")]
    rows += [
        (each.name, parameters(each), loss(each), training_seconds(each)) for each in configurations
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *numbers in rows:
        cells = [name.ljust(widths[0])]
        cells += [number.rjust(width) for number, width in zip(numbers, widths[1:], strict=True)]
        lines.append("  ".join(cells))
    return "\n".join(filter(None, [*lines, measured(configurations)]))


def loss(configuration: Configuration) -> str:
    """Mean and sample standard deviation of the validation loss over the seeds."""
    losses, seeds = configuration.losses, len(configuration.runs)
    if not losses:
        return "not finished"
    spread = f" ± {statistics.stdev(losses):.4f}" if len(losses) > 1 else ""
    missing = seeds - len(losses)
    unfinished = f" ({missing} of {seeds} not finished)" if missing else ""
    return f"{statistics.mean(losses):.4f}{spread}{unfinished}"


def measured(configurations: Sequence[Configuration]) -> str:
    """What the losses measure, for people; "" if all are of decoders, or not known yet.

    A table puts losses side by side, whatever they are means over.
    """
    kinds: dict[str, list[str]] = {}
    for each in configurations:
        if each.measured:
            kinds.setdefault(each.measured, []).append(each.name)
    if all(each.settings.architecture == "decoder" for each in configurations):
        return ""
    if len(kinds) < 2:
        return "".join(f"The loss is {kind}." for kind in kinds)
    told = "; ".join(f"that of {', '.join(names)} is {kind}" for kind, names in kinds.items())
    return (
        f"Not all losses measure the same: {told}. Compare losses of one kind; an upper bound "
        f"also with a decoder's loss: the loss of the model itself is at most the bound."
    )


def bits(configuration: Configuration) -> str:
    """The mean loss in bits per character."""
    losses = configuration.losses
    return f"{statistics.mean(losses) / math.log(2):.3f}" if losses else ""


def parameters(configuration: Configuration) -> str:
    """The number of parameters."""
    facts = next((run.facts for run in configuration.runs if run.facts), None)
    return f"{facts['parameters']:,}" if facts else ""


def training_seconds(configuration: Configuration) -> str:
    """The mean time of training, without evaluations."""
    times = _total_seconds(configuration)
    return f"{statistics.mean(times):.1f}" if times else ""


def speed(configuration: Configuration) -> str:
    """Tokens per second, over all its runs."""
    seconds = sum(_total_seconds(configuration))
    finished = [run for run in configuration.runs if run.facts]
    tokens = sum(run.settings.max_iters * run.tokens_per_step for run in finished)
    return f"{tokens / seconds:,.0f}" if seconds else ""


def _total_seconds(configuration: Configuration) -> list[float]:
    """The training time of each finished run."""
    return [run.seconds([run.settings.max_iters])[0] for run in configuration.runs if run.facts]


def change(configuration: Configuration, measure: str) -> str:
    """A measure of the layers, averaged over them, at its first and its last evaluation."""
    layers = [configuration.values(measure, n) for n in range(configuration.settings.n_layer)]
    measured = [values for values in layers if values]
    means = []
    for step in (min, max):
        at_step = [statistics.mean(values[step(values)]) for values in measured]
        means.append(three_digits(statistics.mean(at_step)) if at_step else "–")
    return " → ".join(means)


def three_digits(number: float) -> str:
    """A number in three significant digits, or all digits before its point.

    >>> three_digits(0.012345), three_digits(12345.6)
    ('0.0123', '12,346')
    """
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def assignments(changes: dict[str, Any]) -> str:
    """Options as a config file writes them."""
    return ", ".join(f"{name} = {value!r}" for name, value in changes.items())
