"""The prompt that a sample continues: where it comes from, and the default."""

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kqv.errors import UserError
from kqv.files import read_at_most

if TYPE_CHECKING:
    from kqv.text.tokenizer import Tokenizer

LARGEST_PROMPT = 1 << 26  # bytes


def text_of(word: str) -> str:
    """The text that an option's value means: FILE:path, - for standard input, or the word itself.

    Files are read as training texts are: UTF-8, with every line end turned into a newline. Raises
    UserError for a file that cannot be read or is not text.
    """
    if word != "-" and not word.startswith("FILE:"):
        return word
    path = Path(word.removeprefix("FILE:"))
    try:
        # A prompt may be a pipe, as a shell's <(command) is.
        with contextlib.nullcontext(sys.stdin.buffer) if word == "-" else path.open("rb") as file:
            data = read_at_most(file, LARGEST_PROMPT, path)
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except OSError as error:
        raise UserError(f"the prompt {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        source = "standard input" if word == "-" else path
        raise UserError(
            f"{source} is not UTF-8: byte 0x{error.object[error.start]:02X} at offset {error.start}"
        ) from None


def default_prompt(tokenizer: "Tokenizer") -> str:
    """The prompt if none is given: a newline or, if the model knows no newline, its first token."""
    return "\n" if tokenizer.knows("\n") else tokenizer.decode([0])
