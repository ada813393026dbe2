"""README.md and docs/ say what is there: commands are understood, files and links exist."""

import contextlib
import glob
import re
import shlex
import shutil
from pathlib import Path

import pytest
from torch.distributed.run import parse_args as parse_torchrun

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

PAGES = [
    PROJECT / "README.md",
    PROJECT / "CONTRIBUTING.md",
    *sorted((PROJECT / "docs").glob("*.md")),
]
IDS = [page.name for page in PAGES]
TEXTS = [page.read_text(encoding="utf-8") for page in PAGES]
# A command that goes on in the next line is one line here, and the shell's arithmetic is a number.
ALL = re.sub(r"\$\(\(.*?\)\)", "0", re.sub(r"\\\n\s*", "", "\n".join(TEXTS)))
REST = r"[^`#\n|&]*"  # of a command: up to a comment, a pipe, the end
COMMANDS = re.findall(rf"python ((?:\w+/)*\w+\.py{REST})", ALL)
TORCHRUNS = re.findall(rf"torchrun (--{REST})", ALL)
TESTS = re.findall(rf"pytest (tests/{REST})", ALL)
SCRIPTS = {
    "train.py": (TrainSettings, check_training),
    "sample.py": (SampleSettings, check_sampling),
    "explain.py": (ExplainSettings, check_explaining),
    "compare.py": (CompareSettings, check_comparing),
    "export.py": (ExportSettings, check_exporting),
    "benchmarks/bench.py": (BenchSettings, vars),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands are given: the configs of the project, and those a page shows."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(PROJECT / "config", folder / "config")
    (config,) = re.findall(r"```python\n# config/mine\.py\n(.*?)```", ALL, re.DOTALL)
    for mine in ("mine.py", "config/mine.py"):
        (folder / mine).write_text(config)
    return folder


def check_command(script: str, words: list[str]) -> None:
    """Reads the options of a command as the script does. Raises UserError for a wrong one."""
    settings_class, check = SCRIPTS[script]
    words = [found for word in words for found in (glob.glob(word) if "*" in word else [word])]
    if script == "compare.py":  # its config files may have variants
        configs, words = split_configs(settings_class, words)
        assert all(read_variants(TrainSettings, Path(config), "") for config in configs)
    given, names = read_arguments(settings_class, [word for word in words if word != "--help"])
    check(settings_class(**given))
    if script == "benchmarks/bench.py":
        (what,) = names
        assert what in BENCHES
    assert script in ("train.py", "compare.py", "benchmarks/bench.py") or not names


@pytest.mark.parametrize("command", dict.fromkeys(map(str.strip, COMMANDS)))
def test_a_command_of_a_page_is_understood(command: str, folder: Path) -> None:
    script, *words = shlex.split(command)
    assert (PROJECT / script).is_file()
    if script in SCRIPTS:
        with contextlib.chdir(folder):
            check_command(script, words)


@pytest.mark.parametrize("command", dict.fromkeys(map(str.strip, TORCHRUNS)))
def test_a_torchrun_command_of_a_page_is_understood(command: str, folder: Path) -> None:
    options = parse_torchrun(shlex.split(command))  # ends the process for an unknown one
    assert int(options.nproc_per_node) > 0
    with contextlib.chdir(folder):
        check_command(options.training_script, options.training_script_args)


@pytest.mark.parametrize("command", dict.fromkeys(map(str.strip, TESTS)))
def test_a_pytest_command_of_a_page_names_tests_that_are_there(
    command: str, request: pytest.FixtureRequest
) -> None:
    paths = [word for word in shlex.split(command) if not word.startswith("-")]
    assert paths and all((PROJECT / path).exists() for path in paths)
    for option, _ in re.findall(r"--(\w+)=(\d+)", command):
        assert request.config.getoption(option) is not None


def test_every_kind_of_command_is_found() -> None:
    assert {command.split()[0] for command in COMMANDS} >= set(SCRIPTS)
    assert len(TORCHRUNS) >= 6 and len(TESTS) >= 5


def test_the_readme_is_read_in_two_minutes() -> None:
    assert len(TEXTS[0].splitlines()) <= 150


def anchors(text: str) -> set[str]:
    """The names of the headings of a page, as links have them.

    >>> anchors("## GPT-2's size")
    {'gpt-2s-size'}
    """
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(("page", "text"), zip(PAGES, TEXTS, strict=True), ids=IDS)
def test_the_links_and_pictures_of_a_page_are_there(page: Path, text: str) -> None:
    prose = re.sub(r"```.*?```|`.*?`", "", text, flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)]+)\)", prose):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), target
        assert file.suffix != ".png" or file.stat().st_size < 150_000


def test_the_map_of_the_code_names_every_file_and_nothing_else() -> None:
    code = (PROJECT / "docs" / "code.md").read_text(encoding="utf-8")
    there = {
        path.relative_to(PROJECT).as_posix()
        for pattern in ("*.py", "kqv/**/*.py", "benchmarks/**/*.py")
        for path in PROJECT.glob(pattern)
        if path.name != "__init__.py"
    }
    assert set(re.findall(r"^\| `([\w/]+\.py)` \|", code, re.MULTILINE)) == there


STORY = (PROJECT / "docs" / "attention.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", STORY, re.DOTALL))
def test_the_story_of_attention_quotes_the_lines_of_the_model(block: str) -> None:
    lines = [
        line.strip() for line in (PROJECT / "model.py").read_text(encoding="utf-8").splitlines()
    ]
    quoted = [line.strip() for line in block.splitlines()]
    assert any(lines[at : at + len(quoted)] == quoted for at in range(len(lines)))
