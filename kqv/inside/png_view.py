"""The png format of explain.py: the attention weights of every head as a map."""

import io

from kqv.inside.labels import terminal_labels
from kqv.inside.view import View
from kqv.plotting import empty_figure

MOST_LABELS = 40  # more would be too small to read
MAP_SIZE = 2.2  # inches


def render(view: View) -> bytes:
    """A grid of maps, a layer a row: queries from top to bottom, keys from left to right."""
    layers = view.trace.layers
    rows, columns = len(layers), view.model.config.n_head
    labels = [
        label.replace("$", r"\$") for label in terminal_labels(view.tokenizer, view.trace.ids)
    ]
    shown = labels if len(labels) <= MOST_LABELS else []
    figure = empty_figure(MAP_SIZE * columns + 0.6, MAP_SIZE * rows + 0.6)
    for number, layer in enumerate(layers):
        for head, weights in enumerate(layer.weights):
            axes = figure.add_subplot(rows, columns, number * columns + head + 1)
            # From light to dark, which the colour-blind can read too.
            axes.imshow(weights.numpy(), cmap="Blues", vmin=0, vmax=1)
            axes.set_title(f"layer {number}, head {head}", fontsize=8)
            axes.set_xticks(range(len(shown)), shown, fontsize=5, family="monospace")
            axes.set_yticks(range(len(shown)), shown, fontsize=5, family="monospace")
            axes.tick_params(length=0)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    return picture.getvalue()
