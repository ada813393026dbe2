"""What a user can rely on of a text that is redrawn in a terminal."""

import io
import os
import re

import hypothesis
import hypothesis.strategies as st
import pytest

from kqv.generation.screen import Screen, can_redraw, width, wrap

COLUMNS, LINES = 9, 5


class Terminal(io.StringIO):
    """What a terminal of COLUMNS × LINES shows, with all that scrolled out above it."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.row, self.column = [""], 0, 0

    def write(self, text: str) -> int:
        for up, control, character in re.findall(r"\x1b\[(\d+)A|(\x1b\[J|\r|\n)|(.)", text):
            if up:
                top = max(0, len(self.rows) - LINES)
                self.row = max(top, self.row - int(up))
            elif control == "\r":
                self.column = 0
            elif control == "\n":
                self.row, self.column = self.row + 1, 0
                self.rows += [""] * (self.row + 1 - len(self.rows))
            elif control:
                self.rows[self.row] = self.rows[self.row][: self.column]
                del self.rows[self.row + 1 :]
            else:
                if self.column == COLUMNS:
                    self.write("\n")
                self.rows[self.row] = self.rows[self.row][: self.column] + character
                self.column += 1
        return len(text)

    @property
    def shown(self) -> str:
        return "\n".join(self.rows)


@pytest.fixture(autouse=True)
def size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    monkeypatch.setenv("LINES", str(LINES))


def test_a_text_takes_the_place_of_the_one_before() -> None:
    terminal = Terminal()
    terminal.write("$ sample\n")
    screen = Screen(terminal)
    for text in ("______", "_b_\n_e", "abc\ndef\nghi", "ab", ""):
        screen.show(text)
        assert terminal.shown == "$ sample\n" + text
    screen.finish("ab\ncd")
    assert terminal.shown == "$ sample\nab\ncd\n"


@hypothesis.given(st.lists(st.text("ab\n_", max_size=60)), st.text("ab\n_", max_size=60))
def test_of_a_text_taller_than_the_terminal_the_end_is_shown_and_at_last_all(
    texts: list[str], last: str
) -> None:
    terminal = Terminal()
    screen = Screen(terminal)
    for text in texts:
        screen.show(text)
        assert terminal.shown == "\n".join(wrap(text, COLUMNS - 1)[-(LINES - 1) :])
    screen.finish(last)
    rows = [line[i : i + COLUMNS] for line in last.split("\n") for i in range(0, len(line) or 1, 9)]
    assert terminal.rows == [*rows, ""]


@hypothesis.given(st.text(), st.integers(2, 20))
def test_a_row_fits_the_terminal_and_has_no_control_characters(text: str, columns: int) -> None:
    rows = wrap(text, columns)
    assert all(sum(map(width, row)) <= columns for row in rows)
    assert all(character.isprintable() for row in rows for character in row)
    if text.isprintable():
        assert "".join(rows) == text


def test_only_a_terminal_that_can_move_its_cursor_is_redrawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    master, terminal = os.openpty()
    with os.fdopen(terminal, "w") as out:
        monkeypatch.setenv("TERM", "xterm")
        assert can_redraw(out) and not can_redraw(io.StringIO())
        monkeypatch.setenv("TERM", "dumb")
        assert not can_redraw(out)
    os.close(master)
