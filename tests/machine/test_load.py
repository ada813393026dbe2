"""kqv/machine/load.py: threads sleep while they wait only where other programs clearly take their cores."""

import os
import subprocess
import sys
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


def test_what_is_busy_is_neither_idle_nor_waiting_for_a_disk() -> None:
    lines = STAT.splitlines()
    assert busy_ticks(lines, {0}) == 157 and busy_ticks(lines, {1}) == 34
    assert (
        busy_ticks(lines, {0, 1}) == 191
    )  # the guests of a virtual machine are counted with the user


def test_what_this_process_computes_itself_is_not_the_load_of_others() -> None:
    before, after = Usage(clock=10.0, busy=5.0, own=1.0), Usage(clock=12.0, busy=9.0, own=2.0)
    assert after.others_since(before) == 1.5
    assert Usage(12.0, 6.0, 2.5).others_since(before) == 0.0  # two clocks that differ a little


def test_the_missing_cores_are_those_that_threads_and_others_want_beyond_what_there_is() -> None:
    assert [missing_cores(2, others, 2) for others in (0.0, 1.0, 2.0)] == [0, 1, 2]
    assert (
        missing_cores(threads=32, others=2, cores=64) == 0
    )  # a thread a core; there are hyperthreads left


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Two cores, two threads, no torch yet, nothing said about spinning."""
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
    """What is said where others use so many cores at the first look, and at the second."""
    usages = iter(
        [Usage(0.1, 0.1 * (1 + first), 0.1), Usage(0.35, 0.1 * (1 + first) + 0.25 * second, 0.1)]
    )
    patch.setattr(load, "usage", lambda: next(usages))
    return sleep_where_crowded(device, Usage(0.0, 0.0, 0.0))


def test_beside_two_busy_programs_on_two_cores_threads_sleep_and_that_is_said(
    alone: pytest.MonkeyPatch,
) -> None:
    said = look(alone, first=1.3, second=2.0)
    assert (
        said.startswith("other programs use 2.0 of 2 cores")
        and "GOMP_SPINCOUNT=0" in said
        and "\n" not in said
    )
    assert os.environ["GOMP_SPINCOUNT"] == "0"


@pytest.mark.parametrize(("first", "second"), [(0.0, 2.0), (0.2, 2.0), (1.3, 0.1), (1.0, 1.0)])
def test_a_quiet_machine_a_moment_and_one_program_change_nothing(
    first: float, second: float, alone: pytest.MonkeyPatch
) -> None:
    assert look(alone, first, second) == ""
    assert "GOMP_SPINCOUNT" not in os.environ


@pytest.mark.parametrize(
    ("name", "value"),
    [("OMP_NUM_THREADS", "1"), ("GOMP_SPINCOUNT", "1000"), ("OMP_WAIT_POLICY", "active")],
)
def test_one_thread_waits_for_nobody_and_what_the_user_says_counts(
    name: str, value: str, alone: pytest.MonkeyPatch
) -> None:
    alone.setenv(name, value)
    before = os.environ.get("GOMP_SPINCOUNT")
    assert look(alone, 2.0, 2.0) == ""
    assert os.environ.get("GOMP_SPINCOUNT") == before


def test_where_a_gpu_computes_nothing_is_set(alone: pytest.MonkeyPatch) -> None:
    assert look(alone, 2.0, 2.0, device="cuda") == ""
    alone.setattr(load, "GPU_DEVICES", (os.devnull,))
    assert look(alone, 2.0, 2.0, device="auto") == ""
    alone.setattr(load, "GPU_DEVICES", ())
    assert look(alone, 2.0, 2.0, device="auto")


def test_elsewhere_than_on_linux_nothing_is_measured_and_nothing_said(
    alone: pytest.MonkeyPatch,
) -> None:
    alone.setattr(load, "usage", lambda: None)
    assert sleep_where_crowded("cpu", None) == ""
    alone.setattr(sys, "platform", "darwin")
    assert not may_spin(8)


def test_torch_s_threads_are_as_many_as_the_environment_says_or_as_there_are_cores(
    alone: pytest.MonkeyPatch,
) -> None:
    alone.setenv("OMP_NUM_THREADS", "3,2")
    assert thread_count() == 3
    alone.setenv("OMP_NUM_THREADS", "")
    assert 1 <= thread_count() <= (os.cpu_count() or 1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what the cores do")
def test_busy_programs_are_seen_from_a_process_that_shares_their_cores() -> None:
    core = min(os.sched_getaffinity(0))
    pinned = f"import os; os.sched_setaffinity(0, {{{core}}})\n"
    watching = "from kqv.machine.load import usage\nimport time\nbefore = usage()\ntime.sleep(1)\n"
    watching += "print(usage().others_since(before))"
    with subprocess.Popen(
        [sys.executable, "-c", pinned + "print(flush=True)\nwhile True: pass"], stdout=-1
    ) as busy:
        try:
            assert busy.stdout and busy.stdout.readline()
            done = subprocess.run(
                [sys.executable, "-c", pinned + watching],
                capture_output=True,
                text=True,
                check=True,
            )
        finally:
            busy.kill()
    assert 0.8 < float(done.stdout) < 1.1  # of one core


def test_usage_only_grows() -> None:
    one, two = usage(), usage()
    if one and two:
        assert one.clock <= two.clock and one.busy <= two.busy and one.own <= two.own
