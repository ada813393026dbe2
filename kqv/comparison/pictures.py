"""Pictures of a comparison: losses, and measures of the layers, one line per configuration."""

import io
import statistics
import warnings
from collections.abc import Iterable, Sequence
from itertools import cycle, islice
from typing import Any

from kqv.comparison.runs import Configuration
from kqv.comparison.tables import MEASURES
from kqv.plotting import COLOURS, empty_figure, import_matplotlib

LINES = ("-", "--", ":", "-.")
LOGARITHMIC = ("raw_variance", "scaled_variance", "grad_norm_layers")  # of the measures
ESTIMATE = "validation loss (estimate)"
DOTS_PER_INCH = 100


def styles(count: int) -> list[dict[str, Any]]:
    """A colour and line style for each configuration, no two the same up to 32."""
    pairs = [{"color": colour, "linestyle": line} for line in LINES for colour in COLOURS]
    return list(islice(cycle(pairs), count))


def label(name: str) -> str:
    """A name for matplotlib, which takes dollars for formulas and hides leading underscores."""
    return ("\N{ZERO WIDTH SPACE}" if name.startswith("_") else "") + name.replace("$", r"\$")


def loss_picture(configurations: Sequence[Configuration]) -> bytes:
    """A PNG of three plots: estimated loss over steps, over seconds, and the loss at the end."""
    figure = empty_figure(11, 3.4 + 0.12 * len(configurations))
    by_step, by_time, at_end = figure.subplots(1, 3)
    for each, style in zip(configurations, styles(len(configurations)), strict=True):
        if values := each.values("val_loss"):
            clocks = [run.seconds(list(values)) for run in each.runs if run.metrics]
            seconds = [statistics.mean(times) for times in zip(*clocks, strict=True)]
            _draw(by_step, list(values), values.values(), style)
            _draw(by_time, seconds, values.values(), style)
    shown = [loss for each in configurations for loss in _losses_in_view(each)]
    for axes in (by_step, by_time):
        if shown:
            _limit_to(axes, min(shown), max(shown))
        axes.grid(alpha=0.3)
    by_step.set(title=ESTIMATE, xlabel="step", ylabel="nats per character")
    by_time.set(title=ESTIMATE, xlabel="seconds of training")
    _draw_final_losses(at_end, configurations)
    _add_legend(figure, configurations)
    return _png(figure)


def _draw(
    axes: Any, xs: Sequence[float], values: Iterable[list[float]], style: dict[str, Any]
) -> None:
    """A line through the means of the seeds, and a band from the lowest to the highest."""
    values = list(values)
    axes.plot(xs, [statistics.mean(seeds) for seeds in values], linewidth=1.5, **style)
    if any(len(seeds) > 1 for seeds in values):
        lowest, highest = [min(seeds) for seeds in values], [max(seeds) for seeds in values]
        axes.fill_between(xs, lowest, highest, color=style["color"], alpha=0.2, linewidth=0)


def _losses_in_view(configuration: Configuration) -> list[float]:
    """The losses that decide the limits of the axis: those after the first evaluation, because the
    fall before says little, unless they have risen above it."""
    values = list(configuration.values("val_loss").values())
    highest = 1.1 * max(values[0]) if values else 0.0
    return [loss for seeds in values[1:] for loss in seeds if loss <= highest]


def _limit_to(axes: Any, low: float, high: float) -> None:
    """Show losses from `low` to `high`, on a logarithmic axis if they differ much."""
    wide = high > 10 * low > 0
    margin = 1.1 if wide else 1.02
    axes.set_ylim(low / margin, high * margin)
    if wide:
        _make_logarithmic(axes)


def _draw_final_losses(axes: Any, configurations: Sequence[Configuration]) -> None:
    """A row for each configuration: a dot for each seed, a bar at their mean."""
    for row, (each, style) in enumerate(
        zip(configurations, styles(len(configurations)), strict=True)
    ):
        colour, rows = style["color"], [row] * len(each.losses)
        axes.plot(each.losses, rows, "o", color=colour, alpha=0.5, markersize=5)
        if each.losses:
            mean = statistics.mean(each.losses)
            axes.plot(mean, row, "|", color=colour, markersize=16, markeredgewidth=2)
    axes.set(
        title="loss at the end, whole split",
        xlabel="nats per character",
        ylim=(len(configurations) - 0.5, -0.5),
    )
    axes.set_yticks(range(len(configurations)), [label(each.name) for each in configurations])
    axes.grid(alpha=0.3)


def inner_picture(configurations: Sequence[Configuration]) -> bytes:
    """A PNG of the measures of the layers over the steps: a row per measure, a column per layer."""
    layers = max(each.settings.n_layer for each in configurations)
    figure = empty_figure(max(6.4, min(2.6 * layers + 1, 1.4 * layers + 6)), 9)
    grid = figure.subplots(len(MEASURES), layers, sharex=True, sharey="row", squeeze=False)
    for row, (measure, title) in zip(grid, MEASURES.items(), strict=True):
        for layer, axes in enumerate(row):
            for each, style in zip(configurations, styles(len(configurations)), strict=True):
                values = each.values(measure, layer)
                _draw(axes, list(values), values.values(), style)
            axes.grid(alpha=0.3)
        if measure in LOGARITHMIC:
            _make_logarithmic(row[0])
        row[0].set_ylabel(title)
    for layer, (top, bottom) in enumerate(zip(grid[0], grid[-1], strict=True)):
        top.set_title(f"layer {layer}")
        bottom.set_xlabel("step")
    _add_legend(figure, configurations)
    return _png(figure)


def _make_logarithmic(axes: Any) -> None:
    """Make the vertical axis logarithmic, its labels plain numbers."""
    ticker = import_matplotlib().ticker
    axes.set_yscale("log", nonpositive="mask")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if high < 1e3 * low else (1,)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())


def _add_legend(figure: Any, configurations: Sequence[Configuration]) -> None:
    line = import_matplotlib().lines.Line2D
    handles = [line([], [], **style) for style in styles(len(configurations))]
    names = [label(each.name) for each in configurations]
    figure.legend(
        handles, names, loc="outside lower center", ncols=min(4, len(names)), frameon=False
    )


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name may have characters that the font lacks
        figure.savefig(file, format="png", dpi=DOTS_PER_INCH)
    return file.getvalue()
