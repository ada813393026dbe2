"""bench.py as a user starts it."""

import json

import pytest

pytestmark = pytest.mark.slow


def test_the_start_is_measured_and_written_down(shell, tmp_path):
    done = shell.run("benchmarks/bench.py", "start", "--rounds=1", f"--out_dir={tmp_path}")
    assert done.status == 0 and "first character" in done.stdout
    written = json.loads((tmp_path / "start.json").read_text())
    rows = {row["what"]: row["sides"]["kqv"][0] for row in written["rows"]}
    assert {"first step", "first character", "train.py --help", "import torch"} <= rows.keys()
    assert min(rows.values()) > 0


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ([], "name what to measure"),
        (["speed"], "time-to-loss"),
        (["start", "--rounds=0"], "rounds=0 must be 1 or more"),
        (["train", "--nanogpt=/nowhere"], "no nanoGPT checkout"),
        (["train", "--round=3"], "did you mean rounds?"),
    ],
)
def test_a_mistake_is_one_line(shell, words, answer):
    done = shell.run("benchmarks/bench.py", *words)
    assert done.status == 2 and answer in done.stderr and len(done.stderr.splitlines()) == 1
