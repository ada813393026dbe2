"""The examples in docstrings are true."""

import doctest
import importlib
import re
from typing import Literal

import pytest

from kqv.options.settings import TrainSettings
from kqv.project import ROOT

FILES = sorted((ROOT / "kqv").rglob("*.py"))
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in FILES
    if re.search(r">>> (?!.*\+SKIP)", path.read_text(encoding="utf-8"))
]
NAMES = {
    "Literal": Literal,
    "TrainSettings": TrainSettings,
}  # which examples use and their modules have not


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_a_module_are_true(name: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(name), extraglobs=NAMES)
    assert tried and not failed
