"""The examples in docstrings are true."""

import doctest
import importlib
import re
from typing import Literal

import pytest

from kqv.options.settings import TrainSettings
from kqv.project import ROOT

MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "kqv").rglob("*.py"))
    if re.search(r">>> (?!.*\+SKIP)", path.read_text(encoding="utf-8"))
]
# Names that examples use and their modules do not import.
NAMES = {"Literal": Literal, "TrainSettings": TrainSettings}


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_a_module_are_true(name: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(name), extraglobs=NAMES)
    assert tried and not failed
