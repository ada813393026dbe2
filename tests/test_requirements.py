"""What a user installs is what was tried: no package is taken in a later major version than the tests ran with."""

import importlib.metadata

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from kqv.project import ROOT as PROJECT


def requirements(name: str) -> list[Requirement]:
    """The packages that a file of requirements names."""
    lines = [line.partition("#")[0].strip() for line in (PROJECT / name).read_text().splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith("-r ")]


ALL = requirements("requirements.txt") + requirements("requirements-dev.txt")


def test_both_files_are_read() -> None:
    assert {"torch", "numpy", "pytest", "transformers"} <= {each.name for each in ALL}


@pytest.mark.parametrize("required", ALL, ids=[each.name for each in ALL])
def test_a_package_has_an_upper_bound_and_what_is_installed_keeps_to_it(
    required: Requirement,
) -> None:
    (bound,) = (
        Version(each.version) for each in required.specifier if each.operator in ("<", "<=")
    )
    try:
        installed = Version(importlib.metadata.version(required.name))
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{required.name} is not installed here")
    assert required.specifier.contains(installed)
    assert (
        bound.release[0] <= installed.release[0] + 1
    )  # what is bounded so far away is not bounded
