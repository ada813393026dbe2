"""The load of this process's cores, and how torch's threads wait because of it.

On Linux torch computes with libgomp, whose threads spin while they wait for each other. When
nothing else runs, that is 1.7 times as fast as sleeping; beside two programs that compute on two
cores it is 8 times as slow, because a spinning thread keeps the core from the one that it waits for
(docs/log.md). GOMP_SPINCOUNT=0 makes them sleep. libgomp reads it when torch is imported, so this
is decided before. Results are the same bit for bit.
"""

import os
import platform
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

GPU_DEVICES = ("/dev/nvidia0", "/dev/kfd", "/dev/dxg")  # NVIDIA, AMD, Windows' GPU in WSL
LOOK = 0.25  # seconds of the second measurement, while this process sleeps
BUSY = 0.5  # missing cores from which a second measurement is worth its time
CROWDED = 1.5  # missing cores from which threads had better sleep: two programs too many


@dataclass(frozen=True)
class Usage:
    """Seconds that have passed, that our cores were busy, and that this process used them."""

    clock: float
    busy: float
    own: float

    def others_since(self, before: "Usage") -> float:
        """How many cores other programs have used since, on average."""
        passed = max(self.clock - before.clock, 1e-9)
        return max(0.0, (self.busy - before.busy - (self.own - before.own)) / passed)


def usage() -> Usage | None:
    """The usage until now; None if the system does not tell it. Linux does."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
        busy = busy_ticks(lines, os.sched_getaffinity(0)) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return None
    return Usage(time.perf_counter(), busy, time.process_time())


def busy_ticks(lines: list[str], cores: set[int]) -> int:
    """Clock ticks during which these cores were not idle, from the lines of /proc/stat; time stolen
    by other virtual machines counts as busy.

    >>> busy_ticks(["cpu  9 1 4 79 5 1 1 2 3 0", "cpu0 8 1 4 70 5 1 1 2 3 0"], {0})
    17
    """
    names = {f"cpu{core}" for core in cores}
    ticks = 0
    for line in lines:
        name, *fields = line.split()
        if name in names:
            # user, nice, system, [idle, waiting for a device], two kinds of interrupts, stolen
            counts = [int(field) for field in fields[:8]]
            ticks += sum(counts[:3]) + sum(counts[5:])
    return ticks


AT_START = usage()


def core_count() -> int:
    """How many cores this process may use, hyperthreads counted."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_count() -> int:
    """How many threads torch will use: what the environment says, else the number of physical
    cores."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        number = os.environ.get(name, "").partition(",")[0]
        if number.isdecimal() and int(number):
            return int(number)
    try:
        topology = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
        return len({Path(topology.format(core)).read_text() for core in os.sched_getaffinity(0)})
    except (OSError, AttributeError):
        return core_count()


def may_spin(threads: int) -> bool:
    """Whether torch's threads spin while they wait, unless the user has chosen what they do."""
    told = "GOMP_SPINCOUNT" in os.environ or "OMP_WAIT_POLICY" in os.environ
    return sys.platform == "linux" and threads > 1 and not told


def missing_cores(threads: int, others: float, cores: int) -> float:
    """How many more cores our threads and the other programs would need.

    >>> missing_cores(threads=2, others=2.0, cores=2), missing_cores(threads=4, others=2.0, cores=8)
    (2.0, 0.0)
    """
    return max(0.0, threads + others - cores)


def sleep_where_crowded(device: str, before: Usage | None = AT_START) -> str:
    """Make torch's threads sleep while they wait, if they will compute on the CPU beside programs
    that leave them too few cores. Call it before torch is imported. Returns the line to print, or
    "".

    `before` is where the first measurement began. It is short, and this process computes meanwhile:
    only if it finds the cores busy, there is a second one.
    """
    gpu = device not in ("auto", "cpu") or (
        device == "auto" and any(map(os.path.exists, GPU_DEVICES))
    )
    threads, cores, now = thread_count(), core_count(), usage()
    if gpu or before is None or now is None or "torch" in sys.modules or not may_spin(threads):
        return ""
    if missing_cores(threads, now.others_since(before), cores) < BUSY:
        return ""
    time.sleep(LOOK)
    later = usage()
    others = later.others_since(now) if later else 0.0
    if missing_cores(threads, others, cores) < CROWDED:
        return ""
    os.environ["GOMP_SPINCOUNT"] = "0"
    return (
        f"other programs use {others:.1f} of {cores} cores: threads will sleep while they wait for "
        f"each other (GOMP_SPINCOUNT=0), which is faster beside others and slower alone"
    )


def processor() -> str:
    """The name of the processor, where the system tells it."""
    try:
        return re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[1]  # type: ignore[index]
    except (OSError, TypeError):
        return platform.processor()
