"""The json format of explain.py: every number, as plain lists."""

import json
from dataclasses import asdict

from kqv.inside.labels import token_text
from kqv.inside.view import View

STAGES = ("query", "key", "value", "raw", "scaled", "weights", "output")  # of a LayerTrace


def render(text: str, view: View) -> str:
    """All that was recorded.

    `layers` has the stages of LayerTrace in its shapes, `heads` the HeadFigures, `predictions` is
    (n_layer + 1, time, vocab_size), and `vocabulary` lists the tokens in the order of their ids.
    """
    tokenizer, trace = view.tokenizer, view.trace
    return json.dumps(
        {
            "text": text,
            "vocabulary": [token_text(tokenizer, token) for token in range(tokenizer.vocab_size)],
            "allowed": trace.layers[0].allowed.tolist(),
            "layers": [
                {name: getattr(layer, name).tolist() for name in STAGES} for layer in trace.layers
            ],
            "heads": [asdict(figures) for figures in view.heads],
            "predictions": trace.predictions.tolist(),
        }
    )
