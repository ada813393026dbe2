"""The arithmetic of docs/scaling.md."""

import re

import pytest
import torch

from kqv.project import ROOT
from kqv.training.communication import Sizes, sent_bytes, step_seconds
from model import GPT, GPT2, GPTConfig

STORY = (ROOT / "docs" / "scaling.md").read_text()


def test_sizes_are_those_of_the_model() -> None:
    with torch.device("meta"):
        model = GPT(
            GPTConfig(vocab_size=50304, block_size=1024, n_layer=12, n_head=12, n_embd=768, **GPT2)
        )
    sizes = Sizes.of(model)
    assert sizes.weights == 50304 * 768 + 1024 * 768 + sizes.in_blocks + 768  # the last norm
    assert sizes.in_matrices == 12 * 12 * 768**2
    assert Sizes.of(model, muon=False).in_matrices == 0


def test_one_process_sends_nothing_and_many_send_what_a_ring_does() -> None:
    sizes = Sizes(weights=100, in_blocks=80, in_matrices=60)
    for fsdp in (False, True):
        assert sent_bytes(sizes, 1, fsdp) == 0
    assert sent_bytes(sizes, 2, False) == (8 * 100 + 2 * 60) / 2
    assert sent_bytes(sizes, 2, True) == (4 * (2 * 100 + 80) + 2 * 2 * 60 / 2) / 2
    assert sent_bytes(sizes, 2, True, gloo=True) == sent_bytes(sizes, 2, True) + 4 * 100 / 2
    assert sent_bytes(sizes, 2, True) - sent_bytes(sizes, 2, True, block_bytes=2) == 2 * 2 * 80 / 2
    assert sent_bytes(sizes, 4, True, micro_batches=3) == 0.75 * (
        3 * 4 * (2 * 100 + 80) + 2 * 2 * 60 / 4
    )
    assert sent_bytes(sizes, 10**6, False) == pytest.approx(8 * 100 + 2 * 60, rel=1e-5)


def test_sending_costs_what_does_not_hide_behind_computing() -> None:
    assert step_seconds(8.0, 8, sent=1e9, bandwidth=1e9) == 2.0
    assert step_seconds(8.0, 8, sent=1e9, bandwidth=1e9, hidden=0.5) == 1.5
    assert step_seconds(8.0, 8, sent=1e8, bandwidth=1e9, hidden=0.5) == 1.0


HOSTS = re.findall(r"^\| (\d) hosts, (\d) × (\d+) \| (\w+) \| (.*) \|$", STORY, re.MULTILINE)


@pytest.mark.parametrize("row", HOSTS, ids=lambda row: " ".join(row[:4]))
def test_what_is_said_of_slow_links_is_what_the_arithmetic_says(row: tuple[str, ...]) -> None:
    hosts, layers, width, kind, rest = row
    megabytes, alone, *said_and_measured = (
        cell.strip().replace(",", "") for cell in rest.split("|")
    )
    shape = dict(
        n_layer=int(layers), n_embd=int(width), n_head=4 if width == "128" else 6, block_size=64
    )
    sizes = Sizes.of(GPT(GPTConfig(vocab_size=65, **shape)))
    sent = sent_bytes(sizes, int(hosts), kind == "sharded", muon_bytes=4, gloo=True)
    assert float(megabytes) == pytest.approx(sent / 1e6, rel=0.005)
    for link, said in zip((119.6e6, 11.9e6), said_and_measured[::2], strict=True):
        if said:
            assert int(said) == pytest.approx(
                1e3 * step_seconds(int(alone) / 1e3, 1, sent, link), abs=2
            )


ROWS = re.findall(r"^\| (\d+), ([\d.]+) GB/s \| (.*) \|$", STORY, re.MULTILINE)


def test_no_row_of_the_table_is_passed_over() -> None:
    assert len(ROWS) == len(re.findall(r"^\| *\d+,", STORY, re.MULTILINE))
    assert len(HOSTS) == STORY.count("\n| 2 hosts") + STORY.count("\n| 4 hosts")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(row[:2]))
def test_the_table_of_docs_scaling_is_what_the_arithmetic_says(row: tuple[str, str, str]) -> None:
    count, link, rest = row
    kind, gigabytes, milliseconds, plain, hidden = rest.split(" | ")
    processes, fsdp = int(count), kind == "sharded"
    sizes, alone = Sizes(124_373_760, 84_953_088, in_matrices=0), 8 * 4 * 86_400 / 600_000
    micro_batches = max(1, 40 // processes)
    sent, bandwidth = (
        sent_bytes(sizes, processes, fsdp, micro_batches, block_bytes=2),
        float(link) * 1e9,
    )
    assert f"{sent / 1e9:.2f}" == gigabytes and f"{1e3 * sent / bandwidth:.0f}" == milliseconds
    for share, said in ((0.0, plain), (1.0 if fsdp else 2 / 3 / micro_batches, hidden)):
        seconds = step_seconds(alone, processes, sent, bandwidth, share)
        assert f"{100 * alone / processes / seconds:.1f} %" == said
