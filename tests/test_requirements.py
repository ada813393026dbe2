"""What a user installs is what the tests ran with, whichever of the two lists they install from."""

import importlib.metadata
import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import kqv
from kqv.project import ROOT as PROJECT


def requirements(name: str) -> list[Requirement]:
    """The packages that a requirements file lists, without those of the files it includes."""
    lines = [line.partition("#")[0].strip() for line in (PROJECT / name).read_text().splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith("-r ")]


RUNNING, TESTING = requirements("requirements.txt"), requirements("requirements-dev.txt")
METADATA = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_both_files_are_read() -> None:
    assert {"torch", "numpy", "pytest", "transformers"} <= {each.name for each in RUNNING + TESTING}


@pytest.mark.parametrize("required", RUNNING + TESTING, ids=lambda each: each.name)
def test_a_package_has_an_upper_bound_near_the_version_that_is_installed(
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
    assert bound.release[0] <= installed.release[0] + 1


def test_pyproject_needs_what_requirements_txt_lists() -> None:
    assert {Requirement(each) for each in METADATA["dependencies"]} == set(RUNNING)


def test_the_extras_of_pyproject_are_together_what_requirements_dev_txt_lists() -> None:
    extras = METADATA["optional-dependencies"].values()
    assert {Requirement(each) for extra in extras for each in extra} == set(TESTING)


def test_the_version_and_the_oldest_python_are_the_same_everywhere() -> None:
    assert METADATA["version"] == kqv.__version__
    (major, minor) = re.fullmatch(r">=(\d+)\.(\d+)", METADATA["requires-python"]).groups()
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    assert f"sys.version_info >= ({major}, {minor})" in makefile
    assert f"Python {major}.{minor} or newer" in (PROJECT / "README.md").read_text(encoding="utf-8")


def test_the_workflow_runs_the_oldest_and_the_newest_versions() -> None:
    workflow = (PROJECT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")
    pythons = re.findall(r'python: "([\d.]+)"', workflow)
    torches = [Version(version) for version in re.findall(r'torch: "([\d.]+)"', workflow)]
    (torch,) = (each for each in RUNNING if each.name == "torch")
    bounds = [Version(each.version) for each in torch.specifier]
    assert f">={pythons[0]}" == METADATA["requires-python"]
    assert sorted(torches) == sorted(bounds)


def test_packages_that_messages_and_pages_advise_to_install_have_a_bound() -> None:
    folders = [PROJECT / folder for folder in ("kqv", "data", "docs")]
    files = [file for folder in folders for file in folder.rglob("*.[pm][yd]")]
    advised = {
        package
        for file in [PROJECT / "README.md", *files]
        for package in re.findall(r"pip install ([a-z][\w.]+)", file.read_text(encoding="utf-8"))
    }
    assert {"rustbpe", "datasets"} <= advised <= {each.name for each in RUNNING + TESTING}
