"""Pictures of a comparison: losses, and the figures of the layers, a line for each configuration."""

import io
import statistics
import warnings
from collections.abc import Iterable, Sequence
from itertools import cycle, islice
from typing import Any

from kqv.comparison.runs import MEASURES, Configuration
from kqv.plotting import COLOURS, empty_figure

LINES = ("-", "--", ":", "-.")


def styles(count: int) -> list[dict[str, Any]]:
    """A colour and a kind of line for each configuration, no two the same up to 32."""
    pairs = [{"color": colour, "linestyle": line} for line in LINES for colour in COLOURS]
    return list(islice(cycle(pairs), count))


def label(name: str) -> str:
    """A name as matplotlib shows it: no formula between dollars, and not left out for a leading underscore."""
    return ("\N{ZERO WIDTH SPACE}" if name.startswith("_") else "") + name.replace("$", r"\$")


def draw(
    axes: Any, across: Sequence[float], values: Iterable[list[float]], style: dict[str, Any]
) -> None:
    """A line through the means of the seeds, and a band from the least to the greatest."""
    values = list(values)
    axes.plot(across, [statistics.mean(seeds) for seeds in values], linewidth=1.5, **style)
    if any(len(seeds) > 1 for seeds in values):
        least, greatest = [min(seeds) for seeds in values], [max(seeds) for seeds in values]
        axes.fill_between(across, least, greatest, color=style["color"], alpha=0.2, linewidth=0)


def loss_picture(configurations: Sequence[Configuration]) -> bytes:
    """Three plots: the estimated loss over the steps, over the seconds, and the losses at the end."""
    figure = empty_figure(11, 3.2 + 0.12 * len(configurations))
    by_step, by_time, at_end = figure.subplots(1, 3)
    shown: list[float] = []
    for row, (each, style) in enumerate(
        zip(configurations, styles(len(configurations)), strict=True)
    ):
        values = each.values("val_loss")
        if values:
            steps = list(values)
            clocks = [run.seconds(steps) for run in each.runs if run.lines]
            seconds = [statistics.mean(times) for times in zip(*clocks, strict=True)]
            draw(by_step, steps, values.values(), style)
            draw(by_time, seconds, values.values(), style)
            shown += [
                value
                for step in steps[1:]
                for value in values[step]
                if value <= 1.1 * max(values[steps[0]])
            ]
        at_end.plot(
            each.losses,
            [row] * len(each.losses),
            "o",
            color=style["color"],
            alpha=0.5,
            markersize=5,
        )
        if each.losses:
            at_end.plot(
                statistics.mean(each.losses),
                row,
                "|",
                color=style["color"],
                markersize=16,
                markeredgewidth=2,
            )
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
    figure = empty_figure(max(6.4, min(2.6 * layers + 1, 1.4 * layers + 6)), 9)
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
    figure.legend(
        handles, names, loc="outside lower center", ncols=min(4, len(names)), frameon=False
    )


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name may have characters that the font has not
        figure.savefig(file, format="png", dpi=100)
    return file.getvalue()
