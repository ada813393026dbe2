"""The bytes that ranks send each other: the formulas, and the figures of docs/scaling.md."""

import pytest
import torch

from kqv.training.communication import Sizes, sent_bytes
from model import GPT, GPT2, GPTConfig


def test_the_sizes_are_those_of_the_model() -> None:
    shape = dict(vocab_size=50304, block_size=1024, n_layer=12, n_head=12, n_embd=768)
    with torch.device("meta"):
        model = GPT(GPTConfig(**shape, **GPT2))
    sizes = Sizes.of(model)
    assert sizes.weights == 50304 * 768 + 1024 * 768 + sizes.in_blocks + 768  # the last norm
    assert sizes.in_matrices == 12 * 12 * 768**2
    assert Sizes.of(model, muon=False).in_matrices == 0


def test_one_rank_sends_nothing_and_several_send_what_a_ring_sends() -> None:
    sizes = Sizes(weights=100, in_blocks=80, in_matrices=60)
    for fsdp in (False, True):
        assert sent_bytes(sizes, 1, fsdp) == 0
    assert sent_bytes(sizes, 2, False) == (8 * 100 + 2 * 60) / 2
    assert sent_bytes(sizes, 2, True) == (4 * (2 * 100 + 80) + 2 * 2 * 60 / 2) / 2
    assert sent_bytes(sizes, 2, True, gloo=True) == sent_bytes(sizes, 2, True) + 4 * 100 / 2
    assert sent_bytes(sizes, 2, True) - sent_bytes(sizes, 2, True, block_bytes=2) == 2 * 2 * 80 / 2
    three_micro_batches = 3 * 4 * (2 * 100 + 80) + 2 * 2 * 60 / 4
    assert sent_bytes(sizes, 4, True, micro_batches=3) == 0.75 * three_micro_batches
    assert sent_bytes(sizes, 10**6, False) == pytest.approx(8 * 100 + 2 * 60, rel=1e-5)


# World size, layers, width, sharded: MB per rank and step, as they stand in docs/scaling.md.
HOSTS = [
    (2, 3, 128, False, 3.68),
    (2, 3, 128, True, 6.13),
    (2, 6, 384, False, 63.9),
    (2, 6, 384, True, 106.5),
    (4, 3, 128, False, 5.53),
    (4, 3, 128, True, 8.29),
    (4, 6, 384, False, 95.9),
]


@pytest.mark.parametrize(("ranks", "layers", "width", "fsdp", "megabytes"), HOSTS)
def test_hosts_with_a_slow_link_send_what_docs_scaling_says(
    ranks: int, layers: int, width: int, fsdp: bool, megabytes: float
) -> None:
    shape = GPTConfig(
        vocab_size=65, block_size=64, n_layer=layers, n_embd=width, n_head={128: 4, 384: 6}[width]
    )
    with torch.device("meta"):
        sizes = Sizes.of(GPT(shape))
    sent = sent_bytes(sizes, ranks, fsdp, muon_bytes=4, gloo=True)
    assert sent / 1e6 == pytest.approx(megabytes, rel=0.005)


# GPUs, sharded: GB per rank and step, as they stand in docs/scaling.md.
GPUS = [(8, False, 0.87), (8, True, 4.35), (64, False, 0.98), (64, True, 0.98)]


@pytest.mark.parametrize(("ranks", "fsdp", "gigabytes"), GPUS)
def test_gpus_that_train_gpt2_send_what_docs_scaling_says(
    ranks: int, fsdp: bool, gigabytes: float
) -> None:
    sizes = Sizes(weights=124_373_760, in_blocks=84_953_088, in_matrices=0)
    micro_batches = max(1, 40 // ranks)
    sent = sent_bytes(sizes, ranks, fsdp, micro_batches, block_bytes=2)
    assert sent / 1e9 == pytest.approx(gigabytes, abs=0.005)
