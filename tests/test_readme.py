"""The README says what is there: its commands have known options, its files exist, its table is whole."""

import re
import shlex
from pathlib import Path

import pytest

from bench import BenchSettings
from kqv.arguments import read_arguments
from kqv.settings import ExplainSettings, SampleSettings, TrainSettings, check_explaining, check_sampling, check_training

PROJECT = Path(__file__).resolve().parents[1]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"python ((?:train|sample|explain|bench)\.py[^`#\n|]*)", README)
KINDS = {
    "train.py": (TrainSettings, check_training),
    "sample.py": (SampleSettings, check_sampling),
    "explain.py": (ExplainSettings, check_explaining),
    "bench.py": (BenchSettings, vars),
}


@pytest.mark.parametrize("command", dict.fromkeys(COMMANDS))
def test_a_command_of_the_readme_is_understood(command, tmp_path, monkeypatch):
    (config,) = re.findall(r"```python\n# config/mine\.py\n(.*?)```", README, re.DOTALL)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "mine.py").write_text(config)
    for path in PROJECT.glob("config/*.py"):
        (tmp_path / "config" / path.name).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    script, *words = shlex.split(command)
    settings_class, check = KINDS[script]
    given, _ = read_arguments(settings_class, [word for word in words if word not in ("...", "--help")])
    check(settings_class(**given))


def test_the_table_of_files_names_all_code_and_nothing_else():
    table = README[README.index("## The code") :]
    named = set(re.findall(r"`([\w/]+\.(?:py|md))`", table)) - {"prepare.py"}
    there = [path for pattern in ("*.py", "kqv/*.py", "docs/*.md") for path in PROJECT.glob(pattern)]
    assert named == {path.relative_to(PROJECT).as_posix() for path in there} - {"kqv/__init__.py"}


def test_pictures_are_there_and_small():
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", README)
    assert pictures
    for picture in pictures:
        assert (PROJECT / picture).stat().st_size < 150_000
