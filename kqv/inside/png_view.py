"""The png format of explain.py: the attention weights of every head as a map."""

import io
from typing import Any

from kqv.inside.view import Tokens, View
from kqv.plotting import empty_figure

MOST_LABELS = 40  # more would be too small to read
MAP_SIZE = 2.2  # inches


def render(view: View) -> bytes:
    """A grid of maps, a layer a row: queries from top to bottom, keys from left to right.

    The rows of an encoder-decoder are those of its encoder, its decoder and cross-attention.
    """
    rows = [(part, number) for part in view.parts for number in range(len(part.layers))]
    columns = view.model.config.n_head
    figure = empty_figure(MAP_SIZE * columns + 0.6, MAP_SIZE * len(rows) + 0.6)
    for row, (part, number) in enumerate(rows):
        kind = f"{part.kind}, " if len(view.parts) > 1 else ""
        for head, weights in enumerate(part.layers[number].weights):
            axes = figure.add_subplot(len(rows), columns, row * columns + head + 1)
            # From light to dark, which the colour-blind can read too.
            axes.imshow(weights.numpy(), cmap="Blues", vmin=0, vmax=1)
            axes.set_title(f"{kind}layer {number}, head {head}", fontsize=8)
            _label(axes.set_xticks, part.keys)
            _label(axes.set_yticks, part.queries)
            axes.tick_params(length=0)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    return picture.getvalue()


def _label(set_ticks: Any, tokens: Tokens) -> None:
    """Write a text along one side of a map, if it is short enough."""
    labels = [label.replace("$", r"\$") for label in tokens.terminal_labels]
    shown = labels if len(labels) <= MOST_LABELS else []
    set_ticks(range(len(shown)), shown, fontsize=5, family="monospace")
