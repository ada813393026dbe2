"""What a user can rely on of a benchmark: sides take turns, ratios are of medians, no failure is
missed."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.bench import BENCHES
from benchmarks.measure import Row, alternate, process, report
from kqv.project import ROOT


def test_sides_take_turns_and_a_missing_one_is_left_out_and_named(capsys):
    order = []
    sides = {
        "kqv": lambda: order.append("kqv") or 1.0,
        "peer": lambda: order.append("peer") or 2.0,
        "absent": None,
    }
    assert alternate(sides, 3) == {"kqv": [1.0] * 3, "peer": [2.0] * 3}
    assert order == ["kqv", "peer"] * 3
    assert "absent" in capsys.readouterr().err


@pytest.mark.parametrize(("more_is_better", "ratio"), [(True, 0.5), (False, 2.0)])
def test_a_ratio_is_of_medians_and_above_1_where_we_are_better(more_is_better, ratio):
    row = Row("speed", "x", more_is_better, "", {"kqv": [1.0, 100.0, 1.0], "peer": [2.0, 2.0, 0.0]})
    assert row.ratio("peer") == ratio


def test_a_process_is_measured_whole_with_its_output():
    finished = process([sys.executable, "-c", "import time; time.sleep(0.3); print('done')"])
    assert finished.seconds > 0.3 and finished.output == "done\n"


# Run by a process without torch: a child's peak memory is never below that of its parent.
PRINT_MEMORY = """
import sys
from benchmarks.measure import process
print(process([sys.executable, "-c", sys.argv[1]]).megabytes)
"""


def test_the_memory_of_a_process_is_measured():
    def megabytes(code: str) -> float:
        command = [sys.executable, "-c", PRINT_MEMORY, code]
        return float(
            subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
        )

    assert 150 < megabytes("block = b'x' * 200_000_000") - megabytes("block = b'x'") < 260


def test_a_process_that_fails_ends_the_benchmark_with_its_words(refused):
    with refused("status 3", "no such thing"):
        process([sys.executable, "-c", "import sys; print('no such thing'); sys.exit(3)"])


def test_a_report_is_a_table_a_picture_and_all_measurements(tmp_path: Path, capsys):
    rows = [
        Row("start", "s", False, "", {"kqv": [1.0, 2.0, 3.0], "peer": [8.0]}),
        Row("alone", "s", False, "", {"kqv": [5]}),
    ]
    report("start", rows, tmp_path / "made")
    table = capsys.readouterr().out.splitlines()
    assert table[2] == "| start | s | 2 [1–3] | peer 8 [8–8] | 4.0 |"
    written = json.loads((tmp_path / "made" / "start.json").read_text())
    assert written["rows"][0]["sides"] == {"kqv": [1.0, 2.0, 3.0], "peer": [8.0]}
    assert written["machine"]["cores"] >= 1
    assert (tmp_path / "made" / "start.png").read_bytes().startswith(b"\x89PNG")


def test_a_benchmark_that_is_stopped_keeps_the_rows_that_it_has(tmp_path: Path, capsys):
    def rows():
        yield Row("first", "s", False, "", {"kqv": [1.0]})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        report("speed", rows(), tmp_path)
    assert "| first | s | 1 [1–1] |" in capsys.readouterr().out
    assert [row["what"] for row in json.loads((tmp_path / "speed.json").read_text())["rows"]] == [
        "first"
    ]


# Measures a process that writes its id and then sleeps; ended by a signal, as bench.py is.
MEASURE_A_SLEEPER = """
import sys
from benchmarks.measure import process
from kqv.signals import end_by_exception
end_by_exception()
code = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
process([sys.executable, "-c", code, sys.argv[1]])
"""


def test_a_benchmark_that_is_stopped_leaves_no_process_behind(tmp_path: Path):
    written = tmp_path / "id"
    with subprocess.Popen(
        [sys.executable, "-c", MEASURE_A_SLEEPER, str(written)], cwd=ROOT
    ) as measuring:
        while not (written.exists() and written.read_text()):
            assert measuring.poll() is None
            time.sleep(0.05)
        measuring.terminate()
        assert measuring.wait(60) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(int(written.read_text()), 0)


@pytest.mark.parametrize("what", ["train", "train-pairs", "prepare"])
def test_a_benchmark_of_peak_memory_is_not_run_by_a_process_that_holds_torch(what):
    check = f"import sys, benchmarks.{BENCHES[what]}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True)


@pytest.mark.parametrize("name", BENCHES.values())
def test_each_benchmark_can_be_run(name):
    assert callable(importlib.import_module(f"benchmarks.{name}").run)
