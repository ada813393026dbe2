"""The text format of explain.py: figures of all heads, a map of one, the likeliest next tokens."""

import textwrap
from collections.abc import Sequence
from dataclasses import asdict

from kqv.inside.figures import MEANINGS, HeadFigures
from kqv.inside.labels import terminal_labels
from kqv.inside.view import View

SHADES = " ·░▒▓█"  # for weights from 0 to 1
WIDTH = 100  # columns of the legend


def render(view: View, chosen: HeadFigures) -> str:
    """Everything that --format=text prints. `chosen` is the head of the map."""
    labels = terminal_labels(view.tokenizer, view.trace.ids)
    weights = view.trace.layers[chosen.layer].weights[chosen.head]
    unit = "character" if view.tokenizer.kind == "char" else "token"
    map_title = (
        f"layer {chosen.layer}, head {chosen.head}: a row for each {unit}, "
        f"a mark for each weight ({shade_legend()} or more)"
    )
    parts = [
        figure_table(view.heads),
        figure_legend(),
        map_title,
        head_map(labels, weights.tolist()),
        f"the likeliest next {unit}s after the last layer",
        next_tokens(view),
    ]
    return "\n\n".join(parts)


def figure_table(heads: Sequence[HeadFigures]) -> str:
    """The figures of all heads, one a line."""
    rows = [list(asdict(heads[0]))]
    for figures in heads:
        values = asdict(figures).values()
        rows.append([str(each) if isinstance(each, int) else f"{each:.3f}" for each in values])
    widths = [max(6, len(name)) for name in rows[0]]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )


def figure_legend() -> str:
    """What each figure means."""
    indent = max(map(len, MEANINGS)) + 2
    return "\n".join(
        textwrap.fill(
            meaning, WIDTH, initial_indent=name.ljust(indent), subsequent_indent=" " * indent
        )
        for name, meaning in MEANINGS.items()
    )


def shade_legend() -> str:
    """The least weight of each mark, as `head_map` rounds them.

    >>> shade_legend()
    '· 0.1, ░ 0.3, ▒ 0.5, ▓ 0.7, █ 0.9'
    """
    steps = len(SHADES) - 1
    marks = list(enumerate(SHADES))[1:]
    return ", ".join(f"{mark} {(number - 0.5) / steps:.1f}" for number, mark in marks)


def head_map(labels: Sequence[str], weights: Sequence[Sequence[float]]) -> str:
    """One head as marks: a row for each query, a column for each key.

    Labels stand above the columns where each is one character wide.
    """
    width = max(map(len, labels))
    steps = len(SHADES) - 1
    rows = ["  " + "".join(labels)] if width == 1 else []
    for label, row in zip(labels, weights, strict=True):
        marks = "".join(SHADES[min(steps, round(weight * steps))] for weight in row)
        rows.append(f"{label.ljust(width)} {marks.rstrip()}")
    return "\n".join(rows)


def next_tokens(view: View) -> str:
    """The three likeliest next tokens at every position, with their probabilities."""
    labels = terminal_labels(view.tokenizer, view.trace.ids)
    likeliest = view.trace.predictions[-1].topk(min(3, view.tokenizer.vocab_size))
    rows = []
    for label, probabilities, ids in zip(
        labels, likeliest.values.tolist(), likeliest.indices.tolist(), strict=True
    ):
        guesses = terminal_labels(view.tokenizer, ids)
        pairs = zip(guesses, probabilities, strict=True)
        rows.append(f"{label} → {'   '.join(f'{guess} {p:.2f}' for guess, p in pairs)}")
    return "\n".join(rows)
