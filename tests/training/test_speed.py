"""The speed that a dry run measures is that of real steps, and measuring it ends in time."""

import pytest

from kqv.machine.device import choose_machine
from kqv.options.settings import TrainSettings
from kqv.training.rehearsal import count_flops
from kqv.training.speed import SECONDS, measure_speed
from model import GPT, GPTConfig

SMALL = {"vocab_size": 64, "block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 32}
SETTINGS = TrainSettings(device="cpu", dtype="float32")
MACHINE = choose_machine(SETTINGS)


class SimulatedMachine:
    """A machine of a given speed, with a clock that moves with its work."""

    def __init__(self, flops_per_second, update_seconds):
        """`update_seconds` is the time of an update per parameter."""
        self.now, self.speed, self.update_seconds = 0.0, flops_per_second, update_seconds

    def clock(self):
        return self.now

    def trial(self, settings, config, machine):
        return SimulatedModel(self, config)

    def measure(self, config, windows, micro_batches):
        return measure_speed(
            SETTINGS, config, MACHINE, windows, micro_batches, self.trial, self.clock
        )

    def seconds(self, config, windows=1):
        """Time of a micro-batch."""
        return windows * count_flops(SETTINGS, config, MACHINE)[0] / self.speed


class SimulatedModel:
    """A model on a simulated machine."""

    def __init__(self, simulated, config):
        self.simulated, self.config = simulated, config
        self.window_seconds = simulated.seconds(config)
        self.update_seconds = simulated.update_seconds * GPT(config).parameter_count()

    def micro_batch(self, windows):
        return self.wait(windows * self.window_seconds)

    def warm_up(self, windows):
        self.micro_batch(windows)
        return 0.0

    def update(self):
        return self.wait(self.update_seconds)

    def wait(self, seconds):
        self.simulated.now += seconds
        return seconds


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_the_measured_speed_is_that_of_steps_with_their_updates(micro_batches):
    config, simulated = GPTConfig(**SMALL), SimulatedMachine(1e9, update_seconds=1e-6)
    speed = simulated.measure(config, 4, micro_batches)
    updating = 1e-6 * GPT(config).parameter_count()
    step_seconds = simulated.seconds(config, 4 * micro_batches) + updating
    assert speed.tokens_per_second == pytest.approx(4 * micro_batches * 16 / step_seconds, rel=0.01)
    assert (speed.windows, speed.blocks) == (4, 2)


@pytest.mark.slow
@pytest.mark.parametrize("window_seconds", [0.01, 1.0, 3.0, 10.0, 30.0, 300.0])
def test_measuring_ends_in_time_however_slow_the_model_is_and_finds_its_speed(window_seconds):
    config = GPTConfig(**{**SMALL, "n_layer": 24})
    flops = count_flops(SETTINGS, config, MACHINE)[0]
    simulated = SimulatedMachine(flops / window_seconds, update_seconds=1e-9)
    speed = simulated.measure(config, 8, 1)
    assert speed.tokens_per_second == pytest.approx(config.block_size / window_seconds, rel=0.01)
    # even the slowest model is measured with one window of one block
    assert simulated.now < SECONDS + window_seconds / 24 * 3
    assert (speed.windows == 8) == (window_seconds < 0.1)
    assert (speed.blocks == 24) == (window_seconds < 5)


def test_a_real_model_is_measured():
    config = GPTConfig(**{**SMALL, "block_size": 8})
    speed = measure_speed(SETTINGS, config, MACHINE, 2, 1)
    assert speed.tokens_per_second > 0
    assert (speed.windows, speed.blocks) == (2, 2)
