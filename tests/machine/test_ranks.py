"""Ranks share the windows of a step and Muon's matrices, and get what one process would get."""

import functools
import itertools
import math
import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from hypothesis import given
from hypothesis import strategies as st

from kqv.errors import UserError
from kqv.machine.launching import Launch
from kqv.machine.ranks import Ranks
from kqv.training.optimizers import orthogonalize, orthogonalize_divided, orthogonalize_sharded

WORLD_SIZE = 3
# (matrices, rows, columns): fewer matrices or rows than ranks, tall and wide matrices, and numbers
# that the world size does not divide.
SHAPES = [(1, 8, 4), (2, 4, 8), (3, 7, 5), (4, 2, 6), (5, 1, 3), (7, 9, 9)]


def ranks_of(world_size: int) -> Ranks:
    return Ranks(Launch(world_size=world_size))


@given(st.integers(1, 200), st.integers(1, 64), st.integers(1, 16))
def test_each_rank_has_as_many_micro_batches_of_at_least_one_window_and_at_most_so_many(
    windows: int, most: int, world_size: int
) -> None:
    # micro-batches of one window must come out even
    too_few = windows < world_size or (most == 1 and windows % world_size > 0)
    try:
        each, largest = ranks_of(world_size).micro_batches(windows, most)
    except UserError:
        assert too_few
        return
    assert not too_few
    parts = world_size * each
    ends = [part * windows // parts for part in range(parts + 1)]
    sizes = [end - start for start, end in itertools.pairwise(ends)]
    assert sum(sizes) == windows
    assert min(sizes) >= 1
    assert max(sizes) == largest <= most


def test_windows_that_the_ranks_cannot_share_are_refused_with_a_batch_size_that_works(
    refused: Callable,
) -> None:
    with refused("3 windows", "4 processes", "--batch_size=4"):
        ranks_of(4).micro_batches(3, 3)
    with refused("9 windows", "4 processes", "--batch_size=2"):
        ranks_of(4).micro_batches(9, 1)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 16))
def test_the_suggested_batch_size_is_the_smallest_that_works(
    batch: int, accumulated: int, world_size: int
) -> None:
    try:
        ranks_of(world_size).micro_batches(batch * accumulated, batch)
    except UserError as error:
        suggested = int(str(error).rpartition("=")[2])
        ranks_of(world_size).micro_batches(suggested * accumulated, suggested)
        assert suggested > batch
        with pytest.raises(UserError):
            ranks_of(world_size).micro_batches((suggested - 1) * accumulated, suggested - 1)


def test_the_command_to_resume_starts_as_many_ranks_on_as_many_machines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "16")
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    command = Launch.from_environment().command("train.py", "--init_from=resume")
    address = "--master_addr=10.0.0.1 --master_port=29500"
    assert f"--nnodes=2 --node_rank=0 {address} --nproc_per_node=8" in command
    monkeypatch.setenv("GROUP_WORLD_SIZE", "1")
    command = Launch.from_environment().command("train.py", "--init_from=resume")
    assert "--standalone --nproc_per_node=16" in command


def test_the_collectives_of_one_process_return_its_own_values() -> None:
    ranks = Ranks()
    assert ranks.is_main
    assert ranks.all_reduce(1.5, 2) == [1.5, 2]
    assert ranks.broadcast("a") == "a"
    assert ranks.all_gather("a") == ["a"]
    assert ranks.local_main_first(lambda: 7) == 7
    assert ranks.micro_batches(96, 12) == (8, 12)
    assert str(ranks) == ""


@pytest.mark.slow
def test_a_machine_waits_for_another_that_prepares_longer_than_torchs_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(prepare_for_long, (port,), nprocs=2)


def prepare_for_long(rank: int, port: int) -> None:
    """What the only process of each machine does."""
    os.environ |= {"RANK": str(rank), "GROUP_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    # torch's timeout is half an hour
    short = functools.partial(dist.init_process_group, timeout=timedelta(seconds=2))
    dist.init_process_group = short
    ranks = Ranks(Launch.from_environment())
    ranks.join("auto")
    ranks.local_main_first(lambda: time.sleep(4 * rank))
    assert ranks.all_reduce(1) == [2]


@pytest.mark.slow
def test_matrices_that_ranks_share_are_orthogonalized_as_by_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(
        orthogonalize_together, (str(tmp_path / "store"),), nprocs=WORLD_SIZE
    )


def orthogonalize_together(rank: int, store: str) -> None:
    """What each rank does: compare the divided and the sharded way with the plain one."""
    torch.set_num_threads(1)
    file_store = dist.FileStore(store, WORLD_SIZE)
    dist.init_process_group("gloo", store=file_store, rank=rank, world_size=WORLD_SIZE)
    dtypes = (torch.float32, torch.bfloat16)
    for (matrices, rows, columns), dtype in itertools.product(SHAPES, dtypes):
        whole = torch.randn(matrices, rows, columns, generator=torch.Generator().manual_seed(rows))
        expected = orthogonalize(whole, dtype)
        tolerance = {"atol": 1e-5 if dtype == torch.float32 else 0.03, "rtol": 0}
        divided = orthogonalize_divided(whole, dtype, rank, WORLD_SIZE)
        torch.testing.assert_close(divided, expected, **tolerance)
        # as torch.chunk cuts: the last ranks may have few rows, or none
        most = math.ceil(rows / WORLD_SIZE)
        own = slice(rank * most, (rank + 1) * most)
        sharded = orthogonalize_sharded(whole[:, own], dtype, WORLD_SIZE, rows)
        torch.testing.assert_close(sharded, expected[:, own], **tolerance)
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("LOCAL_RANK", "x", "LOCAL_RANK=x"),
        ("RANK", "1", "RANK=1"),
        ("RANK", "", "RANK= "),
        ("WORLD_SIZE", "-1", "WORLD_SIZE=-1"),
        ("WORLD_SIZE", "9" * 5000, "WORLD_SIZE=999"),
    ],
    ids=lambda value: value[:20],
)
def test_an_environment_that_torchrun_would_not_make_is_refused(
    name: str, value: str, part: str, monkeypatch: pytest.MonkeyPatch, refused: Callable
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv(name, value)
    with refused(part, "unset RANK"):
        Launch.from_environment()
