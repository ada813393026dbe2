"""What a user can rely on of processes that share the work: every part is done once, and none is done wrong."""

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

COUNT = 3
# Matrices, rows and columns: fewer matrices than processes, fewer rows, tall and wide ones, what does not divide.
SHAPES = [(1, 8, 4), (2, 4, 8), (3, 7, 5), (4, 2, 6), (5, 1, 3), (7, 9, 9)]


def several(count: int) -> Ranks:
    return Ranks(Launch(world_size=count))


@given(st.integers(1, 200), st.integers(1, 64), st.integers(1, 16))
def test_every_process_has_as_many_parts_and_each_part_has_a_window_and_not_too_many(
    windows: int, most: int, count: int
) -> None:
    too_few = windows < count or (
        most == 1 and windows % count > 0
    )  # one at a time must come out even
    try:
        each, largest = several(count).micro_batches(windows, most)
    except UserError:
        assert too_few
        return
    assert not too_few
    sizes = [
        (part + 1) * windows // (count * each) - part * windows // (count * each)
        for part in range(count * each)
    ]
    assert sum(sizes) == windows and min(sizes) >= 1 and max(sizes) == largest <= most


def test_windows_that_cannot_be_shared_are_refused_with_a_batch_size_that_can(
    refused: Callable,
) -> None:
    with refused("3 windows", "4 processes", "--batch_size=4"):
        several(4).micro_batches(3, 3)
    with refused("9 windows", "4 processes", "--batch_size=2"):
        several(4).micro_batches(9, 1)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 16))
def test_the_batch_size_that_is_advised_is_the_least_that_can_be_shared(
    batch: int, accumulated: int, count: int
) -> None:
    try:
        several(count).micro_batches(batch * accumulated, batch)
    except UserError as error:
        advised = int(str(error).rpartition("=")[2])
        several(count).micro_batches(advised * accumulated, advised)
        assert advised > batch
        with pytest.raises(UserError):
            several(count).micro_batches((advised - 1) * accumulated, advised - 1)


def test_the_command_that_goes_on_starts_as_many_processes_on_as_many_machines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = {
        "RANK": "0",
        "WORLD_SIZE": "16",
        "GROUP_WORLD_SIZE": "2",
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "29500",
    }
    for name, value in there.items():
        monkeypatch.setenv(name, value)
    command = Launch.from_environment().command("train.py", "--init_from=resume")
    assert (
        "--nnodes=2 --node_rank=0 --master_addr=10.0.0.1 --master_port=29500 --nproc_per_node=8"
        in command
    )
    monkeypatch.setenv("GROUP_WORLD_SIZE", "1")
    assert "--standalone --nproc_per_node=16" in Launch.from_environment().command(
        "train.py", "--init_from=resume"
    )


def test_one_process_is_alone_with_its_numbers() -> None:
    ranks = Ranks()
    assert ranks.is_main and ranks.all_reduce(1.5, 2) == [1.5, 2] and ranks.broadcast("a") == "a"
    assert (
        ranks.local_main_first(lambda: 7) == 7
        and ranks.micro_batches(96, 12) == (8, 12)
        and str(ranks) == ""
    )


def test_a_machine_waits_for_another_that_prepares_for_longer_than_torch_waits() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(prepare_for_long, (port,), nprocs=2)


def prepare_for_long(rank: int, port: int) -> None:
    """What the only process of each machine does."""
    os.environ |= {
        "RANK": str(rank),
        "GROUP_RANK": str(rank),
        "WORLD_SIZE": "2",
        "GROUP_WORLD_SIZE": "2",
    }
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group = functools.partial(
        dist.init_process_group, timeout=timedelta(seconds=2)
    )  # not half an hour
    ranks = Ranks(Launch.from_environment())
    ranks.join("auto")
    ranks.local_main_first(lambda: time.sleep(4 * rank))
    assert ranks.all_reduce(1) == [2]


def test_matrices_that_processes_share_come_out_as_those_of_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(orthogonalize_together, (str(tmp_path / "store"),), nprocs=COUNT)


def orthogonalize_together(rank: int, store: str) -> None:
    """What each process does: compare the divided and the sharded way with the plain one."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, COUNT), rank=rank, world_size=COUNT)
    for (matrices, rows, columns), dtype in itertools.product(
        SHAPES, (torch.float32, torch.bfloat16)
    ):
        whole = torch.randn(matrices, rows, columns, generator=torch.Generator().manual_seed(rows))
        expected = orthogonalize(whole, dtype)
        exact = dict(atol=1e-5, rtol=0) if dtype == torch.float32 else dict(atol=0.03, rtol=0)
        torch.testing.assert_close(
            orthogonalize_divided(whole, dtype, rank, COUNT), expected, **exact
        )
        most = math.ceil(rows / COUNT)
        own = slice(
            rank * most, (rank + 1) * most
        )  # as torch.chunk cuts: the last may have few rows, or none
        torch.testing.assert_close(
            orthogonalize_sharded(whole[:, own], dtype, COUNT, rows), expected[:, own], **exact
        )
    dist.destroy_process_group()


@pytest.mark.parametrize(
    "environment, part",
    [({"LOCAL_RANK": "x"}, "LOCAL_RANK=x"), ({"RANK": "1"}, "RANK=1"), ({"WORLD_SIZE": "-1"}, "WORLD_SIZE=-1"),
     ({"WORLD_SIZE": "9" * 5000}, "WORLD_SIZE=999"), ({"RANK": ""}, "RANK= ")],
)  # fmt: skip
def test_what_torchrun_would_not_put_into_the_environment_is_refused(
    environment: dict[str, str], part: str, monkeypatch: pytest.MonkeyPatch, refused: Callable
) -> None:
    monkeypatch.setenv("RANK", "0")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with refused(part, "unset RANK"):
        Launch.from_environment()
