"""Look inside a trained model: what each head attends to, and what each layer would predict.

python explain.py --text="The cat sat on the mat."    out/explain.html, opened in the browser
python explain.py --step=0 --against=out              before training beside after it
python explain.py --format=text --layer=1 --head=2    figures of all heads and a map of one
python explain.py --format=png                        all heads as maps, in out/explain.png
python explain.py --format=json                       all numbers, in out/explain.json
python explain.py --out_dir=out-encoder --text=c_t    an encoder: what each blank would be
python explain.py --out_dir=out-g2p --text=colonel    an encoder-decoder: letters meet sounds
"""

import signal

if __name__ == "__main__":
    # Ctrl-C while torch is imported ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import sys
from dataclasses import replace
from pathlib import Path

from kqv.browser import show
from kqv.errors import run_script
from kqv.files import replacing
from kqv.options.checks import check_architecture, check_explaining
from kqv.options.command_line import read_settings
from kqv.options.settings import ExplainSettings
from kqv.signals import end_by_exception
from kqv.training.remarks import checkpoint_remarks


def main(arguments: list[str]) -> int:
    """Load the checkpoint, run it on the text, show what it computed. Returns the exit status."""
    settings, given = read_settings(ExplainSettings, arguments, "text")
    check_explaining(settings)

    # Importing torch takes a second: only now, when the options are known to be good.
    from kqv.checkpoints.loading import load_model
    from kqv.inside import json_view, page, png_view, text_view
    from kqv.inside.reading import look, what_to_read
    from kqv.inside.view import Reader, chosen_heads, untrained_model

    end_by_exception()
    loaded = load_model(settings.out_dir)
    checkpoint, path = loaded.checkpoint, loaded.path
    check_architecture(given, loaded.model.config.architecture)
    reader = Reader(str(path), loaded.model, loaded.tokenizer, loaded.source_tokenizer)
    read = what_to_read(reader, settings, given)
    if settings.step == 0:
        untrained = untrained_model(loaded.model, checkpoint, path)
        reader = replace(reader, model=untrained, title=f"{path}, before training")
    else:
        for remark in checkpoint_remarks(checkpoint, path, settings.out_dir):
            print(remark, file=sys.stderr)
    view = look(reader, read)
    chosen = chosen_heads(view, settings.layer, settings.head)

    output = path.parent / f"explain.{settings.format}"
    if settings.format == "text":
        print(text_view.render(view, chosen))
    elif settings.format == "json":
        write(output, json_view.render(view).encode())
    elif settings.format == "png":
        write(output, png_view.render(view))
        show(output, settings.open is True)
    else:
        views = [view]
        if settings.against:
            other = load_model(settings.against)
            tokenizers = other.tokenizer, other.source_tokenizer
            views.append(look(Reader(str(other.path), other.model, *tokenizers), read))
        write(output, page.render(views, chosen[-1]).encode())
        show(output, settings.open)
    return 0


def write(path: Path, content: bytes) -> None:
    """Write a file atomically and print its path."""
    with replacing(path) as file:
        file.write(content)
    print(path)


if __name__ == "__main__":
    run_script(main)
