"""What tests of texts share: a data folder of their own, and no waiting for the disk."""

import os
from pathlib import Path

import pytest

from kqv import project


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of the test's own, so that the project's is not touched."""
    monkeypatch.setattr(project, "DATA", tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Property tests write thousands of small files: waiting for each to be durable takes minutes.

    Processes that a test starts still call it.
    """
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the examples of property tests."""
    return tmp_path_factory.mktemp("examples")
