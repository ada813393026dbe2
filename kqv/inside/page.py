"""The html format of explain.py: one self-contained page that loads nothing from the network.

The page gets queries, keys and values as the model computed them. Its script
(kqv/assets/explain.js) computes scores, weights and outputs from these, by the formulas it shows.
"""

import base64
import inspect
import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

import model as model_py
from kqv.errors import UserError
from kqv.inside.figures import HeadFigures
from kqv.inside.labels import token_label
from kqv.inside.view import Part, View
from kqv.project import ASSETS
from model import GPTConfig

LARGEST_PACKED = 3_800_000  # bytes for the packed numbers of a page
NIBBLES = (6, 5, 4, 3, 2)  # half bytes a number may take; 6 (24 bits) are exact to 1e-6
GUESSES = 5  # likeliest tokens shown for each position

CODE: dict[str, tuple[Callable[..., Any], str]] = {
    "vectors": (model_py.Attention.project, "query = "),
    "raw": (model_py.attend, "scores = SCORES"),
    "scaled": (model_py.Attention.__init__, "self.scale = "),
    "masked": (model_py.as_bias, "masked_fill"),
    "weights": (model_py.attend, "weights = "),
    "output": (model_py.attend, "return"),
    "next": (model_py.GPT.forward, "return"),
}
"""The line of model.py that computes each stage: its function, and a piece of the line."""

SCRIPT_SCORES = ("dot", "squared", "linear")  # attention_score values that explain.js can compute
SCALE_FORMULAS = {"sqrt": "1/√d_k", "dim": "1/d_k", "none": "1"}


def render(views: Sequence[View], chosen: HeadFigures) -> str:
    """The whole page: one model, or two side by side. `chosen` is the head that is open at first.

    Raises UserError for what the page cannot show: models that tokenize the text differently,
    scores without a formula in the script, masks with gaps.
    """
    texts = [_texts(view) for view in views]
    if any(other != texts[0] for other in texts):
        titles = " and ".join(view.title for view in views)
        raise UserError(f"{titles} cut the text into different tokens: one page cannot show both")
    nibbles = _nibbles(views)
    data = {
        "texts": texts[0],
        "models": [_model_data(view, nibbles) for view in views],
        "code": {stage: code_line(*where) for stage, where in CODE.items()},
        "start": {"layer": chosen.layer, "head": chosen.head, **_first_blank(views[0])},
    }
    parts = {
        "style": _asset("style.css") + _asset("explain.css"),
        "script": _asset("explain.js"),
        "data": script_json(data),
    }
    # In one pass: a {{...}} in the text must not be taken for a placeholder.
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], _asset("explain.html"))


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _texts(view: View) -> dict[str, dict[str, Any]]:
    """What a model reads: its text or, of an encoder-decoder, its source and its target."""
    names = ("source", "text") if view.trace.source else ("text",)
    return {
        name: {
            "labels": part.keys.labels,
            "direction": _direction(part.keys.tokenizer.decode(part.keys.ids)),
        }
        for name, part in zip(names, view.parts, strict=False)
    }


def _first_blank(view: View) -> dict[str, int]:
    """The position that is selected at first, if the text has blanks."""
    return {"position": view.blanks[0]} if view.blanks else {}


def script_json(data: Any) -> str:
    """JSON that is safe inside a script element: nothing in it can close the element."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def code_line(function: Callable[..., Any], piece: str) -> str:
    """The first line of a function of model.py that contains `piece`, with its line number."""
    lines, first = inspect.getsourcelines(function)
    at = next(number for number, line in enumerate(lines) if piece in line)
    return f"model.py:{first + at}  {lines[at].strip()}"


def _nibbles(views: Sequence[View]) -> int:
    """The most half bytes per number with which a page stays small enough."""
    count = sum(
        vector.numel()
        for view in views
        for part in view.parts
        for layer in part.layers
        for vector in (layer.query, layer.key, layer.value)
    )
    for nibbles in NIBBLES:
        if count * nibbles / 2 * 4 / 3 <= LARGEST_PACKED:  # base64 takes 4 bytes for 3
            return nibbles
    return NIBBLES[-1]


def pack(numbers: Tensor, nibbles: int) -> dict[str, Any]:
    """A tensor (heads, time, d_k) as unsigned integers of `nibbles` half bytes, in base64.

    `units` has for each head the value of an integer's step; the middle of the range means 0.
    """
    half = 2 ** (4 * nibbles - 1)
    units = numbers.abs().amax(dim=(1, 2)).double().clamp_min(1e-30) / (half - 1)
    whole = (numbers.double() / units[:, None, None]).round().to(torch.int64).flatten() + half
    shifts = torch.arange(4 * (nibbles - 1), -1, -4)
    halves = (whole[:, None] >> shifts & 15).to(torch.uint8).flatten().numpy()
    if len(halves) % 2:
        halves = np.append(halves, np.uint8(0))
    packed = halves[0::2] << 4 | halves[1::2]
    return {"numbers": base64.b64encode(packed.tobytes()).decode(), "units": units.tolist()}


def _model_data(view: View, nibbles: int) -> dict[str, Any]:
    """What the script needs of one model. Raises UserError as `render` says."""
    config = view.model.config
    if config.attention_score not in SCRIPT_SCORES:
        raise UserError(
            f"the page has no formula for attention_score={config.attention_score}: add one to "
            f"kqv/assets/explain.js and its name to SCRIPT_SCORES in kqv/inside/page.py, or take "
            f"--format=json, text or png"
        )
    return {
        "title": view.title,
        "caption": _caption(config, nibbles),
        "n_head": config.n_head,
        "d_k": config.d_k,
        "score": config.attention_score,
        "scale": view.trace.layers[0].attention.scale,
        "scale_text": SCALE_FORMULAS.get(str(config.attention_scale), str(config.attention_scale)),
        "nibbles": nibbles,
        "parts": [_part_data(part, nibbles) for part in view.parts],
        "predictions": _guesses(view),
        **({} if view.blanks is None else {"blanks": view.blanks}),
    }


def _part_data(part: Part, nibbles: int) -> dict[str, Any]:
    """What the script needs of one kind of attention. Raises UserError as `render` says.

    `bias`, if positions are relative, has for each head a number for each distance, from the last
    key seen from the first query, -(time - 1), to the first key seen from the last, time - 1.
    """
    layers, bias = part.layers, part.layers[0].bias
    by_distance = {} if bias is None else {"bias": _by_distance(bias).tolist()}
    return {
        "kind": part.kind,
        "rows": _allowed_ranges(layers[0].allowed, layers[0].attention.config),
        **by_distance,
        "layers": [
            {name: pack(getattr(layer, name), nibbles) for name in ("query", "key", "value")}
            for layer in layers
        ],
        "heads": [asdict(figures) for figures in part.heads],
    }


def _by_distance(bias: Tensor) -> Tensor:
    """A bias (heads, time, time) that depends on the distance alone: (heads, 2 time - 1)."""
    return torch.cat((bias[:, 0, 1:].flip(1), bias[:, :, 0]), dim=1)


def _allowed_ranges(allowed: Tensor, config: GPTConfig) -> list[list[int]]:
    """The first and the last position that each query may look at. allowed: (time, seen) bool.

    Raises UserError if a mask has gaps in between.
    """
    ranges, option = [], "global_tokens" if config.global_tokens else "mask"
    for row in allowed:
        positions = row.nonzero().flatten().tolist()
        first, last = positions[0], positions[-1]
        if len(positions) <= last - first:
            raise UserError(
                f"the page draws masks without gaps only, and {option}={getattr(config, option)} "
                f"has gaps: take --format=json, text or png"
            )
        ranges.append([first, last])
    return ranges


def _guesses(view: View) -> list[list[list[list[Any]]]]:
    """The likeliest tokens after each position, of an encoder those at it: for each depth and
    position GUESSES pairs (label, probability)."""
    likeliest = view.trace.predictions.topk(min(GUESSES, view.tokenizer.vocab_size))
    labels = {
        token: token_label(view.tokenizer, token) for token in likeliest.indices.unique().tolist()
    }
    return [
        [
            [[labels[i], round(chance, 4)] for i, chance in zip(*position, strict=True)]
            for position in zip(*depth, strict=True)
        ]
        for depth in zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
    ]


def _caption(config: GPTConfig, nibbles: int) -> str:
    """The options of a model that matter to attention, and the precision of the page."""
    layers = f"{config.n_layer} layers"
    if config.has_cross_attention:
        layers = f"encoder of {config.encoder.n_layer} layers, decoder of {config.n_layer}, each"
    words = [
        f"{layers} of {config.n_head} heads, d_k = {config.d_k}",
        f"{config.position} positions",
    ]
    if config.qk_norm:
        words.append("normalised queries and keys")
    words.append(f"mask {config.mask}" + " in the decoder" * config.has_cross_attention)
    if config.window:
        words.append(f"window {config.window}")
    if config.global_tokens:
        words.append(f"{config.global_tokens} global tokens")
    precision = (
        "Numbers are exact to 1e-6."
        if nibbles == NIBBLES[0]
        else f"Queries, keys and values are rounded to {4 * nibbles} bits, to keep this page "
        f"small: a shorter text is shown exactly."
    )
    return f"{', '.join(words)}. {precision}"


def _direction(text: str) -> str:
    """rtl if the first letter of a text belongs to a script that is written right to left."""
    kinds = (unicodedata.bidirectional(character) for character in text)
    first = next((kind for kind in kinds if kind in ("L", "R", "AL")), "L")
    return "ltr" if first == "L" else "rtl"
