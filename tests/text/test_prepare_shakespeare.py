"""data/shakespeare_char/prepare.py gives everyone the same text, and loses nobody's file.

The script runs as a process, in a copy of its folder, so that the real one stays as it is.
"""

import importlib.util
import os
import shutil
import subprocess
import sys

import pytest

from kqv.project import ROOT as PROJECT

SCRIPT_FOLDER = PROJECT / "data" / "shakespeare_char"

PLAY = r"""# The Kettle

## ACT I

### SCENE I. A kitchen
in winter.

Somebody's boots by the door.

_Enter two Guests, with umbrellas and
wet hats_

**First Guest**  
Is the kettle on?  
I said: 'the kettle'\--it is cold.

_They sit_

Nobody hears me.

**COOK & MAID**  
_\[Within]_  
This is not in the file.

_A crash_

Nor is this.

**COOK**  
It sings already,

_\[To the kettle]_  
and sings well.

## ACT II

### SCENE I. The same.

A song that nobody claims.

**MAID**  
Tea!

_Exeunt_
"""

PLAY_AS_TEXT = """First Guest:
Is the kettle on?
I said: 'the kettle'--it is cold.
Nobody hears me.

COOK:

COOK:
It sings already,
and sings well.

MAID:
Tea!
"""


@pytest.fixture(scope="module")
def prepare():
    """The script as a module."""
    path = SCRIPT_FOLDER / "prepare.py"
    spec = importlib.util.spec_from_file_location("prepare_shakespeare", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path):
    """A copy of the script's folder as it is when it is fresh."""
    copy = tmp_path / "data" / "shakespeare_char"
    copy.mkdir(parents=True)
    for name in ["prepare.py", "differences.json"]:
        shutil.copy(SCRIPT_FOLDER / name, copy)
    return copy


def run(folder, *arguments, **variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    environment |= {"PYTHONPATH": str(PROJECT), "PYTHONDONTWRITEBYTECODE": "1", **variables}
    command = [sys.executable, str(folder / "prepare.py"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def assert_one_line(stderr, *words):
    assert len(stderr.splitlines()) == 1, stderr
    for word in words:
        assert word in stderr


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_play_becomes_speakers_and_speeches_without_directions(prepare):
    assert prepare.play_to_text(PLAY) == PLAY_AS_TEXT


def test_a_running_head_stands_at_each_change_of_scene(prepare):
    text = prepare.play_to_text(PLAY, running_head="THE KETTLE")
    assert text == PLAY_AS_TEXT.replace("well.\n", "well.\nTHE KETTLE\n")


def test_the_recorded_differences_stay_few_and_short(prepare):
    pairs = [pair for pairs in prepare.PLAYS.values() for pair in pairs]
    assert len(prepare.PLAYS) == 9
    assert len(pairs) == 42
    assert max(len(words) for pair in pairs for words in pair) < 50


def test_a_wrong_input_file_is_one_line_and_status_2(folder, tmp_path):
    other = tmp_path / "diary.txt"
    other.write_text("Dear diary.\n")
    done = run(folder, f"--input={other}")
    assert done.returncode == 2
    assert_one_line(done.stderr, "not tiny Shakespeare", f"python train.py {other}")
    assert names_in(folder) == ["differences.json", "prepare.py"]


def test_a_missing_input_file_is_one_line_and_status_2(folder, tmp_path):
    done = run(folder, f"--input={tmp_path / 'nowhere.txt'}")
    assert done.returncode == 2
    assert_one_line(done.stderr, "cannot be read", "nowhere.txt")


def test_an_unknown_option_is_one_line_and_status_2(folder):
    done = run(folder, "--imput=x")
    assert done.returncode == 2
    assert_one_line(done.stderr, "--imput=x", "did you mean input?")


def test_a_foreign_input_txt_is_named_and_never_overwritten(folder):
    present = folder / "input.txt"
    present.write_text("My own text.\n")
    done = run(folder)
    assert done.returncode == 2
    assert_one_line(done.stderr, str(present), "delete it", "python train.py")
    assert present.read_text() == "My own text.\n"
    assert names_in(folder) == ["differences.json", "input.txt", "prepare.py"]


def test_without_a_network_the_last_line_says_what_to_do_by_hand(folder):
    nowhere = "http://127.0.0.1:9"  # nothing listens there: the connection is refused at once
    done = run(
        folder,
        HTTPS_PROXY=nowhere,
        https_proxy=nowhere,
        NO_PROXY="",
        no_proxy="",
        PIP_INDEX_URL=f"{nowhere}/simple",
        PIP_CONFIG_FILE=os.devnull,
        PIP_NO_CACHE_DIR="1",
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert "downloading" in lines[0] and "char-rnn" in lines[0]
    for word in ["by hand", "input.txt", "--input=FILE"]:
        assert word in lines[-1]
    assert names_in(folder) == ["differences.json", "prepare.py"]


@pytest.mark.network
def test_the_text_built_from_the_plays_is_byte_for_byte_tiny_shakespeare(prepare):
    data = prepare.fetch_plays()
    assert prepare.sha256(data) == prepare.TEXT_SHA256
    assert len(data.decode()) == 1_115_394
    assert len(set(data.decode())) == 65
