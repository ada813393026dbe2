"""How a training run of several processes is launched by torchrun, and how it fails as one.

    torchrun --standalone --nproc_per_node=4 train.py

torchrun starts the same program several times and tells each process its rank through environment
variables. Nothing here imports torch: the options of a command are checked before that.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from kqv.errors import MachineError, UserError
from kqv.project import shell_command

if TYPE_CHECKING:
    from torch.distributed import Store

LINGER = 3.0  # seconds a silent rank waits before it exits, so that another can report the error


@dataclass
class Launch:
    """This process's place among those that torchrun started; the defaults are a process alone."""

    rank: int = 0
    local_rank: int = 0
    """rank among the processes of this machine"""
    world_size: int = 1
    node: int = 0
    nodes: int = 1
    """number of machines"""
    restarts: int = 0
    """how often torchrun has restarted the processes (--max-restarts)"""
    id: str = ""
    """id of this torchrun launch; restarts keep it"""
    store: Optional["Store"] = None
    """the ranks' key-value store, once they have joined; an error is reported through it once"""

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes and prints."""
        return self.rank == 0

    @classmethod
    def from_environment(cls) -> "Launch":
        """Read torchrun's environment variables. Raises UserError if they contradict each other."""
        environment = os.environ if "RANK" in os.environ else {}
        run = environment.get("TORCHELASTIC_RUN_ID", "none")
        launch = cls(
            rank=_number(environment, "RANK", 0),
            local_rank=_number(environment, "LOCAL_RANK", 0),
            world_size=_number(environment, "WORLD_SIZE", 1),
            node=_number(environment, "GROUP_RANK", 0),
            nodes=_number(environment, "GROUP_WORLD_SIZE", 1),
            restarts=_number(environment, "TORCHELASTIC_RESTART_COUNT", 0),
            id=run if run != "none" else _parent(),
        )
        in_range = launch.local_rank <= launch.rank < launch.world_size
        if not in_range or launch.nodes > launch.world_size:
            raise UserError(
                f"the environment has RANK={launch.rank}, LOCAL_RANK={launch.local_rank}, "
                f"WORLD_SIZE={launch.world_size}, which do not fit together: start several "
                f"processes with torchrun, or one after: unset RANK LOCAL_RANK WORLD_SIZE"
            )
        return launch

    def command(self, script: str, *options: str) -> str:
        """The command that runs a script with as many ranks; of several machines, on the first."""
        return shell_command(script, *options, launcher=torchrun(self.world_size, self.nodes))


def torchrun(world_size: int, nodes: int = 1) -> list[str]:
    """Arguments for Python that start a script with `world_size` ranks on one machine, or on the
    first of several that torchrun has connected; [] for one rank."""
    if world_size == 1:
        return []
    address = ["--standalone"]
    if nodes > 1:
        address = [f"--nnodes={nodes}", "--node_rank=0"]
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            if name in os.environ:
                address.append(f"--{name.lower()}={os.environ[name]}")
    return ["-m", "torch.distributed.run", *address, f"--nproc_per_node={world_size // nodes}"]


@contextmanager
def one_error(launch: Launch) -> Iterator[None]:
    """Let only one rank report what ends the run; the others exit with its status in silence."""
    try:
        yield
    except SystemExit:
        raise
    except BaseException as error:
        if launch.world_size == 1 or _reports(launch):
            raise
        if launch.store is None:
            time.sleep(LINGER)  # torchrun kills all ranks as soon as one has exited
        raise SystemExit(2 if isinstance(error, UserError) else 1) from None


@contextmanager
def lost_ranks(hint: str) -> Iterator[None]:
    """Turn a lost connection to another rank into a MachineError that ends with `hint`."""
    try:
        yield
    except RuntimeError as error:
        if trouble := _connection_trouble(error):
            raise MachineError(f"{trouble}; {hint}") from None
        raise


def _reports(launch: Launch) -> bool:
    """Whether no other rank has reported. Before the ranks have joined, all would fail alike, and
    local rank 0 reports."""
    if launch.store is None:
        return launch.local_rank == 0
    try:
        return launch.store.add("reported", 1) == 1
    except RuntimeError:  # the store was in a process that has exited
        return True


def _connection_trouble(error: RuntimeError) -> str:
    """What an error of gloo or nccl means; "" for any other error."""
    text = str(error)
    if not any(name in text for name in ("gloo/transport", "NCCL", "by peer")):
        return ""
    if "NCCL" in text and "remote" not in text:  # of this process: its GPU, its memory, its network
        return f"the GPUs of this run do not reach each other ({' '.join(text.split())[:200]})"
    if "Timed out" in text:
        return "another process of this run does not answer, and the run has ended"
    return "another process of this run has ended, and the run with it"


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    """The number in one of torchrun's variables. Raises UserError if it holds anything else."""
    text = environment.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise UserError(
            f"{name}={text[:50]} in the environment is no number of torchrun's: unset RANK {name}"
        )
    return int(text)


def _parent() -> str:
    """The parent process by its number and start time, which together are unique."""
    number = os.getppid()
    try:
        return f"{number} {Path(f'/proc/{number}/stat').read_text().rpartition(')')[2].split()[19]}"
    except OSError:  # not on Linux
        return str(number)
