"""A run says once that it has become slow, and why."""

import pytest

from kqv.machine.load import Usage
from kqv.training.pace import Pace

RESUME = "python train.py --init_from=resume --out_dir=out"


class Watched:
    """A run on two cores whose clock and load the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, threads: int = 2) -> None:
        for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr("sys.platform", "linux")
        self.now = self.busy = self.own = 0.0
        self.pace = Pace(threads, RESUME, lambda: self.now, self.usage, cores=2)

    def usage(self) -> Usage:
        return Usage(self.now, self.busy, self.own)

    def run(self, seconds: int, speed: float, others: float = 0.0) -> list[str]:
        """Report a speed each second while other programs use so many cores. Returns the
        remarks."""
        remarks = []
        for _ in range(seconds):
            self.now, self.busy, self.own = self.now + 1, self.busy + 2, self.own + 2 - others
            remarks.append(self.pace.see(speed))
        return [remark for remark in remarks if remark]


def test_a_run_slowed_by_other_programs_says_so_once_with_a_command_that_helps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Watched(monkeypatch)
    assert run.run(60, 55_600) == []
    assert run.run(10, 4_200, others=1.4) == []
    assert run.run(60, 4_200, others=1.4) == [
        "training is slow, 4,200 tokens/s after 55,600: other programs use 1.4 of 2 cores; "
        f"Ctrl-C, then GOMP_SPINCOUNT=0 {RESUME}"
    ]
    assert run.run(60, 55_600) == []
    assert run.run(60, 1_000, others=2) == []


def test_a_machine_that_slows_down_by_itself_is_told_from_a_shared_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Watched(monkeypatch)
    run.run(60, 50_000)
    (remark,) = run.run(60, 20_000, others=0.1)
    assert "no other program uses the cores" in remark
    assert "GOMP" not in remark


def test_a_run_of_one_thread_gets_no_advice_about_waiting_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Watched(monkeypatch, threads=1)
    run.run(60, 50_000)
    (remark,) = run.run(60, 20_000, others=1.5)
    assert remark.endswith("other programs use 1.5 of 2 cores")


ORDINARY = {
    "slower, but not by half": [(60, 50_000), (60, 27_000)],
    "slow for a moment": [(60, 50_000), (12, 5_000), (60, 50_000)],
    "one report that is much too fast": [(60, 20_000), (1, 200_000), (60, 20_000)],
    "slow from the beginning": [(200, 4_200)],
}


@pytest.mark.parametrize("speeds", ORDINARY.values(), ids=ORDINARY)
def test_ordinary_changes_of_speed_are_not_reported(
    speeds: list[tuple[int, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Watched(monkeypatch)
    for seconds, speed in speeds:
        assert run.run(seconds, speed, others=1.0) == []
