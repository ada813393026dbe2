"""The pictures that README.md and docs/ show are those that `make pictures` makes."""

import re
import subprocess
import sys

import pytest

from docs.pictures import EXPERIMENT, G2P, PICTURES, RECIPE
from kqv.project import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_each_picture_that_a_page_shows_is_made_by_make_pictures() -> None:
    shown = set()
    for page in PAGES:
        shown.update(re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8")))
    assert {path.rsplit("/", 1)[-1] for path in shown} == {f"{name}.png" for name in PICTURES}


@pytest.mark.parametrize("config", [RECIPE, EXPERIMENT, G2P], ids=lambda path: path.name)
def test_the_configurations_of_pictures_are_there(config) -> None:
    assert config.exists()


def test_a_picture_that_nobody_knows_is_named() -> None:
    command = [sys.executable, "-m", "docs.pictures", "stage"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "no picture is called stage" in done.stderr
    assert all(name in done.stderr for name in PICTURES)
