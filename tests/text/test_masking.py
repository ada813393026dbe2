"""What a user can rely on of the masks of an encoder: shares, determinism, the loss they give."""

import numpy as np
import pytest
import torch

from kqv.text.characters import CharTokenizer
from kqv.text.masking import GOLDEN, Masking
from kqv.text.tokenizer import MASK

MASK_ID, VOCAB = 20, 20
WINDOWS = torch.from_numpy(np.random.default_rng(0).integers(VOCAB, size=(64, 40)))


def test_a_share_of_each_window_is_predicted_and_nothing_else() -> None:
    batch = Masking(0.15, MASK_ID, VOCAB).batch(WINDOWS, 1, 2, 0)
    assert (batch.weights.sum(1) == 6).all()
    assert torch.equal(batch.targets, WINDOWS)
    unseen = batch.weights == 0
    assert torch.equal(batch.ids[unseen], WINDOWS[unseen])


def test_of_the_predicted_characters_four_fifths_are_masked_and_a_tenth_is_wrong() -> None:
    batch = Masking(0.5, MASK_ID, VOCAB).batch(WINDOWS.repeat(10, 1), 1, 2, 0)
    chosen = batch.weights > 0
    ids, targets = batch.ids[chosen], batch.targets[chosen]
    assert float((ids == MASK_ID).float().mean()) == pytest.approx(0.8, abs=0.01)
    # a wrong character is drawn from all, so that one in VOCAB of them is right
    wrong = float(((ids != MASK_ID) & (ids != targets)).float().mean())
    assert wrong == pytest.approx(0.1 * (1 - 1 / VOCAB), abs=0.01)
    assert ids[ids != MASK_ID].max() < VOCAB


def test_with_a_uniform_rate_every_window_weighs_alike_and_only_masks_stand_in() -> None:
    batch = Masking("uniform", MASK_ID, VOCAB).batch(WINDOWS, 1, 2, 0)
    masked = batch.weights > 0
    assert torch.equal(batch.ids == MASK_ID, masked)
    torch.testing.assert_close(batch.weights.sum(1), torch.full((64,), 40.0))
    rates = masked.float().mean(1)
    assert rates.min() > 0
    assert rates.max() <= 1
    # spread evenly: as many windows in each quarter
    assert np.histogram(rates, bins=4, range=(0, 1))[0].min() >= 14


@pytest.mark.parametrize("rate", [0.15, "uniform"])
def test_the_masks_of_a_window_depend_on_its_number_alone(rate: object) -> None:
    masking = Masking(rate, MASK_ID, VOCAB)
    whole = masking.batch(WINDOWS, 7, 3, 0)
    parts = [masking.batch(WINDOWS[:24], 7, 3, 0), masking.batch(WINDOWS[24:], 7, 3, 24)]
    for name in ("ids", "targets", "weights"):
        together = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(getattr(whole, name), together)
    other = masking.batch(WINDOWS, 7, 4, 0)
    assert not torch.equal(whole.ids, other.ids)


def test_the_windows_are_left_alone() -> None:
    before = WINDOWS.clone()
    Masking("uniform", MASK_ID, VOCAB).batch(WINDOWS, 1, 2, 0)
    assert torch.equal(WINDOWS, before)


def test_the_bound_is_exact_for_a_model_whose_loss_is_known() -> None:
    """A model that predicts a masked character with probability 1/n when n are masked: the bound is
    the mean of log n, whatever the masks are."""
    time = WINDOWS.shape[1]
    batch = Masking("uniform", MASK_ID, VOCAB).batch(WINDOWS, 1, 2, 0)
    masked = (batch.weights > 0).sum(1)
    losses = masked.log()[:, None].expand_as(batch.weights)
    bound = float((losses * batch.weights).sum() / batch.weights.sum())
    shares = (np.arange(len(WINDOWS)) * GOLDEN) % 1
    assert bound == pytest.approx(float(np.log(1 + np.floor(shares * time)).mean()), abs=0.1)
    assert bound == pytest.approx(float(masked.log().mean()), rel=1e-5)


def test_the_mask_is_a_character_of_the_vocabulary_behind_all_others() -> None:
    tokenizer = CharTokenizer("abc")
    with_mask = tokenizer.with_markers(MASK)
    assert with_mask.marker_id(MASK) == 3
    assert with_mask.encode("cab") == tokenizer.encode("cab")
