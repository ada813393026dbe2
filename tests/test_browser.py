"""When a page is opened in the browser without being asked for."""

import sys
from pathlib import Path

import pytest

from kqv.browser import person_present, show

SCREEN = {"DISPLAY": ":0"}
VARIABLES = ("DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION", "SSH_TTY", "CI")


@pytest.fixture
def surroundings(monkeypatch):
    """`surroundings(terminal, platform, **variables)`: where the process seems to run."""

    def surround(terminal: bool = True, platform: str = "linux", **variables: str) -> None:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
        monkeypatch.setattr(sys, "platform", platform)
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return surround


def test_a_person_is_at_a_terminal_of_a_machine_with_a_screen(surroundings):
    for here in (SCREEN, {"WAYLAND_DISPLAY": "wayland-0"}, {"platform": "darwin"}):
        surroundings(**here)
        assert person_present()


def test_nobody_is_at_the_other_end_of_a_pipe_of_ssh_or_of_a_ci_job(surroundings):
    for elsewhere in (
        {"terminal": False, **SCREEN},
        {"SSH_CONNECTION": "192.0.2.1 1 192.0.2.2 22", **SCREEN},
        {"SSH_TTY": "/dev/pts/0", **SCREEN},
        {"CI": "true", **SCREEN},
        {},  # no screen
    ):
        surroundings(**elsewhere)
        assert not person_present()


def test_where_nobody_is_nothing_opens_and_nothing_is_said(surroundings, monkeypatch, capsys):
    surroundings(terminal=False, **SCREEN)
    monkeypatch.setattr("webbrowser.open", lambda address: pytest.fail(f"opened {address}"))
    show(Path("page.html"), "auto")
    show(Path("page.html"), False)
    assert capsys.readouterr() == ("", "")


def test_a_page_that_was_asked_for_opens_from_a_pipe(surroundings, monkeypatch, tmp_path, capsys):
    surroundings(terminal=False)
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    show(tmp_path / "page.html", True)
    assert opened == [(tmp_path / "page.html").as_uri()] and capsys.readouterr() == ("", "")
