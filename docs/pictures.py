"""Make the pictures that README.md and the pages in docs/ show.

    make pictures                                  all of them
    python -m docs.pictures explain stages heads   some of them
    python -m docs.pictures explain --run=out      of a default run that is already trained
    python -m docs.pictures alignment --run=out-g2p

curve       loss of the default run: python train.py (a minute on two cores)
heads       all heads of its model: python explain.py --format=png
encoder     the same of an encoder that was trained for as long
stages      scores and weights of one head, from the page of explain.py
explain     that page
curve_cpu   loss of config/shakespeare_cpu.py (7 to 15 minutes)
scale       inside the layers with three scales: compare.py with three seeds (10 minutes)
alignment   cross-attention of config/g2p.py on one word, after python data/g2p/prepare.py (15
            minutes)

The page is drawn by the system's Chromium, driven by playwright (requirements-dev.txt). It quotes
lines of model.py by number: make `explain` again after every change of model.py.
"""

import argparse
import base64
import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from kqv.checkpoints.loading import load_model
from kqv.inside import png_view
from kqv.inside.pair_view import pair_to_read, view_pair
from kqv.inside.view import Reader
from kqv.project import ROOT

DOCS = ROOT / "docs"
TEXT = "The cat sat on the mat."
# The head and the character that docs/attention.md follows: the a of cat in layer 1, head 2.
LAYER, HEAD, POSITION = 1, 2, 5
STAGES = ("raw", "scaled", "masked", "weights")
LARGEST = 150_000  # bytes of a picture
RECIPE = ROOT / "config" / "shakespeare_cpu.py"
EXPERIMENT = ROOT / "config" / "experiments" / "scale_dk128.py"
G2P, WORDS = ROOT / "config" / "g2p.py", ROOT / "data" / "g2p"
WITH_BLANKS = "The c_t sat on the m_t."
WORD = "knighting"  # of the development set; four of its letters are silent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

STAGES_PAGE = """
<style>
  body { margin: 0; padding: 8px; width: 720px; background: white; font: 15px sans-serif; }
  body { display: grid; grid-template-columns: 1fr 1fr; gap: 12px; box-sizing: border-box; }
  figure { margin: 0 } figcaption { margin-bottom: 4px } img { width: 100%; display: block }
</style>
"""


def main() -> None:
    """Make the pictures named on the command line, or all."""
    parser = argparse.ArgumentParser(prog="python -m docs.pictures", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("names", nargs="*", metavar="NAME", help="of pictures; all if left out")
    parser.add_argument(
        "--run", type=Path, action="append", default=[], help="out or out-g2p of a finished run"
    )
    arguments = parser.parse_args()
    names = arguments.names or list(PICTURES)
    if unknown := sorted(set(names) - set(PICTURES)):
        parser.error(f"no picture is called {unknown[0]}: there are {', '.join(PICTURES)}")
    # Everything runs in a folder of its own, so that no old run is mistaken for a new one.
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for finished in arguments.run:
            shutil.copytree(finished, work / finished.name)
        for name in names:
            save(name, PICTURES[name](work))


def save(name: str, picture: bytes) -> None:
    """Write docs/NAME.png with at most 256 colours, which drawings and maps hardly exceed."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    path = DOCS / f"{name}.png"
    image.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    size = path.stat().st_size
    print(f"docs/{name}.png: {image.width} x {image.height} pixels, {size / 1000:.0f} kB")
    if size > LARGEST:
        sys.exit(f"docs/{name}.png is larger than {LARGEST / 1000:.0f} kB")


def run(work: Path, script: str, *options: str) -> None:
    """Run a script of the project in the folder `work`."""
    print(f"python {script}", *options, flush=True)
    command = [sys.executable, str(ROOT / script), *options]
    subprocess.run(command, cwd=work, check=True, stdout=subprocess.DEVNULL)


def train_default(work: Path) -> None:
    """The default run, in work/out, unless it is there."""
    if not (work / "out").exists():
        run(work, "train.py")


def curve(work: Path) -> bytes:
    """The loss of the default run."""
    train_default(work)
    return (work / "out" / "loss.png").read_bytes()


def curve_cpu(work: Path) -> bytes:
    """The loss of the recipe for two cores."""
    run(work, "train.py", str(RECIPE), "--out_dir=out-cpu")
    return (work / "out-cpu" / "loss.png").read_bytes()


def scale(work: Path) -> bytes:
    """What three scales do inside the layers, mean and spread of three seeds."""
    run(work, "compare.py", str(EXPERIMENT), "--seeds=3", "--open=False")
    (picture,) = (work / "out-compare" / "pictures").glob("*-inside.png")
    return picture.read_bytes()


def alignment(work: Path) -> bytes:
    """The cross-attention of all heads on one word."""
    if not (work / "out-g2p").exists():
        pairs, dev = WORDS / "eng_us_train.tsv", WORDS / "eng_us_dev.tsv"
        run(work, "train.py", str(G2P), str(pairs), f"--val_text={dev}")
    loaded = load_model(str(work / "out-g2p"))
    reader = Reader("out-g2p", loaded.model, loaded.tokenizer, loaded.source_tokenizer)
    view = view_pair(reader, pair_to_read(reader, WORD, target=None))
    view.parts = [part for part in view.parts if part.kind == "cross"]
    return png_view.render(view)


def heads(work: Path) -> bytes:
    """The attention weights of all heads."""
    train_default(work)
    return maps(work, "out", TEXT)


def encoder(work: Path) -> bytes:
    """The same of an encoder, on a text with two blanks."""
    if not (work / "out-encoder").exists():
        run(work, "train.py", "--architecture=encoder", "--out_dir=out-encoder")
    return maps(work, "out-encoder", WITH_BLANKS)


def maps(work: Path, out_dir: str, text: str) -> bytes:
    """The maps of all heads on a text."""
    words = (f"--out_dir={out_dir}", f"--text={text}", "--format=png", "--open=False")
    run(work, "explain.py", *words)
    return (work / out_dir / "explain.png").read_bytes()


def explain(work: Path) -> bytes:
    """The page of explain.py, whole."""
    with explained_page(work, width=1400, scale=1) as page:
        return page.screenshot(full_page=True)


def stages(work: Path) -> bytes:
    """The maps of one head in four stages, side by side."""
    figures = []
    with explained_page(work, width=390, scale=2) as page:  # the page of a phone: maps of 340 px
        for stage in STAGES:
            page.click(f"[role=tab][data-stage={stage}]")
            title = page.text_content("[role=tab][aria-selected=true]")
            least, most = (float(page.text_content(place)) for place in (".least", ".most"))
            data = base64.b64encode(page.locator(".map").screenshot()).decode()
            figures.append(
                f"<figure><figcaption>{title}: {least:.3g} to {most:.3g}</figcaption>"
                f'<img src="data:image/png;base64,{data}"></figure>'
            )
        together = page.context.new_page()  # the page itself allows no pictures
        together.set_viewport_size({"width": 720, "height": 100})
        together.set_content(STAGES_PAGE + "".join(figures))
        together.wait_for_function("[...document.images].every(image => image.complete)")
        return together.screenshot(full_page=True)


@contextmanager
def explained_page(work: Path, width: int, scale: float) -> Iterator[Any]:
    """The page of explain.py in a browser window, with the head and the character chosen.

    `width` in CSS pixels; `scale` device pixels for each of them.
    """
    # Optional, as what needs no browser is made without it.
    from playwright.sync_api import sync_playwright

    train_default(work)
    run(work, "explain.py", f"--text={TEXT}", "--open=False")
    with (
        sync_playwright() as driver,
        driver.chromium.launch(executable_path=find_browser()) as browser,
    ):
        window = browser.new_context(
            viewport={"width": width, "height": 800},
            device_scale_factor=scale,
            color_scheme="light",
        )
        page = window.new_page()
        page.goto((work / "out" / "explain.html").as_uri())
        page.click(f".heads [data-layer='{LAYER}'][data-head='{HEAD}']")
        page.click(f".strip [data-position='{POSITION}']")
        page.hover("h1")  # away from all that reacts to the mouse
        # The small maps are drawn one after another, and square when they are.
        drawn = (
            "[...document.querySelectorAll('.heads canvas')].every(map => map.width == map.height)"
        )
        page.wait_for_function(drawn)
        yield page


def find_browser() -> str | None:
    """The path of the system's Chromium, or None if there is none."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


PICTURES: dict[str, Callable[[Path], bytes]] = {
    "curve": curve,
    "heads": heads,
    "encoder": encoder,
    "stages": stages,
    "explain": explain,
    "curve_cpu": curve_cpu,
    "scale": scale,
    "alignment": alignment,
}


if __name__ == "__main__":
    main()
