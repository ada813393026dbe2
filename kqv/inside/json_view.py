"""The json format of explain.py: every number, as plain lists."""

import json
from dataclasses import asdict
from typing import Any

from kqv.inside.labels import token_text
from kqv.inside.view import Part, View

STAGES = ("query", "key", "value", "raw", "scaled", "weights", "output")  # of a LayerTrace


def render(view: View) -> str:
    """All that was recorded.

    `layers` has the stages of LayerTrace in its shapes, `heads` the HeadFigures, `predictions` is
    (n_layer + 1, time, vocab_size), and `vocabulary` lists the tokens in the order of their ids.
    An encoder predicts the token at each place, and `blanks` are the places of U+001A in its text.
    An encoder-decoder has `layers` and `heads` for each kind of attention.
    """
    vocabulary = [token_text(view.tokenizer, token) for token in range(view.tokenizer.vocab_size)]
    read = view.parts[-1].keys
    data: dict[str, Any] = {"text": read.tokenizer.decode(read.ids), "vocabulary": vocabulary}
    if view.trace.source:
        for name, part in zip(("source", "target"), view.parts, strict=False):
            data[name] = [token_text(part.keys.tokenizer, token) for token in part.keys.ids]
        data["parts"] = {part.kind: part_data(part) for part in view.parts}
    else:
        data.update(part_data(view.parts[0]))
    if view.blanks is not None:
        data["blanks"] = view.blanks
    return json.dumps(data | {"predictions": view.trace.predictions.tolist()})


def part_data(part: Part) -> dict[str, Any]:
    """One kind of attention: where it may look, its stages in each layer, what its heads do."""
    data: dict[str, Any] = {"allowed": part.layers[0].allowed.tolist()}
    if part.layers[0].bias is not None:
        data["bias"] = part.layers[0].bias.tolist()
    data["layers"] = [
        {name: getattr(layer, name).tolist() for name in STAGES} for layer in part.layers
    ]
    return data | {"heads": [asdict(figures) for figures in part.heads]}
