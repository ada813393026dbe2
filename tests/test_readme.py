"""The README says what is there: its commands have known options, its files exist, its table is whole."""

import glob
import re
import shlex
import shutil
from pathlib import Path

import pytest

from benchmarks.bench import BENCHES, BenchSettings
from kqv.options.checks import (
    check_comparing,
    check_explaining,
    check_exporting,
    check_sampling,
    check_training,
)
from kqv.options.command_line import read_arguments, split_configs
from kqv.options.config_files import read_variants
from kqv.options.settings import (
    CompareSettings,
    ExplainSettings,
    ExportSettings,
    SampleSettings,
    TrainSettings,
)
from kqv.project import ROOT as PROJECT

README = (PROJECT / "README.md").read_text(encoding="utf-8")
STORY, SCALING = (
    (PROJECT / "docs" / name).read_text(encoding="utf-8") for name in ("attention.md", "scaling.md")
)
SCRIPT = r"((?:train|sample|explain|export|compare|bench)\.py[^`#\n|]*)"
COMMANDS = re.findall(rf"(?:python|torchrun(?: \S+)+?) {SCRIPT}", README + STORY + SCALING)
KINDS = {
    "train.py": (TrainSettings, check_training),
    "sample.py": (SampleSettings, check_sampling),
    "explain.py": (ExplainSettings, check_explaining),
    "compare.py": (CompareSettings, check_comparing),
    "export.py": (ExportSettings, check_exporting),
    "benchmarks/bench.py": (BenchSettings, vars),
}


@pytest.mark.parametrize("command", dict.fromkeys(COMMANDS))
def test_a_command_of_the_readme_is_understood(command, tmp_path, monkeypatch):
    (config,) = re.findall(r"```python\n# config/mine\.py\n(.*?)```", README, re.DOTALL)
    shutil.copytree(PROJECT / "config", tmp_path / "config")
    for mine in ("mine.py", "config/mine.py"):
        (tmp_path / mine).write_text(config)
    monkeypatch.chdir(tmp_path)
    script, *words = [
        found
        for word in shlex.split(command)
        for found in (glob.glob(word) if "*" in word else [word])
    ]
    settings_class, check = KINDS[script]
    if script == "compare.py":  # its config files may have variants
        configs, words = split_configs(settings_class, words)
        for config in configs:
            read_variants(TrainSettings, Path(config), "")
    given, words = read_arguments(
        settings_class, [word for word in words if word not in ("...", "--help")]
    )
    check(settings_class(**given))
    if script == "benchmarks/bench.py":
        (what,) = words
        assert what in BENCHES
    assert script in ("train.py", "compare.py", "benchmarks/bench.py") or not words


def test_the_table_of_files_names_all_code_and_nothing_else():
    table = README[README.index("## The code") :]
    named = set(re.findall(r"`([\w/]+\.(?:py|md))`", table)) - {"prepare.py"}
    there = [
        path
        for pattern in ("*.py", "kqv/**/*.py", "benchmarks/*.py", "docs/*.md")
        for path in PROJECT.glob(pattern)
    ]
    assert named == {path.relative_to(PROJECT).as_posix() for path in there} - {"kqv/__init__.py"}


@pytest.mark.parametrize(
    ("text", "folder"), [(README, PROJECT), (STORY, PROJECT / "docs")], ids=["README", "attention"]
)
def test_pictures_are_there_and_small(text, folder):
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert pictures
    for picture in pictures:
        assert (folder / picture).stat().st_size < 150_000


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", STORY, re.DOTALL))
def test_the_story_of_attention_quotes_the_lines_of_the_model(block):
    lines = [
        line.strip() for line in (PROJECT / "model.py").read_text(encoding="utf-8").splitlines()
    ]
    quoted = [line.strip() for line in block.splitlines()]
    assert any(lines[at : at + len(quoted)] == quoted for at in range(len(lines)))
