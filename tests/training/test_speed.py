"""What a user can rely on of the speed that a dry run measures: real steps have it, and it takes
no longer than it says."""

import pytest

from kqv.machine.device import choose_machine
from kqv.options.settings import TrainSettings
from kqv.training.rehearsal import count_flops
from kqv.training.speed import SECONDS, measure_speed
from model import GPT, GPTConfig

SMALL = {"vocab_size": 64, "block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 32}
SETTINGS = TrainSettings(device="cpu", dtype="float32")
MACHINE = choose_machine(SETTINGS)


class Simulated:
    """A machine that computes so many FLOPs a second, with a clock that its work moves."""

    def __init__(self, flops_per_second, update_seconds):
        """`update_seconds` are those of an update, for each parameter."""
        self.now, self.speed, self.update_seconds = 0.0, flops_per_second, update_seconds

    def measure(self, config, windows, micro_batches):
        clock = lambda: self.now  # noqa: E731
        trial = lambda _, config, __: Timed(self, config)  # noqa: E731
        return measure_speed(SETTINGS, config, MACHINE, windows, micro_batches, trial, clock)

    def seconds(self, config, windows=1):
        return windows * count_flops(SETTINGS, config, MACHINE)[0] / self.speed


class Timed:
    """A model on a simulated machine."""

    def __init__(self, there, config):
        self.there, self.config, self.parameters = there, config, GPT(config).parameter_count()

    def micro_batch(self, windows):
        return self.wait(self.there.seconds(self.config, windows))

    def warm_up(self, windows):
        self.micro_batch(windows)
        return 0.0

    def update(self):
        return self.wait(self.there.update_seconds * self.parameters)

    def wait(self, seconds):
        self.there.now += seconds
        return seconds


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_the_speed_is_that_of_real_steps(micro_batches):
    config, there = GPTConfig(**SMALL), Simulated(1e9, update_seconds=1e-6)
    speed = there.measure(config, 4, micro_batches)
    step = there.seconds(config, 4 * micro_batches) + 1e-6 * GPT(config).parameter_count()
    assert speed.tokens_per_second == pytest.approx(4 * micro_batches * 16 / step, rel=0.01)
    assert (speed.windows, speed.blocks) == (4, 2)


@pytest.mark.parametrize("seconds", [0.01, 1.0, 3.0, 10.0, 30.0, 300.0])
def test_measuring_ends_in_time_however_slow_the_model_is_and_finds_the_same_speed(seconds):
    """`seconds` are those of one window."""
    config = GPTConfig(**{**SMALL, "n_layer": 24})
    window = count_flops(SETTINGS, config, MACHINE)[0]
    there = Simulated(window / seconds, update_seconds=1e-9)
    speed = there.measure(config, 8, 1)
    assert speed.tokens_per_second == pytest.approx(config.block_size / seconds, rel=0.01)
    assert there.now < SECONDS + seconds / 24 * 3  # one window of one block takes what it takes
    assert (speed.windows == 8) == (seconds < 0.1) and (speed.blocks == 24) == (seconds < 5)


def test_a_real_model_is_measured():
    config = GPTConfig(**{**SMALL, "block_size": 8})
    speed = measure_speed(SETTINGS, config, MACHINE, 2, 1)
    assert speed.tokens_per_second > 0 and (speed.windows, speed.blocks) == (2, 2)
