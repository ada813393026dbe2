"""The speed of a run, watched while it trains."""

import time
from collections import deque
from collections.abc import Callable

from kqv.machine.load import Usage, core_count, may_spin, usage

SPELL = 4.0  # seconds over which speeds are averaged before they are compared
SPELLS = 5  # in a row that must all be slow
SLOW = 0.5  # times the speed of before
SHARED = 0.5  # cores of other programs that explain it


class Pace:
    """Notices that training has become much slower than it was, and why.

    Speeds are averaged over spells of SPELL seconds. The reference is the slowest of SPELLS in a
    row, the highest such value so far; training is slow when the fastest of the last SPELLS is
    below SLOW times that. So neither one fast report nor one slow report counts.
    """

    def __init__(
        self,
        threads: int,
        resume: str,
        clock: Callable[[], float] = time.perf_counter,
        usage: Callable[[], Usage | None] = usage,
        cores: int | None = None,
    ) -> None:
        """`threads` compute; `resume` is the command that resumes the run; `usage` measures the
        load of this process's `cores`."""
        self.clock, self.usage, self.cores = clock, usage, cores or core_count()
        self.command = f"GOMP_SPINCOUNT=0 {resume}" if may_spin(threads) else ""
        self.best, self.said = 0.0, False
        self.speeds: deque[float] = deque(maxlen=SPELLS)
        self.usages: deque[Usage | None] = deque(maxlen=SPELLS)  # when each of these spells began
        self._begin(clock(), usage())

    def _begin(self, now: float, used: Usage | None) -> None:
        self.began, self.used = now, used
        self.reports: list[float] = []

    def see(self, tokens_per_second: float) -> str:
        """The remark when it becomes true for the first time, else ""."""
        self.reports.append(tokens_per_second)
        now = self.clock()
        if self.said or now - self.began < SPELL:
            return ""
        self.speeds.append(sum(self.reports) / len(self.reports))
        self.usages.append(self.used)
        used = self.usage()
        self._begin(now, used)
        if len(self.speeds) < SPELLS:
            return ""
        self.best = max(self.best, min(self.speeds))
        if max(self.speeds) > SLOW * self.best:
            return ""
        self.said = True
        before = self.usages[0]
        others = used.others_since(before) if used and before else None
        speed = sum(self.speeds) / SPELLS
        return slow_remark(speed, self.best, others, self.cores, self.command)


def slow_remark(speed: float, before: float, others: float | None, cores: int, command: str) -> str:
    """The line about training that has become slow. `others` is how many cores other programs use,
    None if unknown; `command` resumes in a way that is faster beside them, "" if there is none.

    >>> slow_remark(4200, 55600, 1.4, 2, "")
    'training is slow, 4,200 tokens/s after 55,600: other programs use 1.4 of 2 cores'
    """
    slow = f"training is slow, {speed:,.0f} tokens/s after {before:,.0f}"
    if others is None:
        return slow
    if others < SHARED:
        cause = "no other program uses the cores, so it is the machine (heat, battery, swapping)"
        return f"{slow}: {cause}"
    advice = f"; Ctrl-C, then {command}" if command else ""
    return f"{slow}: other programs use {others:.1f} of {cores} cores{advice}"
