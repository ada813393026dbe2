"""What a user can rely on of a run's speed: that it has become slow is said once, with the cause."""

import pytest

from kqv.machine.load import Usage
from kqv.training.pace import Pace

RESUME = "python train.py --init_from=resume --out_dir=out"


class Clock:
    """A clock and cores that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, threads: int = 2) -> None:
        for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
            monkeypatch.delenv(name, raising=False)
        self.now = self.busy = self.own = 0.0
        monkeypatch.setattr("sys.platform", "linux")
        self.pace = Pace(threads, RESUME, lambda: self.now, self.usage, cores=2)

    def usage(self) -> Usage:
        return Usage(self.now, self.busy, self.own)

    def run(self, seconds: int, speed: float, others: float = 0.0) -> list[str]:
        """A report a second at this speed, while others use so many cores. What is said."""
        said = []
        for _ in range(seconds):
            self.now, self.busy, self.own = self.now + 1, self.busy + 2, self.own + 2 - others
            said.append(self.pace.see(speed))
        return [line for line in said if line]


def test_training_that_has_become_slow_beside_others_says_so_once_with_the_command_that_helps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    assert clock.run(60, 55_600) == [] and clock.run(10, 4_200, others=1.4) == []
    (said,) = clock.run(60, 4_200, others=1.4)
    assert said == (
        "training is slow, 4,200 tokens/s after 55,600: other programs use 1.4 of 2 cores; "
        f"Ctrl-C, then GOMP_SPINCOUNT=0 {RESUME}"
    )
    assert clock.run(60, 55_600) == [] and clock.run(60, 1_000, others=2) == []


def test_a_machine_that_slows_down_by_itself_is_told_from_one_that_is_shared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    clock.run(60, 50_000)
    (said,) = clock.run(60, 20_000, others=0.1)
    assert "no other program uses the cores" in said and "GOMP" not in said


def test_one_thread_gets_no_advice_on_how_threads_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, threads=1)
    clock.run(60, 50_000)
    (said,) = clock.run(60, 20_000, others=1.5)
    assert said.endswith("other programs use 1.5 of 2 cores")


@pytest.mark.parametrize(
    "speeds",
    [
        [(60, 50_000), (60, 27_000)],  # slower, but not by half
        [(60, 50_000), (12, 5_000), (60, 50_000)],  # for a moment
        [(60, 20_000), (1, 200_000), (60, 20_000)],  # one report that is much too fast
        [(200, 4_200)],  # slow from the beginning
    ],
)
def test_ordinary_ups_and_downs_of_the_speed_are_not_worth_a_word(
    speeds: list[tuple[int, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    for seconds, speed in speeds:
        assert clock.run(seconds, speed, others=1.0) == []
