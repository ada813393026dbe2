"""A text that changes, redrawn in place in a terminal."""

import os
import shutil
import unicodedata
from typing import TextIO


def can_redraw(out: TextIO) -> bool:
    """Whether `out` is a terminal in which the cursor can move up."""
    return out.isatty() and os.environ.get("TERM") != "dumb"


class Screen:
    """Shows a text, then another in its place.

    A text that is taller than the terminal is shown from where its end fits, since a cursor cannot
    move above the first row; `finish` shows it whole.
    """

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self.rows = 1  # of the text that is shown, in the last of which the cursor is

    def show(self, text: str) -> None:
        """Show a text in place of the one before."""
        columns, lines = shutil.get_terminal_size()
        rows = wrap(text, max(1, columns - 1))[-max(1, lines - 1) :]
        self._redraw("\n".join(rows))
        self.rows = len(rows)

    def finish(self, text: str) -> None:
        """Show the final text as it is, and end its line."""
        self._redraw(text + "\n")
        self.rows = 1

    def _redraw(self, text: str) -> None:
        up = f"\x1b[{self.rows - 1}A" if self.rows > 1 else ""
        self.out.write(f"{up}\r\x1b[J{text}")  # J: erase all from the cursor on
        self.out.flush()


def wrap(text: str, columns: int) -> list[str]:
    """The rows that a text takes in a terminal, control characters replaced by U+FFFD.

    >>> wrap("one\\ntwo!", 3)
    ['one', 'two', '!']
    """
    rows = []
    for line in text.split("\n"):
        row, used = "", 0
        for character in line.expandtabs():
            character = character if character.isprintable() else "\ufffd"
            cells = width(character)
            if used + cells > columns and row:
                rows.append(row)
                row, used = "", 0
            row, used = row + character, used + cells
        rows.append(row)
    return rows


def width(character: str) -> int:
    """Cells that a character takes: 2 if it is wide, 0 for an accent on the one before it."""
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
