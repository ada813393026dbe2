"""The ranks of a training run and the collectives between them; one process alone works too.

Every rank runs the whole program on its micro-batches of each step. Rank 0 writes and prints.
"""

import contextlib
import io
import math
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from kqv.errors import MachineError, UserError
from kqv.machine.launching import Launch

T = TypeVar("T")
PREPARING = timedelta(days=7)  # the longest that machines wait while one prepares the text
POLL = 0.1  # seconds between two looks at whether local rank 0 is done


class Ranks:
    """This process among the ranks of its run."""

    def __init__(self, launch: Launch | None = None) -> None:
        self.launch = launch or Launch()
        self.rank, self.local_rank = self.launch.rank, self.launch.local_rank
        self.world_size, self.is_main = self.launch.world_size, self.launch.is_main
        self.patient: dist.ProcessGroup | None = None
        """all ranks, for waits longer than torch's timeout of half an hour"""

    def join(self, backend: str) -> None:
        """Connect to the other ranks. `backend` is auto, gloo or nccl.

        Raises UserError for a backend that this machine does not have, MachineError if the others
        cannot be reached.
        """
        if self.world_size == 1:
            return
        gpus = torch.cuda.device_count() if dist.is_nccl_available() else 0
        if backend == "nccl" and not gpus:
            raise UserError(
                "backend=nccl connects GPUs, and there are none: take --backend=gloo, or leave "
                "it out"
            )
        if self.local_rank < gpus:
            torch.cuda.set_device(self.local_rank)  # before anything is put on the first GPU
        if gpus and backend != "gloo":
            backend = "cpu:gloo,cuda:nccl"  # numbers need not go through the GPU
        try:
            # A prefix of its own, so that a restart does not find what was stored before it.
            whole = next(dist.rendezvous("env://"))[0]
            store = dist.PrefixStore(f"restart {self.launch.restarts}", whole)
            dist.init_process_group(
                backend.replace("auto", "gloo"),
                store=store,
                rank=self.rank,
                world_size=self.world_size,
            )
            self.launch.store = store
            self.patient = dist.new_group(backend="gloo", timeout=PREPARING)
        except (RuntimeError, ValueError) as error:
            raise MachineError(
                f"rank {self.rank} of {self.world_size} does not reach the others: {error}"
            ) from None

    def all_reduce(self, *numbers: float) -> list[float]:
        """Sum each number over all ranks."""
        if self.world_size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def broadcast(self, value: T) -> T:
        """The value that rank 0 has; any object that can be pickled."""
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, device=torch.device("cpu"))
        return values[0]

    def all_gather(self, value: T) -> list[T]:
        """The values of all ranks, in their order."""
        if self.world_size == 1:
            return [value]
        values = [value] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def local_main_first(self, action: Callable[[], T]) -> T:
        """Run `action`, such as preparing a text, on local rank 0 first, then on the other ranks.
        Returns its result. What it prints to stderr is printed once."""
        store = self.launch.store
        if store is None:
            return action()
        done = f"first on node {self.launch.node}"
        if self.local_rank:
            while not store.check([done]):  # store.wait would let no signal handler run
                time.sleep(POLL)
            with contextlib.redirect_stderr(io.StringIO()):
                result = action()
        else:
            result = action()
            store.set(done, "done")
        dist.barrier(self.patient)  # another machine may have more to do
        return result

    def micro_batches(self, windows: int, most: int) -> tuple[int, int]:
        """Micro-batches per rank for a global batch of `windows`, of at most `most` windows each;
        and the size of the largest.

        Raises UserError if there are too few windows for the ranks.
        """
        each = math.ceil(windows / (self.world_size * most))
        if windows < each * self.world_size:
            accumulated = math.ceil(windows / most)
            per_rank = math.ceil(accumulated / self.world_size)
            enough = math.ceil(per_rank * self.world_size / accumulated)
            raise UserError(
                f"a step of {windows} windows (batch_size × gradient_accumulation_steps) cannot be "
                f"shared by {self.world_size} processes: take --batch_size={enough}"
            )
        return each, math.ceil(windows / (self.world_size * each))

    def __str__(self) -> str:
        """What to put before the machine's name in a line for people."""
        return f"{self.world_size} processes on " if self.world_size > 1 else ""
