"""The page that shows a model at work: one file that needs nothing else and asks for nothing from the network.

Queries, keys and values are handed to the page as they were computed; what follows from them is computed by its script
(kqv/page/explain.js), by the formulas that it shows.
"""

import base64
import inspect
import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import model as model_py
from kqv.errors import UserError
from kqv.inside.trace import HeadFigures, Reading
from kqv.project import ASSETS
from kqv.text.tokenizer import Tokenizer
from model import GPT, GPTConfig

LARGEST = 3_800_000  # bytes for the numbers of a page
HALF_BYTES = (6, 5, 4, 3, 2)  # that a number may take: 24 bits are exact to 1e-6
GUESSES = 5  # characters that might come next, for each place

# The line of model.py that computes what a picture shows, by a piece of it.
CODE: dict[str, tuple[Callable[..., Any], str]] = {
    "vectors": (model_py.Attention.project, "query = "),
    "raw": (model_py.attend, "scores = SCORES"),
    "scaled": (model_py.Attention.__init__, "self.scale = "),
    "masked": (model_py.attend, "masked_fill"),
    "weights": (model_py.attend, "weights = "),
    "output": (model_py.attend, "return"),
    "next": (model_py.GPT.forward, "return"),
}
SCORES = ("dot", "squared", "linear")  # whose formulas the script has
SCALES = {"sqrt": "1/√d_k", "dim": "1/d_k", "none": "1"}


@dataclass
class View:
    """What one model made of the text."""

    title: str
    model: GPT
    tokenizer: Tokenizer
    reading: Reading
    heads: list[HeadFigures]


def page(text: str, views: Sequence[View], start: dict[str, int]) -> str:
    """The whole page as HTML. `start` has the layer and the head that are open at first."""
    count = sum(
        3 * view.model.config.n_layer * view.model.config.n_embd * len(view.reading.ids)
        for view in views
    )
    nibbles = next((n for n in HALF_BYTES if count * n / 2 * 4 / 3 <= LARGEST), HALF_BYTES[-1])
    data = {
        "labels": [token_label(views[0].tokenizer, token) for token in views[0].reading.ids],
        "direction": "rtl" if _is_right_to_left(text) else "ltr",
        "models": [_model_data(view, nibbles) for view in views],
        "code": {picture: code_line(*where) for picture, where in CODE.items()},
        "start": start,
    }
    parts = {
        "style": (ASSETS / "style.css").read_text() + (ASSETS / "explain.css").read_text(),
        "script": (ASSETS / "explain.js").read_text(),
        "data": script_json(data),
    }
    # in one pass, so that what stands in the text is not taken for a place to fill
    return re.sub(
        r"\{\{(\w+)\}\}", lambda place: parts[place[1]], (ASSETS / "explain.html").read_text()
    )


def label(token: str) -> str:
    """The characters of a token as they can be seen, and do nothing to those beside them: a sign for white space, a code for
    what has no shape, a ring to carry an accent.

    >>> label("a"), label(" "), label("\\u202e")
    ('a', '␣', 'U+202E')
    """
    signs = {"\n": "⏎", "\t": "⇥", " ": "␣"}

    def visible(character: str) -> str:
        if unicodedata.combining(character):
            return f"◌{character}"
        return signs.get(
            character, character if character.isprintable() else f"U+{ord(character):04X}"
        )

    return "".join(map(visible, token))


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """What a token stands for; of half a character the codes of its bytes, as \\xe2."""
    return tokenizer.token_bytes(token).decode(errors="backslashreplace")


def token_label(tokenizer: Tokenizer, token: int) -> str:
    """A token as it can be seen, its number if it stands for nothing."""
    return label(token_text(tokenizer, token)) or f"#{token}"


def script_json(data: Any) -> str:
    """JSON that can stand in a script element: nothing in it can end that element, or begin another."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def code_line(function: Callable[..., Any], piece: str) -> str:
    """Where in model.py a function has the line with `piece`, and that line."""
    lines, first = inspect.getsourcelines(function)
    at = next(number for number, line in enumerate(lines) if piece in line)
    return f"model.py:{first + at}  {lines[at].strip()}"


def pack(numbers: Tensor, nibbles: int) -> dict[str, Any]:
    """A tensor (heads, time, d_k) as whole numbers of `nibbles` half bytes in base64, and what one is worth in each head."""
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
    """What the script needs of a model. Raises UserError if it has no formula for its scores, or its mask is no band."""
    config = view.model.config
    if config.attention_score not in SCORES:
        raise UserError(
            f"the page has no formula for attention_score={config.attention_score}: add one to kqv/page/explain.js and its name "
            f"to SCORES in kqv/inside/page.py, or take --format=json, text or png"
        )
    likeliest = view.reading.predictions.topk(min(GUESSES, view.tokenizer.vocab_size))
    names = {
        token: token_label(view.tokenizer, token) for token in likeliest.indices.unique().tolist()
    }
    scale = view.reading.layers[0].attention.scale
    allowed = view.reading.layers[0].allowed
    if any(not row[int(row.nonzero()[0]) : int(row.nonzero()[-1])].all() for row in allowed):
        raise UserError(
            f"the page draws masks that are bands, and mask={config.mask} has gaps: take --format=json, text or png"
        )
    return {
        "title": view.title,
        "caption": _caption(config, nibbles),
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "d_k": config.d_k,
        "score": config.attention_score,
        "scale": scale,
        "scale_text": SCALES.get(str(config.attention_scale), str(config.attention_scale)),
        "nibbles": nibbles,
        # the first and the last character that each may look at: masks and windows are bands
        "rows": [[int(row.nonzero()[0]), int(row.nonzero()[-1])] for row in allowed],
        "layers": [
            {name: pack(getattr(layer, name), nibbles) for name in ("query", "key", "value")}
            for layer in view.reading.layers
        ],
        "heads": [asdict(figures) for figures in view.heads],
        "predictions": [
            [
                [[names[i], round(chance, 4)] for i, chance in zip(ids, chances, strict=True)]
                for ids, chances in zip(depth_ids, depth_chances, strict=True)
            ]
            for depth_ids, depth_chances in zip(
                likeliest.indices.tolist(), likeliest.values.tolist(), strict=True
            )
        ],
    }


def _caption(config: GPTConfig, nibbles: int) -> str:
    words = [
        f"{config.n_layer} layers of {config.n_head} heads, d_k = {config.d_k}",
        f"{config.position} positions",
    ]
    words += ["normalised queries and keys"] if config.qk_norm else []
    words += [f"mask {config.mask}"] + ([f"window {config.window}"] if config.window else [])
    exact = (
        "Numbers are exact to 1e-6."
        if nibbles == HALF_BYTES[0]
        else (
            f"Queries, keys and values are rounded to {4 * nibbles} bits, to keep this page small: a shorter text is shown exactly."
        )
    )
    return f"{', '.join(words)}. {exact}"


def _is_right_to_left(text: str) -> bool:
    """Whether the first letter of a text belongs to a script that is written from right to left."""
    kinds = (unicodedata.bidirectional(character) for character in text)
    return next((kind for kind in kinds if kind in ("L", "R", "AL")), "L") != "L"
