"""The learning-rate schedule: warm-up, decay, and nanoGPT's cosine."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kqv.options.settings import TrainSettings
from kqv.training.schedule import rate_factor


def test_the_default_schedule_warms_up_stays_and_falls_to_zero() -> None:
    settings = TrainSettings(max_iters=1000, warmup_iters=100, cooldown=0.5)
    factors = [rate_factor(settings, step) for step in range(1200)]
    assert factors[0] == pytest.approx(1 / 101)
    assert factors[99] == pytest.approx(100 / 101)
    assert set(factors[100:551]) == {1.0}  # half of the 900 steps after the warm-up
    assert factors[775] == pytest.approx(0.5)
    assert factors[1000:] == [0.0] * 200
    assert np.diff(factors[550:1001]) == pytest.approx(-1 / 450)


def test_the_cosine_schedule_is_that_of_nanogpt() -> None:
    learning_rate, min_lr, warmup_iters, lr_decay_iters = 6e-4, 6e-5, 20, 200
    settings = TrainSettings(
        lr_schedule="cosine",
        learning_rate=learning_rate,
        min_lr=min_lr,
        warmup_iters=warmup_iters,
        lr_decay_iters=lr_decay_iters,
    )
    for step in range(300):
        if step < warmup_iters:
            expected = learning_rate * (step + 1) / (warmup_iters + 1)
        else:
            angle = math.pi * min(1, (step - warmup_iters) / (lr_decay_iters - warmup_iters))
            expected = min_lr + (learning_rate - min_lr) * (1 + math.cos(angle)) / 2
        assert rate_factor(settings, step) * learning_rate == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("lr_schedule", ["linear", "cosine"])
def test_the_decay_ends_at_min_lr_and_stays_there(lr_schedule: str) -> None:
    settings = TrainSettings(
        lr_schedule=lr_schedule, learning_rate=1.0, min_lr=0.1, warmup_iters=20, lr_decay_iters=300
    )
    factors = [rate_factor(settings, step) for step in range(20, 500)]
    assert factors == sorted(factors, reverse=True)
    assert factors[0] == 1.0
    assert factors[280:] == pytest.approx([0.1] * 200)


def test_without_decay_the_rates_are_constant() -> None:
    settings = TrainSettings(decay_lr=False, warmup_iters=50, max_iters=100)
    assert {rate_factor(settings, step) for step in range(200)} == {1.0}


RATES = st.floats(0, 10) | st.sampled_from([0.0, 5e-324, 1e300])
STEPS = st.integers(0, 5) | st.integers(0, 10**9)


SETTINGS = st.builds(
    TrainSettings,
    max_iters=STEPS,
    warmup_iters=STEPS,
    lr_decay_iters=STEPS,
    learning_rate=RATES,
    min_lr=RATES,
    cooldown=st.floats(0, 1),
    decay_lr=st.booleans(),
    lr_schedule=st.sampled_from(["linear", "cosine"]),
)


@given(SETTINGS, STEPS)
def test_no_settings_make_a_rate_negative_infinite_or_higher_than_its_peak(
    settings: TrainSettings, step: int
) -> None:
    factor = rate_factor(settings, step)
    assert 0 <= factor <= 1
    decays = settings.decay_lr and step >= settings.warmup_iters
    if decays and settings.min_lr <= settings.learning_rate:
        assert factor * settings.learning_rate >= settings.min_lr * (1 - 1e-12) - 1e-300
