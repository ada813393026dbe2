"""How fast a model trains on this machine, measured on a few real micro-batches.

A large model is measured with fewer blocks or windows, so that a measurement takes about SECONDS.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Protocol

import torch

from kqv.machine.device import Machine
from kqv.machine.parameters import count_parameters
from kqv.options.settings import TrainSettings
from kqv.training.rehearsal import count_flops, lone_trainer, random_batches, window_tokens
from model import GPTConfig

SECONDS = 20.0  # that a measurement aims at
# Micro-batches that fit into this time: one to warm up, one to time, three to measure, and about
# one for the updates.
MICRO_BATCHES = 6


@dataclass(frozen=True)
class Speed:
    """A measured speed, and what it was measured with."""

    tokens_per_second: float
    windows: int
    blocks: int


class Timed(Protocol):
    """A model whose training is timed."""

    def micro_batch(self, windows: int) -> float:
        """Seconds of a micro-batch of so many windows, forward and backward."""
        ...

    def warm_up(self, windows: int) -> float:
        """The first micro-batch of this size. Returns the seconds of compiling."""
        ...

    def update(self) -> float:
        """Seconds of clipping and an update."""
        ...


class Trial:
    """A model that trains a little on this machine to be timed."""

    def __init__(self, settings: TrainSettings, config: GPTConfig, machine: Machine) -> None:
        self.machine = machine
        self.trainer = lone_trainer(settings, config, machine)

    def micro_batch(self, windows: int) -> float:
        """Seconds of a micro-batch of so many windows, forward and backward."""
        batches = random_batches(self.trainer, windows)
        return self._seconds(lambda: self.trainer.forward_backward(batches, step=0))

    def warm_up(self, windows: int) -> float:
        """The first micro-batch of this size. Returns the seconds of compiling, which do not count
        as measuring."""
        seconds = self.micro_batch(windows)
        return seconds if self.machine.compile else 0.0

    def update(self) -> float:
        """Seconds of clipping and an update. The gradients stay, for the next one."""

        def update() -> None:
            self.trainer.clip_gradients()
            self.trainer.update(finite=True, keep_gradients=True)

        return self._seconds(update)

    def _seconds(self, work: Callable[[], object]) -> float:
        began = time.perf_counter()
        work()
        if self.machine.device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter() - began


def measure_speed(
    settings: TrainSettings,
    config: GPTConfig,
    machine: Machine,
    windows: int,
    micro_batches: int,
    trial: Callable[[TrainSettings, GPTConfig, Machine], Timed] = Trial,
    clock: Callable[[], float] = time.perf_counter,
) -> Speed:
    """The speed of training in steps of `micro_batches` of `windows` each, on one rank.

    Takes about SECONDS. Of a model that is too slow for that, fewer blocks are measured: the time
    of a micro-batch is scaled by FLOPs, that of an update by parameters. One window of one block
    takes what it takes.
    """
    one_block = replace(config, n_layer=1)
    work, work_of_one = (count_flops(settings, each, machine)[0] for each in (config, one_block))
    timed = trial(settings, one_block, machine)
    one = timed.micro_batch(1)  # the very first is slow
    left = SECONDS
    if machine.compile or one < SECONDS / MICRO_BATCHES:
        one = timed.micro_batch(1)
        left -= one
    end = clock() + left
    at_once, times = 1, [one]
    blocks = affordable_blocks(config.n_layer, one, work_of_one, work, left)
    measured = replace(config, n_layer=blocks)
    work_measured = count_flops(settings, measured, machine)[0]
    if one * MICRO_BATCHES < left:
        if blocks > 1:
            del timed  # its memory first
            timed = trial(settings, measured, machine)
            end += timed.warm_up(1)
            one = timed.micro_batch(1)
        at_once = max(1, min(windows, int(SECONDS / 8 / one)))
        if at_once > 1:
            end += timed.warm_up(at_once)
        times = _times(timed, at_once, end, clock)
    updates = [timed.update()]
    while len(updates) < 3 and clock() + updates[-1] < end:
        updates.append(timed.update())  # the first one makes the moments
    window = median(times) / at_once * work / work_measured
    update = min(updates) * count_parameters(config) / count_parameters(measured)
    step_windows = windows * micro_batches
    step_seconds = step_windows * window + update
    return Speed(step_windows * window_tokens(config) / step_seconds, at_once, blocks)


def _times(timed: Timed, windows: int, end: float, clock: Callable[[], float]) -> list[float]:
    """Seconds of several micro-batches: three, and more until SECONDS / 2, as far as there is
    time."""
    times = [timed.micro_batch(windows)]
    while len(times) < 3 or (sum(times) < SECONDS / 2 and len(times) < 20):
        if clock() + times[-1] > end:
            break
        times.append(timed.micro_batch(windows))
    return times


def affordable_blocks(blocks: int, one: float, work_of_one: int, work: int, seconds: float) -> int:
    """How many blocks, at most `blocks`, can be measured in so many seconds, if a window of one
    block takes `one` seconds. `work_of_one` and `work` are the FLOPs of one block and of all.

    >>> [affordable_blocks(12, one, 30, 30 + 11 * 5, seconds=18.0) for one in (0.1, 2.0, 5.0)]
    [12, 4, 1]
    """
    if blocks == 1:
        return 1
    each = (work - work_of_one) / (blocks - 1) / work_of_one * one  # seconds of one more
    return max(1, min(blocks, 1 + int((seconds / MICRO_BATCHES - one) / max(each, 1e-12))))
