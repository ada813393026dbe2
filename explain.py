"""Look inside a trained model as it reads a text: who looks at whom, and what it would say.

python explain.py --text="The cat sat on the mat."    out/explain.html, a page to explore, opened in the browser
python explain.py --step=0 --against=out              the model before training beside the trained one
python explain.py --format=text --layer=1 --head=2    figures of all heads and a map of one, in the terminal
python explain.py --format=png                        all heads as maps, in out/explain.png
python explain.py --format=json                       all numbers, in out/explain.json
"""

import signal

if __name__ == "__main__":
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # Ctrl-C during imports ends the process, without a traceback

import ast
import inspect
import io
import json
import sys
import textwrap
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kqv.browser import show
from kqv.errors import UserError, run_script
from kqv.files import replacing
from kqv.generation.prompts import text_of
from kqv.options.command_line import read_settings
from kqv.options.settings import LARGEST_SEED, ExplainSettings, check_explaining
from kqv.signals import end_by_exception
from kqv.training.remarks import checkpoint_remarks

if TYPE_CHECKING:
    from kqv.inside.page import View
    from kqv.inside.trace import HeadFigures, Reading
    from kqv.text.tokenizer import Tokenizer
    from model import GPT

SHADES = " ·░▒▓█"  # of a weight: from nothing to all


def main(arguments: list[str]) -> int:
    """Read the options and the checkpoint, let the model read the text, show it. Returns the exit status."""
    settings, given = read_settings(ExplainSettings, arguments, "text")
    check_explaining(settings)

    # torch takes a second to import, so this waits until the options are known to be good.
    from kqv.checkpoints.loading import load_model

    end_by_exception()
    model, tokenizer, checkpoint, path = load_model(settings.out_dir)
    folder, title = path.parent, str(path)
    if settings.step == 0:
        model, title = untrained(model, checkpoint, path), f"{path}, before training"
    else:
        for remark in checkpoint_remarks(checkpoint, path, settings.out_dir):
            print(remark, file=sys.stderr)
    text = text_of(settings.text) if "text" in given else readable(model, tokenizer, settings.text)
    view = look(model, tokenizer, text, title)
    layer, head = chosen_head(settings, view.heads)
    names = names_of(tokenizer, view.reading.ids)
    if settings.format == "html":
        from kqv.inside.page import page

        views = [view]
        if settings.against:
            other, its_tokenizer, _, its_path = load_model(settings.against)
            views.append(look(other, its_tokenizer, text, str(its_path)))
            if names_of(its_tokenizer, views[1].reading.ids) != names:
                raise UserError(
                    f"{path} and {its_path} cut the text into different tokens: one page cannot show both"
                )
        write(folder / "explain.html", page(text, views, {"layer": layer, "head": head}).encode())
        show(folder / "explain.html", settings.open)
    elif settings.format == "json":
        write(folder / "explain.json", json.dumps(numbers(text, view)).encode())
    elif settings.format == "png":
        write(folder / "explain.png", draw_heads(names, view.reading))
        show(folder / "explain.png", settings.open is True)
    else:
        print(table(view.heads))
        print(f"\n{legend()}")
        thing = "character" if tokenizer.kind == "char" else "token"
        marks = f"its marks where it looks ({shades()} of its weight or more)"
        print(f"\nlayer {layer}, head {head}: each row is a {thing}, {marks}\n")
        print(head_map(names, view.reading.layers[layer].weights[head].tolist()))
        print("\nwhat would come next, after the last layer\n")
        print(next_tokens(names, tokenizer, view.reading))
    return 0


def untrained(model: "GPT", checkpoint: dict[str, Any], path: Path) -> "GPT":
    """The model as training began with it. Raises UserError if the checkpoint does not say how."""
    import torch

    from model import GPT

    seed = checkpoint.get("config", {}).get("seed")
    if not isinstance(seed, int) or not 0 <= seed <= LARGEST_SEED:
        raise UserError(
            f"{path} does not say with which seed its model began: explain it without --step=0"
        )
    torch.manual_seed(seed)  # as train.py does
    return GPT(model.config)


def readable(model: "GPT", tokenizer: "Tokenizer", text: str) -> str:
    """`text` if the model can read it; else, in another alphabet or a short block, one that it writes itself."""
    from kqv.inside.trace import own_ids

    if not tokenizer.knows(text) or len(tokenizer.encode(text)) > model.config.block_size:
        text = tokenizer.decode(own_ids(model, tokenizer, len(text)))
    while (
        len(tokenizer.encode(text)) > model.config.block_size
    ):  # what a model writes may be cut otherwise when read again
        text = text[:-1]
    return text


def look(model: "GPT", tokenizer: "Tokenizer", text: str, title: str) -> "View":
    """Let a model read the text. Raises UserError if it cannot."""
    from kqv.inside.page import View
    from kqv.inside.trace import head_figures, own_ids, read

    ids = tokenizer.encode(text)
    if not 0 < len(ids) <= model.config.block_size:
        things = "characters" if tokenizer.kind == "char" else "tokens"
        raise UserError(
            f"the text has {len(ids)} {things}, and {title} reads 1 to {model.config.block_size} at once"
        )
    reading = read(model, ids, tokenizer.vocab_size)
    if (
        not all(layer.raw.isfinite().all() for layer in reading.layers)
        or not reading.predictions.isfinite().all()
    ):
        raise UserError(
            f"{title} computes numbers that are not finite: there is nothing to be seen in it"
        )
    own = read(model, own_ids(model, tokenizer))
    newlines = {token for token in own.ids if tokenizer.token_bytes(token).endswith(b"\n")}
    return View(title, model, tokenizer, reading, head_figures(model, reading, own, newlines))


def write(path: Path, content: bytes) -> None:
    """Write a whole file, and say where it is."""
    with replacing(path) as file:
        file.write(content)
    print(path)


def chosen_head(settings: ExplainSettings, heads: list["HeadFigures"]) -> tuple[int, int]:
    """The layer and head of the map: as asked for, else the one with the lowest entropy. Raises UserError for one that is not
    there."""
    asked = [(figures.layer, figures.head) for figures in heads]
    wanted = [
        place
        for place in asked
        if settings.layer in (-1, place[0]) and settings.head in (-1, place[1])
    ]
    if not wanted:
        raise UserError(f"this model has layers 0 to {asked[-1][0]} with heads 0 to {asked[-1][1]}")
    return min(wanted, key=lambda place: heads[asked.index(place)].entropy)


def table(heads: list["HeadFigures"]) -> str:
    """The figures of all heads, one a line."""
    names = list(asdict(heads[0]))
    widths = [max(6, len(name)) for name in names]
    lines = ["  ".join(name.rjust(width) for name, width in zip(names, widths, strict=True))]
    for figures in heads:
        values = [
            str(value) if isinstance(value, int) else f"{value:.3f}"
            for value in asdict(figures).values()
        ]
        lines.append(
            "  ".join(value.rjust(width) for value, width in zip(values, widths, strict=True))
        )
    return "\n".join(lines)


def legend() -> str:
    """What the figures mean, in the words below the fields of HeadFigures."""
    from kqv.inside.trace import HeadFigures

    (definition,) = ast.parse(inspect.getsource(HeadFigures)).body
    assert isinstance(definition, ast.ClassDef)
    width = max(map(len, HeadFigures.__annotations__)) + 2
    lines = []
    for field, below in pairwise(definition.body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
            words = ast.literal_eval(below.value)
            name = ast.unparse(field.target).ljust(width)
            lines.append(
                textwrap.fill(words, 100, initial_indent=name, subsequent_indent=" " * width)
            )
    return "\n".join(lines)


def shades() -> str:
    """The least weight of each mark, as `head_map` rounds them.

    >>> shades()
    '· 0.1, ░ 0.3, ▒ 0.5, ▓ 0.7, █ 0.9'
    """
    steps = len(SHADES) - 1
    return ", ".join(
        f"{mark} {(number - 0.5) / steps:.1f}" for number, mark in enumerate(SHADES) if number
    )


def head_map(names: list[str], weights: list[list[float]]) -> str:
    """One head as marks: a row for each token, a column for each it may look at."""
    width = max(map(len, names))
    rows = (
        ["  " + "".join(names)] if width == 1 else []
    )  # longer ones find no room above the columns
    for name, row in zip(names, weights, strict=True):
        marks = "".join(
            SHADES[min(len(SHADES) - 1, round(weight * (len(SHADES) - 1)))] for weight in row
        )
        rows.append(f"{name.ljust(width)} {marks.rstrip()}")
    return "\n".join(rows)


def next_tokens(names: list[str], tokenizer: "Tokenizer", reading: "Reading") -> str:
    """The three likeliest next tokens at every place, with their probabilities."""
    likeliest = reading.predictions[-1].topk(min(3, tokenizer.vocab_size))
    rows = []
    for name, chances, ids in zip(
        names, likeliest.values.tolist(), likeliest.indices.tolist(), strict=True
    ):
        guesses = [
            f"{guess} {chance:.2f}"
            for guess, chance in zip(names_of(tokenizer, ids), chances, strict=True)
        ]
        rows.append(f"{name} → {'   '.join(guesses)}")
    return "\n".join(rows)


def names_of(tokenizer: "Tokenizer", ids: list[int]) -> list[str]:
    """Tokens as a terminal can show them. A character takes one place there, whatever it is."""
    from kqv.inside.page import token_label

    names = [token_label(tokenizer, token) for token in ids]
    return (
        [name if len(name) == 1 else "�" for name in names] if tokenizer.kind == "char" else names
    )


def numbers(text: str, view: "View") -> dict[str, Any]:
    """All that was seen, as plain lists: `layers` has the stages of LayerView in its shapes, `heads` the HeadFigures,
    `predictions` (n_layer + 1, time, vocab_size), `vocabulary` the tokens in the order of their ids."""
    from kqv.inside.page import token_text

    stages = ("query", "key", "value", "raw", "scaled", "weights", "output")
    return {
        "text": text,
        "vocabulary": [
            token_text(view.tokenizer, token) for token in range(view.tokenizer.vocab_size)
        ],
        "allowed": view.reading.layers[0].allowed.tolist(),
        "layers": [
            {name: getattr(layer, name).tolist() for name in stages}
            for layer in view.reading.layers
        ],
        "heads": [asdict(figures) for figures in view.heads],
        "predictions": view.reading.predictions.tolist(),
    }


def draw_heads(names: list[str], reading: "Reading") -> bytes:
    """A PNG of all heads as a grid, a layer a row: who (from above) looks at whom (from the left), the darker the more."""
    from kqv.plotting import empty_figure

    rows, columns = len(reading.layers), reading.layers[0].weights.shape[0]
    figure = empty_figure(2.2 * columns + 0.6, 2.2 * rows + 0.6)
    for layer, view in enumerate(reading.layers):
        for head, weights in enumerate(view.weights):
            axes = figure.add_subplot(rows, columns, layer * columns + head + 1)
            axes.imshow(
                weights.numpy(), cmap="Blues", vmin=0, vmax=1
            )  # light to dark: the colour-blind read it too
            axes.set_title(f"layer {layer}, head {head}", fontsize=8)
            shown = [name.replace("$", r"\$") for name in names]
            places = (
                range(len(names)) if len(names) <= 40 else []
            )  # more would be too small to read
            axes.set_xticks(places, shown[: len(places)], fontsize=5, family="monospace")
            axes.set_yticks(places, shown[: len(places)], fontsize=5, family="monospace")
            axes.tick_params(length=0)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    return picture.getvalue()


if __name__ == "__main__":
    run_script(main)
