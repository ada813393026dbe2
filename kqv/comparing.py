"""What came of the runs of compare.py, side by side: tables, curves, the inside of the layers, samples."""

import ast
import io
import json
import math
import re
import statistics
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from kqv.files import replacing
from kqv.report import Part, Picture, Sample, Table, Text, as_html, as_markdown
from kqv.runlog import LAYER_MEASURES, read_metrics
from kqv.settings import TrainSettings

FACTS = "facts.json"  # in the folder of a run that is finished: parameters, sample, machine, torch
ALONE = "configurations"  # the group of those whose names have one word

# Eight colours that the colour-blind can tell apart (Okabe & Ito 2008, with grey for their yellow), then other lines.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
LINES = ("-", "--", ":", "-.")
MEASURES = dict(zip(LAYER_MEASURES, ("Var(q·k)", "Var(scaled)", "entropy, nats", "saturated rows", "gradient norm"), strict=True))


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
            return json.loads((self.folder / FACTS).read_text())
        except (OSError, ValueError):
            return {}

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        """Its metrics, once it has ended."""
        return read_metrics(self.folder)

    @property
    def loss(self) -> float | None:
        """The loss over the whole validation split after the last step; None if it did not get there."""
        return self.lines[-1].get("val_loss_full") if self.lines and self.facts else None

    def seconds(self, steps: Sequence[int]) -> list[float]:
        """The time spent in training up to each of these steps.

        wall_seconds would not tell: it begins anew when a stopped run goes on, and counts evaluations and the start of the
        process. So the time is added up from the speed of each stretch of steps.
        """
        a_step = self.settings.batch_size * self.settings.block_size * self.settings.gradient_accumulation_steps
        clock = [(0, 0.0)]
        for line in self.lines:
            if line.get("tokens_per_second"):
                step, seconds = clock[-1]
                clock.append((line["step"], seconds + (line["step"] - step) * a_step / line["tokens_per_second"]))
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
    rows += [(each.name, parameters(each), loss(each), training_seconds(each)) for each in configurations]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(word.rjust(width) for word, width in zip(row[1:], widths[1:], strict=True))])
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
    return f"{statistics.mean(configuration.losses) / math.log(2):.3f}" if configuration.losses else ""


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
    tokens = settings.max_iters * settings.batch_size * settings.block_size * settings.gradient_accumulation_steps
    return f"{tokens * len(times) / sum(times):,.0f}" if sum(times) else ""


def _whole_times(configuration: Configuration) -> list[float]:
    return [run.seconds([run.settings.max_iters])[0] for run in configuration.runs if run.facts]


def change(configuration: Configuration, measure: str) -> str:
    """A measure of the layers, their mean: at its first and at its last evaluation."""
    means = []
    for step in (min, max):
        at_step = [configuration.values(measure, layer) for layer in range(configuration.settings.n_layer)]
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


# --- pictures --------------------------------------------------------------------------------------------------------


def styles(count: int) -> list[dict[str, Any]]:
    """A colour and a kind of line for each configuration, no two the same up to 32."""
    pairs = [{"color": colour, "linestyle": line} for line in LINES for colour in COLOURS]
    return list(islice(cycle(pairs), count))


def label(name: str) -> str:
    """A name as matplotlib shows it: no formula between dollars, and not left out for a leading underscore."""
    return ("\N{ZERO WIDTH SPACE}" if name.startswith("_") else "") + name.replace("$", r"\$")


def draw(axes: Any, across: Sequence[float], values: Iterable[list[float]], style: dict[str, Any]) -> None:
    """A line through the means of the seeds, and a band from the least to the greatest."""
    values = list(values)
    axes.plot(across, [statistics.mean(seeds) for seeds in values], linewidth=1.5, **style)
    if any(len(seeds) > 1 for seeds in values):
        least, greatest = [min(seeds) for seeds in values], [max(seeds) for seeds in values]
        axes.fill_between(across, least, greatest, color=style["color"], alpha=0.2, linewidth=0)


def loss_picture(configurations: Sequence[Configuration]) -> bytes:
    """Three plots: the estimated loss over the steps, over the seconds, and the losses at the end."""
    figure = _figure(11, 3.2 + 0.12 * len(configurations))
    by_step, by_time, at_end = figure.subplots(1, 3)
    shown: list[float] = []
    for row, (each, style) in enumerate(zip(configurations, styles(len(configurations)), strict=True)):
        values = each.values("val_loss")
        if values:
            steps = list(values)
            clocks = [run.seconds(steps) for run in each.runs if run.lines]
            seconds = [statistics.mean(times) for times in zip(*clocks, strict=True)]
            draw(by_step, steps, values.values(), style)
            draw(by_time, seconds, values.values(), style)
            shown += [value for step in steps[1:] for value in values[step] if value <= 1.1 * max(values[steps[0]])]
        at_end.plot(each.losses, [row] * len(each.losses), "o", color=style["color"], alpha=0.5, markersize=5)
        if each.losses:
            at_end.plot(statistics.mean(each.losses), row, "|", color=style["color"], markersize=16, markeredgewidth=2)
    for axes in (by_step, by_time):
        if shown:  # from the first evaluation that training has changed, for the fall before it says little
            wide = max(shown) > 10 * min(shown) > 0
            margin = 1.1 if wide else 1.02
            axes.set_ylim(min(shown) / margin, max(shown) * margin)
            if wide:
                _logarithmic(axes)
        axes.grid(alpha=0.3)
    by_step.set(xlabel="step", ylabel="validation loss, nats (estimate)")
    by_time.set(xlabel="seconds of training")
    at_end.set(xlabel="loss at the end, whole split", ylim=(len(configurations) - 0.5, -0.5))
    at_end.set_yticks(range(len(configurations)), [label(each.name) for each in configurations])
    at_end.grid(alpha=0.3)
    _legend(figure, configurations)
    return _png(figure)


def inner_picture(configurations: Sequence[Configuration]) -> bytes:
    """The figures of the layers over the steps: a row for each measure, a column for each layer."""
    layers = max(each.settings.n_layer for each in configurations)
    figure = _figure(max(6.4, min(2.6 * layers + 1, 1.4 * layers + 6)), 9)
    grid = figure.subplots(len(MEASURES), layers, sharex=True, sharey="row", squeeze=False)
    for row, (measure, words) in zip(grid, MEASURES.items(), strict=True):
        for layer, axes in enumerate(row):
            for each, style in zip(configurations, styles(len(configurations)), strict=True):
                values = each.values(measure, layer)
                draw(axes, list(values), values.values(), style)
            axes.grid(alpha=0.3)
        if measure in ("raw_variance", "scaled_variance", "grad_norm_layers"):
            _logarithmic(row[0])
        row[0].set_ylabel(words)
    for layer, (top, bottom) in enumerate(zip(grid[0], grid[-1], strict=True)):
        top.set_title(f"layer {layer}")
        bottom.set_xlabel("step")
    _legend(figure, configurations)
    return _png(figure)


def _figure(width: float, height: float) -> Any:
    # The figure class alone, without pyplot: no window system is asked for, and it loads in half the time.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _logarithmic(axes: Any) -> None:
    """Make the vertical axis logarithmic, its marks plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log", nonpositive="mask")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1e3 * low else (1,)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _legend(figure: Any, configurations: Sequence[Configuration]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], **style) for style in styles(len(configurations))]
    names = [label(each.name) for each in configurations]
    figure.legend(handles, names, loc="outside lower center", ncols=min(4, len(names)), frameon=False)


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name may have characters that the font has not
        figure.savefig(file, format="png", dpi=100)
    return file.getvalue()


# --- the report ------------------------------------------------------------------------------------------------------


def section(group: str, configurations: Sequence[Configuration]) -> list[Part]:
    """All that there is to say of a group."""
    common = {
        name: value
        for name, value in configurations[0].changes.items()
        if all(name in each.changes and each.changes[name] == value for each in configurations)
    }
    if len(configurations) == 1:
        common = {}
    parts: list[Part] = [Text(question) for question in dict.fromkeys(each.question for each in configurations) if question]
    if common:
        parts.append(Text(f"All have {assignments(common)}."))
    columns: dict[str, Callable[[Configuration], str]] = {
        "configuration": lambda each: each.name,
        "validation loss": loss,
        "bits per character": bits,
        "parameters": parameters,
        "seconds of training": training_seconds,
        "tokens/s": speed,
        "what it changes": lambda each: assignments({k: v for k, v in each.changes.items() if k not in common}),
        "what it is": lambda each: " ".join(each.remark.split()),
    }
    parts.append(Table(list(columns), [[cell(each) for cell in columns.values()] for each in configurations]))
    file = re.sub(r"\W", "-", group, flags=re.ASCII)
    parts.append(Picture(f"pictures/{file}-loss.png", f"validation loss of {group}", loss_picture(configurations)))
    figures = {words: measure for measure, words in MEASURES.items() if measure != "grad_norm_layers"}
    rows = [
        [each.name, str(each.settings.n_embd // each.settings.n_head), *(change(each, measure) for measure in figures.values())]
        for each in configurations
    ]
    parts.append(Text("Inside, before → after training, means over the layers and heads:"))
    parts.append(Table(["configuration", "d_k", *figures], rows))
    parts.append(Picture(f"pictures/{file}-inside.png", f"inside the layers of {group}", inner_picture(configurations)))
    for each in configurations:
        if facts := each.runs[0].facts:
            parts.append(Sample(f"{each.name}, seed {each.runs[0].settings.seed}", facts["sample"]))
    return parts


def write_report(configurations: Sequence[Configuration], out_dir: Path, laid_over: str) -> list[Path]:
    """Write report.html, report.md and pictures/. Returns the paths of the two."""
    groups: dict[str, list[Configuration]] = {}
    for each in configurations:
        groups.setdefault(each.group, []).append(each)
    beginning = [Text(line) for line in introduction(configurations, laid_over)]
    sections = {group: section(group, members) for group, members in groups.items()}
    (out_dir / "pictures").mkdir(exist_ok=True)
    for parts in sections.values():
        for part in parts:
            if isinstance(part, Picture):
                with replacing(out_dir / part.file) as file:
                    file.write(part.png)
    written = []
    for name, content in (("report.html", as_html(beginning, sections)), ("report.md", as_markdown(beginning, sections))):
        with replacing(out_dir / name) as file:
            file.write(content.encode(errors="backslashreplace"))
        written.append(out_dir / name)
    return written


def introduction(configurations: Sequence[Configuration], laid_over: str) -> list[str]:
    """What was run and where, and what the numbers mean."""
    facts = [run.facts for each in configurations for run in each.runs if run.facts]
    machines = dict.fromkeys(f"{fact['machine']}; torch {fact['torch']}" for fact in facts)
    datasets = dict.fromkeys(each.settings.dataset for each in configurations)
    seeds = [run.settings.seed for run in configurations[0].runs]
    return [
        f"Trained on {', '.join(datasets)} with seed{'s' if seeds[1:] else ''} {', '.join(map(str, seeds))}: the same batches in "
        f"the same order for all whose batches have the same size." + (f" For all: {laid_over}" if laid_over else ""),
        *(f"On {machine}." for machine in machines),
        "The validation loss is the mean cross-entropy in nats per character over the whole validation split, of the model after "
        "its last step. The time is that of training alone, without evaluations. "
        + ("Over the seeds: mean ± sample standard deviation; bands are from the least to the greatest." if seeds[1:] else
           "One seed does not tell how much of a difference is chance: --seeds=3 does."),
        "Var(q·k) is the variance of the scores of a head, about d_k before training, Var(scaled) that after the scale; entropy and saturated rows (with "
        "more than 0.9 of their weight on one character) are of the weights that the softmax makes of them.",
    ]  # fmt: skip
