"""torch's threads sleep while they wait, but only where other programs clearly take their cores."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from kqv.machine import load
from kqv.machine.load import (
    Usage,
    busy_ticks,
    may_spin,
    missing_cores,
    sleep_where_crowded,
    thread_count,
    usage,
)

STAT = """\
cpu  120 3 60 900 40 1 2 5 7 0
cpu0 100 1 50 300 30 1 1 4 7 0
cpu1 20 2 10 600 10 0 1 1 0 0
cpu10 5000 0 0 0 0 0 0 0 0 0
intr 12345 0 0
"""


def test_busy_time_is_neither_idle_time_nor_waiting_for_a_disk() -> None:
    lines = STAT.splitlines()
    assert busy_ticks(lines, {0}) == 157
    assert busy_ticks(lines, {1}) == 34
    assert busy_ticks(lines, {0, 1}) == 191  # guests (the 9th field) are in the user's time


def test_the_load_of_others_leaves_out_this_process() -> None:
    before, after = Usage(clock=10.0, busy=5.0, own=1.0), Usage(clock=12.0, busy=9.0, own=2.0)
    assert after.others_since(before) == 1.5
    assert (
        Usage(12.0, 6.0, 2.5).others_since(before) == 0.0
    )  # two clocks, which may differ a little


def test_missing_cores_are_what_our_threads_and_others_need_beyond_all_cores() -> None:
    assert [missing_cores(2, others, 2) for others in (0.0, 1.0, 2.0)] == [0, 1, 2]
    # one thread for each physical core leaves hyperthreads free
    assert missing_cores(threads=32, others=2, cores=64) == 0


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Two cores, two threads, torch not yet imported, nothing set about spinning."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(load, "core_count", lambda: 2)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    yield monkeypatch
    os.environ.pop("GOMP_SPINCOUNT", None)


def look(patch: pytest.MonkeyPatch, first: float, second: float, device: str = "cpu") -> str:
    """The line to say where others use so many cores at the first look, and at the second."""
    usages = iter(
        [Usage(0.1, 0.1 * (1 + first), 0.1), Usage(0.35, 0.1 * (1 + first) + 0.25 * second, 0.1)]
    )
    patch.setattr(load, "usage", lambda: next(usages))
    return sleep_where_crowded(device, Usage(0.0, 0.0, 0.0))


def test_beside_two_busy_programs_on_two_cores_threads_sleep_and_a_line_says_so(
    alone: pytest.MonkeyPatch,
) -> None:
    line = look(alone, first=1.3, second=2.0)
    assert line.startswith("other programs use 2.0 of 2 cores")
    assert "GOMP_SPINCOUNT=0" in line
    assert "\n" not in line
    assert os.environ["GOMP_SPINCOUNT"] == "0"


@pytest.mark.parametrize(("first", "second"), [(0.0, 2.0), (0.2, 2.0), (1.3, 0.1), (1.0, 1.0)])
def test_an_idle_machine_a_short_peak_and_one_program_change_nothing(
    first: float, second: float, alone: pytest.MonkeyPatch
) -> None:
    assert look(alone, first, second) == ""
    assert "GOMP_SPINCOUNT" not in os.environ


@pytest.mark.parametrize(
    ("name", "value"),
    [("OMP_NUM_THREADS", "1"), ("GOMP_SPINCOUNT", "1000"), ("OMP_WAIT_POLICY", "active")],
)
def test_one_thread_and_a_choice_of_the_user_change_nothing(
    name: str, value: str, alone: pytest.MonkeyPatch
) -> None:
    alone.setenv(name, value)
    before = os.environ.get("GOMP_SPINCOUNT")
    assert look(alone, 2.0, 2.0) == ""
    assert os.environ.get("GOMP_SPINCOUNT") == before


def test_where_a_gpu_computes_nothing_changes(alone: pytest.MonkeyPatch) -> None:
    assert look(alone, 2.0, 2.0, device="cuda") == ""
    alone.setattr(load, "GPU_DEVICES", (os.devnull,))
    assert look(alone, 2.0, 2.0, device="auto") == ""
    alone.setattr(load, "GPU_DEVICES", ())
    assert look(alone, 2.0, 2.0, device="auto")


def test_on_other_systems_than_linux_nothing_changes(
    alone: pytest.MonkeyPatch,
) -> None:
    alone.setattr(load, "usage", lambda: None)
    assert sleep_where_crowded("cpu", None) == ""
    alone.setattr(sys, "platform", "darwin")
    assert not may_spin(8)


def test_the_thread_count_is_that_of_the_environment_or_of_the_cores(
    alone: pytest.MonkeyPatch,
) -> None:
    alone.setenv("OMP_NUM_THREADS", "3,2")
    assert thread_count() == 3
    alone.setenv("OMP_NUM_THREADS", "")
    assert 1 <= thread_count() <= (os.cpu_count() or 1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what the cores do")
def test_busy_programs_are_seen_from_a_process_that_shares_their_core() -> None:
    core = min(os.sched_getaffinity(0))
    spin = f"import os; os.sched_setaffinity(0, {{{core}}})\nprint(flush=True)\nwhile True: pass"
    before = os.sched_getaffinity(0)
    with subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE) as busy:
        try:
            busy.stdout.readline()
            os.sched_setaffinity(0, {core})
            first = usage()
            time.sleep(1)
            others = usage().others_since(first)
        finally:
            os.sched_setaffinity(0, before)
            busy.kill()
    assert 0.8 < others < 1.1  # of one core


def test_usage_only_grows() -> None:
    one, two = usage(), usage()
    if one and two:
        assert one.clock <= two.clock
        assert one.busy <= two.busy
        assert one.own <= two.own
