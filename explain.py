"""Look inside a trained model as it reads a text: who looks at whom, and what it would say.

    python explain.py --out_dir=out --text="The cat sat on the mat."
    python explain.py --text="To be, or not to be" --layer=1 --head=2
    python explain.py --format=png                  all heads as maps, in out/explain.png
    python explain.py --format=json                 all numbers, in out/explain.json
    python explain.py --step=0                      the model as it was before training
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kqv.arguments import read_arguments
from kqv.errors import UserError, run_script
from kqv.files import replacing, text_of
from kqv.settings import ExplainSettings, check_explaining

if TYPE_CHECKING:
    from kqv.explaining import HeadFigures, Reading
    from kqv.tokenizer import CharTokenizer

SHADES = " ·░▒▓█"  # of a weight: from nothing to all


def main(arguments: list[str]) -> int:
    """Read the options and the checkpoint, let the model read the text, show it. Returns the exit status."""
    given, words = read_arguments(ExplainSettings, arguments, "[CONFIG.py ...]")
    if words:
        raise UserError(f"{words[0]!r} is neither an option nor a config file: a text is given as --text={words[0]!r}")
    settings = ExplainSettings(**given)
    check_explaining(settings)

    # torch takes a second to import, so this waits until the options are known to be good.
    import torch

    from kqv.checkpoint import load_model
    from kqv.explaining import head_figures, read
    from model import GPT

    model, tokenizer, checkpoint, path = load_model(settings.out_dir)
    if settings.step == 0:
        seed = checkpoint.get("config", {}).get("seed")
        if not isinstance(seed, int):
            raise UserError(f"{path} does not say with which seed its model began: explain it without --step=0")
        torch.manual_seed(seed)  # as train.py does
        model = GPT(model.config)
    text = text_of(settings.text)
    ids = tokenizer.encode(text)
    if not 0 < len(ids) <= model.config.block_size:
        raise UserError(f"the text has {len(ids)} characters, and this model reads 1 to {model.config.block_size} at once")

    reading = read(model, ids)
    newline = tokenizer.characters.find("\n")
    heads = head_figures(model, reading, newline if newline >= 0 else None)
    folder = path.parent
    if settings.format == "json":
        with replacing(folder / "explain.json") as file:
            file.write(json.dumps(numbers(text, tokenizer, reading, heads)).encode())
        print(folder / "explain.json")
    elif settings.format == "png":
        draw_heads(folder / "explain.png", text, reading)
        print(folder / "explain.png")
    else:
        layer, head = chosen_head(settings, heads)
        print(table(heads))
        print(f"\nlayer {layer}, head {head}: each row is a character, its marks where it looks ({SHADES!r}: from none to all)\n")
        print(head_map(text, reading.layers[layer].weights[head].tolist()))
        print("\nwhat would come next, after the last layer\n")
        print(next_characters(text, tokenizer, reading))
    return 0


def chosen_head(settings: ExplainSettings, heads: list["HeadFigures"]) -> tuple[int, int]:
    """The layer and head of the map: as asked for, else the one with the lowest entropy. Raises UserError for one that is not
    there."""
    asked = [(figures.layer, figures.head) for figures in heads]
    wanted = [place for place in asked if settings.layer in (-1, place[0]) and settings.head in (-1, place[1])]
    if not wanted:
        raise UserError(f"this model has layers 0 to {asked[-1][0]} with heads 0 to {asked[-1][1]}")
    return min(wanted, key=lambda place: heads[asked.index(place)].entropy)


def table(heads: list["HeadFigures"]) -> str:
    """The figures of all heads, one a line (see HeadFigures in kqv/explaining.py for what they mean)."""
    names = list(asdict(heads[0]))
    widths = [max(6, len(name)) for name in names]
    lines = ["  ".join(name.rjust(width) for name, width in zip(names, widths, strict=True))]
    for figures in heads:
        values = [str(value) if isinstance(value, int) else f"{value:.3f}" for value in asdict(figures).values()]
        lines.append("  ".join(value.rjust(width) for value, width in zip(values, widths, strict=True)))
    return "\n".join(lines)


def head_map(text: str, weights: list[list[float]]) -> str:
    """One head as marks: a row for each character, a column for each it may look at."""
    rows = []
    for character, row in zip(text, weights, strict=True):
        marks = "".join(SHADES[min(len(SHADES) - 1, round(weight * (len(SHADES) - 1)))] for weight in row)
        rows.append(f"{visible(character)} {marks.rstrip()}")
    return "\n".join([f"  {''.join(map(visible, text))}", *rows])


def next_characters(text: str, tokenizer: "CharTokenizer", reading: "Reading") -> str:
    """The three likeliest next characters at every place, with their probabilities."""
    likeliest = reading.predictions[-1].topk(min(3, tokenizer.vocab_size))
    rows = []
    for character, chances, ids in zip(text, likeliest.values.tolist(), likeliest.indices.tolist(), strict=True):
        guesses = [f"{visible(tokenizer.decode([i]))} {chance:.2f}" for i, chance in zip(ids, chances, strict=True)]
        rows.append(f"{visible(character)} → {'   '.join(guesses)}")
    return "\n".join(rows)


def visible(character: str) -> str:
    """A character that takes one place on a terminal and does nothing else there."""
    special = {"\n": "⏎", "\t": "⇥", " ": "␣"}
    return special.get(character, character if character.isprintable() else "�")


def numbers(text: str, tokenizer: "CharTokenizer", reading: "Reading", heads: list["HeadFigures"]) -> dict[str, Any]:
    """All that was seen, as plain lists: `layers` has the stages of LayerView in its shapes, `heads` the HeadFigures,
    `predictions` (n_layer + 1, time, vocab_size), `vocabulary` the characters in the order of their ids."""
    stages = ("query", "key", "value", "raw", "scaled", "weights", "output")
    return {
        "text": text,
        "vocabulary": tokenizer.characters,
        "allowed": reading.layers[0].allowed.tolist(),
        "layers": [{name: getattr(layer, name).tolist() for name in stages} for layer in reading.layers],
        "heads": [asdict(figures) for figures in heads],
        "predictions": reading.predictions.tolist(),
    }


def draw_heads(path: Path, text: str, reading: "Reading") -> None:
    """A grid of all heads, a layer a row: who (from above) looks at whom (from the left), the darker the more."""
    from matplotlib.figure import Figure

    rows, columns = len(reading.layers), reading.layers[0].weights.shape[0]
    figure = Figure(figsize=(2.2 * columns + 0.6, 2.2 * rows + 0.6), layout="constrained")
    for layer, view in enumerate(reading.layers):
        for head, weights in enumerate(view.weights):
            axes = figure.add_subplot(rows, columns, layer * columns + head + 1)
            axes.imshow(weights.numpy(), cmap="Blues", vmin=0, vmax=1)  # light to dark: the colour-blind read it too
            axes.set_title(f"layer {layer}, head {head}", fontsize=8)
            shown = [visible(character).replace("$", r"\$") for character in text]
            places = range(len(text)) if len(text) <= 40 else []  # more would be too small to read
            axes.set_xticks(places, shown[: len(places)], fontsize=5, family="monospace")
            axes.set_yticks(places, shown[: len(places)], fontsize=5, family="monospace")
            axes.tick_params(length=0)
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=150)


if __name__ == "__main__":
    run_script(main)
