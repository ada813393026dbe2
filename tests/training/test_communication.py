"""The arithmetic of docs/scaling.md."""

import re

import pytest
import torch

from kqv.project import ROOT
from kqv.training.communication import Sizes, sent_bytes, step_seconds
from model import GPT, GPT2, GPTConfig

PAGE = (ROOT / "docs" / "scaling.md").read_text()


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


def test_only_sending_that_is_not_overlapped_with_computing_costs_time() -> None:
    assert step_seconds(8.0, 8, sent=1e9, bandwidth=1e9) == 2.0
    assert step_seconds(8.0, 8, sent=1e9, bandwidth=1e9, overlap=0.5) == 1.5
    assert step_seconds(8.0, 8, sent=1e8, bandwidth=1e9, overlap=0.5) == 1.0


HOSTS = re.findall(r"^\| (\d) hosts, (\d) × (\d+) \| (\w+) \| (.*) \|$", PAGE, re.MULTILINE)
LINKS = (119.6e6, 11.9e6)  # bytes/s, in the order of the table's columns


@pytest.mark.parametrize("row", HOSTS, ids=lambda row: " ".join(row[:4]))
def test_the_table_of_slow_links_in_docs_scaling_is_what_the_arithmetic_says(
    row: tuple[str, ...],
) -> None:
    hosts, layers, width, kind, rest = row
    cells = [cell.strip().replace(",", "") for cell in rest.split("|")]
    megabytes, alone, *computed_and_measured = cells
    heads = 4 if width == "128" else 6
    shape = dict(n_layer=int(layers), n_embd=int(width), n_head=heads, block_size=64)
    sizes = Sizes.of(GPT(GPTConfig(vocab_size=65, **shape)))
    sent = sent_bytes(sizes, int(hosts), kind == "sharded", muon_bytes=4, gloo=True)
    assert float(megabytes) == pytest.approx(sent / 1e6, rel=0.005)
    for bandwidth, milliseconds in zip(LINKS, computed_and_measured[::2], strict=True):
        if milliseconds:
            expected = 1e3 * step_seconds(int(alone) / 1e3, 1, sent, bandwidth)
            assert int(milliseconds) == pytest.approx(expected, abs=2)


ROWS = re.findall(r"^\| (\d+), ([\d.]+) GB/s \| (.*) \|$", PAGE, re.MULTILINE)


def test_every_row_of_the_two_tables_is_checked() -> None:
    assert len(ROWS) == len(re.findall(r"^\| *\d+,", PAGE, re.MULTILINE))
    assert len(HOSTS) == PAGE.count("\n| 2 hosts") + PAGE.count("\n| 4 hosts")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(row[:2]))
def test_the_table_of_docs_scaling_is_what_the_arithmetic_says(row: tuple[str, str, str]) -> None:
    count, link, rest = row
    kind, gigabytes, milliseconds, without_overlap, with_overlap = rest.split(" | ")
    world_size, fsdp, bandwidth = int(count), kind == "sharded", float(link) * 1e9
    sizes, alone = Sizes(124_373_760, 84_953_088, in_matrices=0), 8 * 4 * 86_400 / 600_000
    micro_batches = max(1, 40 // world_size)
    sent = sent_bytes(sizes, world_size, fsdp, micro_batches, block_bytes=2)
    assert f"{sent / 1e9:.2f}" == gigabytes
    assert f"{1e3 * sent / bandwidth:.0f}" == milliseconds
    # DDP sends during the backward pass, two thirds of the computing, of the last micro-batch
    overlap = 1.0 if fsdp else 2 / 3 / micro_batches
    for share, efficiency in ((0.0, without_overlap), (overlap, with_overlap)):
        seconds = step_seconds(alone, world_size, sent, bandwidth, share)
        assert f"{100 * alone / world_size / seconds:.1f} %" == efficiency
