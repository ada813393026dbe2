"""The text format of explain.py: figures of all heads, maps, the likeliest tokens."""

import textwrap
from collections.abc import Sequence

from kqv.inside.figures import MEANINGS, HeadFigures
from kqv.inside.labels import terminal_labels, width
from kqv.inside.view import Part, View
from kqv.text.tokenizer import Tokenizer

SHADES = " ·░▒▓█"  # for weights from 0 to 1
WIDTH = 100  # columns of the legend
TITLES = {
    "encoder": "self-attention of the encoder",
    "decoder": "self-attention of the decoder",
    "cross": "cross-attention",
}


def render(view: View, chosen: Sequence[HeadFigures]) -> str:
    """Everything that --format=text prints. `chosen` are the heads of the maps, one a part."""
    tables, maps = [], []
    for part, head in zip(view.parts, chosen, strict=True):
        title = TITLES[part.kind] if len(view.parts) > 1 else ""
        tables.append(f"{title}\n\n{figure_table(part.heads)}".lstrip("\n"))
        maps.append(f"{title}, {part_map(part, head)}".lstrip(", "))
    parts = [
        *tables,
        figure_legend(view.parts),
        *maps,
        *(next_tokens(view) if view.blanks is None else tokens_at_blanks(view)),
    ]
    return "\n\n".join(parts)


def unit_of(tokenizer: Tokenizer) -> str:
    """What a token is called."""
    return "character" if tokenizer.kind == "char" else "token"


def part_map(part: Part, chosen: HeadFigures) -> str:
    """The attention weights of one head under a line that says what a row and a mark are."""
    row = f"a row for each {unit_of(part.queries.tokenizer)}"
    if part.kind == "cross":
        row += f" of the target, a column for each {unit_of(part.keys.tokenizer)} of the source"
    title = (
        f"layer {chosen.layer}, head {chosen.head}: {row}, "
        f"a mark for each weight ({shade_legend()} or more)"
    )
    weights = part.layers[chosen.layer].weights[chosen.head].tolist()
    drawn = head_map(part.queries.terminal_labels, weights, part.keys.terminal_labels)
    return f"{title}\n\n{drawn}"


def figure_names(figures: HeadFigures) -> list[str]:
    """The names of a head's figures, in the order of MEANINGS."""
    return [name for name in MEANINGS if hasattr(figures, name)]


def figure_table(heads: Sequence[HeadFigures]) -> str:
    """The figures of all heads, one a line."""
    names = figure_names(heads[0])
    rows = [["layer", "head", *names]]
    for figures in heads:
        values = [f"{getattr(figures, name):.3f}" for name in names]
        rows.append([str(figures.layer), str(figures.head), *values])
    widths = [max(6, len(name)) for name in rows[0]]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )


def figure_legend(parts: Sequence[Part]) -> str:
    """What each figure means."""
    shown = {name for part in parts for name in figure_names(part.heads[0])}
    indent = max(map(len, shown)) + 2
    return "\n".join(
        textwrap.fill(
            meaning, WIDTH, initial_indent=name.ljust(indent), subsequent_indent=" " * indent
        )
        for name, meaning in MEANINGS.items()
        if name in shown
    )


def shade_legend() -> str:
    """The least weight of each mark, as `head_map` rounds them.

    >>> shade_legend()
    '· 0.1, ░ 0.3, ▒ 0.5, ▓ 0.7, █ 0.9'
    """
    steps = len(SHADES) - 1
    marks = list(enumerate(SHADES))[1:]
    return ", ".join(f"{mark} {(number - 0.5) / steps:.1f}" for number, mark in marks)


def head_map(
    labels: Sequence[str],
    weights: Sequence[Sequence[float]],
    key_labels: Sequence[str] | None = None,
) -> str:
    """One head as marks: a row for each query, a column for each key.

    The keys are those of the queries, unless they have labels of their own. Labels stand above the
    columns where each is one character wide.
    """
    key_labels = labels if key_labels is None else key_labels
    margin = max(map(width, labels))
    steps = len(SHADES) - 1
    rows = [" " * (margin + 1) + "".join(key_labels)] if max(map(width, key_labels)) == 1 else []
    for label, row in zip(labels, weights, strict=True):
        marks = "".join(SHADES[min(steps, round(weight * steps))] for weight in row)
        rows.append(f"{label}{' ' * (margin - width(label))} {marks.rstrip()}")
    return "\n".join(rows)


def next_tokens(view: View) -> list[str]:
    """The three likeliest next tokens at every position, with their probabilities, under a
    title."""
    title = f"the likeliest next {unit_of(view.tokenizer)}s after the last layer"
    labels = terminal_labels(view.tokenizer, view.trace.ids)
    guesses = likeliest_tokens(view)
    pairs = zip(labels, guesses, strict=True)
    return [title, "\n".join(f"{label} → {guess}" for label, guess in pairs)]


def tokens_at_blanks(view: View) -> list[str]:
    """The three likeliest tokens for each blank, with their probabilities, under a title. For every
    position if there are no blanks."""
    title = f"the likeliest {unit_of(view.tokenizer)}s at each blank after the last layer"
    if not view.blanks:
        title = (
            f"the likeliest {unit_of(view.tokenizer)}s at each position after the last layer, "
            f"which the model has learned for blanks only, and the text has none"
        )
    labels = terminal_labels(view.tokenizer, view.trace.ids)
    guesses = likeliest_tokens(view)
    places = view.blanks or range(len(labels))
    return [title, "\n".join(f"{labels[i]} ({i}) → {guesses[i]}" for i in places)]


def likeliest_tokens(view: View) -> list[str]:
    """For every position the three likeliest tokens and their probabilities."""
    likeliest = view.trace.predictions[-1].topk(min(3, view.tokenizer.vocab_size))
    rows = []
    for ids, chances in zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True):
        pairs = zip(terminal_labels(view.tokenizer, ids), chances, strict=True)
        rows.append("   ".join(f"{guess} {chance:.2f}" for guess, chance in pairs))
    return rows
