"""The processes that train one model together, as torchrun starts them, and what they say to each other.

    torchrun --standalone --nproc_per_node=4 train.py

Each process, a rank, runs the whole program on its share of every batch. Data parallelism (Li et al. 2020): all have all
weights, and average their gradients. Sharded (ZeRO-3, Rajbhandari et al. 2020; here PyTorch's FSDP2): each keeps its share of
weights, gradients and moments, and they are gathered for one block at a time.

The first rank writes and prints. What ends a run is said once, by whichever rank meets it first.
"""

import contextlib
import io
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kqv.arguments import shell_command
from kqv.errors import MachineError, UserError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup, Store

    from kqv.hardware import Machine
    from model import GPT

T = TypeVar("T")
LINGER = 3.0  # seconds that a process with nothing to say stays, so that another can speak
PREPARING = timedelta(days=7)  # the longest that a process waits for another's preparation of the text


class Processes:
    """This process among those of the run; alone if torchrun did not start it. Use it as a context."""

    def __init__(self) -> None:
        """Reads what torchrun left in the environment. Imports nothing. Raises UserError if it makes no sense."""
        environment = os.environ if "RANK" in os.environ else {}
        self.rank = _number(environment, "RANK", 0)
        self.local_rank = _number(environment, "LOCAL_RANK", 0)
        self.node = _number(environment, "GROUP_RANK", 0)
        self.count = _number(environment, "WORLD_SIZE", 1)
        self.nodes = _number(environment, "GROUP_WORLD_SIZE", 1)
        self.restarts = _number(environment, "TORCHELASTIC_RESTART_COUNT", 0)
        if not (self.local_rank <= self.rank < self.count and self.nodes <= self.count):
            raise UserError(
                f"the environment has RANK={self.rank}, LOCAL_RANK={self.local_rank}, WORLD_SIZE={self.count}, which do not "
                f"fit together: start several processes with torchrun, or one after: unset RANK LOCAL_RANK WORLD_SIZE"
            )
        run = environment.get("TORCHELASTIC_RUN_ID", "none")
        self.launch = run if run != "none" else _parent()
        """what the processes that one torchrun starts, again and again, have in common, and others have not"""
        self.store: Store | None = None
        self.patient: ProcessGroup | None = None
        """all processes, for what may take longer than torch waits for them (half an hour)"""
        self.kept = ""
        """what there is to go on from if the run ends now"""

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def join(self, backend: str) -> None:
        """Meet the others. Raises UserError for a `backend` that is not there, MachineError if the others do not come."""
        if self.count == 1:
            return
        import torch
        import torch.distributed as dist

        gpus = torch.cuda.device_count() if dist.is_nccl_available() else 0
        if backend == "nccl" and not gpus:
            raise UserError("backend=nccl connects GPUs, and there are none: take --backend=gloo, or leave it out")
        if self.local_rank < gpus:
            torch.cuda.set_device(self.local_rank)  # before anything of this process is put on the first one
        if gpus and backend != "gloo":
            backend = "cpu:gloo,cuda:nccl"  # small numbers need not go through the GPU
        try:
            # What the processes before a restart have left in the store must not be found.
            self.store = dist.PrefixStore(f"restart {self.restarts}", next(dist.rendezvous("env://"))[0])
            dist.init_process_group(backend.replace("auto", "gloo"), store=self.store, rank=self.rank, world_size=self.count)
            self.patient = dist.new_group(backend="gloo", timeout=PREPARING)
        except (RuntimeError, ValueError) as error:
            raise MachineError(f"rank {self.rank} of {self.count} does not reach the others: {error}") from None

    def parts(self, windows: int, most: int) -> tuple[int, int]:
        """In how many parts each process computes its share of a step of so many windows, at `most` so many at a time; and how
        many the largest part has.

        Raises UserError if there are too few to share.
        """
        each = math.ceil(windows / (self.count * most))
        if windows < each * self.count:
            accumulated = math.ceil(windows / most)
            enough = math.ceil(math.ceil(accumulated / self.count) * self.count / accumulated)
            raise UserError(
                f"a step of {windows} windows (batch_size × gradient_accumulation_steps) cannot be shared by {self.count} "
                f"processes: take --batch_size={enough}"
            )
        return each, math.ceil(windows / (self.count * each))

    def sum(self, *numbers: float) -> list[float]:
        """Of each number the sum over all processes, the same in each."""
        if self.store is None:
            return list(numbers)
        import torch
        import torch.distributed as dist

        total = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def share(self, value: T) -> T:
        """The value that the first process has."""
        if self.store is None:
            return value
        import torch
        import torch.distributed as dist

        values = [value]
        dist.broadcast_object_list(values, device=torch.device("cpu"))
        return values[0]

    def one_first(self, action: Callable[[], T]) -> T:
        """What an action gives that one process of each machine does before its others do, such as preparing a text."""
        if self.store is None:
            return action()
        import torch.distributed as dist

        place = f"one first {self.node}"
        if self.local_rank:
            self.store.wait([place], PREPARING)
            with contextlib.redirect_stderr(io.StringIO()):  # what there is to say has been said
                result = action()
        else:
            result = action()
            self.store.set(place, "done")
        dist.barrier(self.patient)  # another machine may have more to do
        return result

    def shard(self, model: "GPT", machine: "Machine") -> None:
        """Leave to this process its share of a model's weights, and gather the others' of one block while it computes."""
        import torch
        import torch.distributed as dist
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        if machine.dtype == torch.float16:
            raise UserError("fsdp does not scale gradients, which float16 needs: take --dtype=bfloat16 or --dtype=float32")
        if self.store is None:  # a sharded run can go on in one process
            self.store = dist.HashStore()
            backend = "gloo" if machine.device.type == "cpu" else "cpu:gloo,cuda:nccl"
            dist.init_process_group(backend, store=self.store, rank=0, world_size=1)
        mesh = dist.init_device_mesh(machine.device.type, (self.count,))
        # Weights travel in the precision of the products: autocast would keep a short copy of all of them for the backward
        # pass, whole in each process. What norms multiply with stays exact, and gradients are added up in float32.
        short = MixedPrecisionPolicy(machine.dtype, torch.float32, cast_forward_inputs=False)
        for block in model.blocks:
            fully_shard([norm for name, norm in block.named_modules() if name.endswith("_norm")], mesh=mesh)
            fully_shard(block, mesh=mesh, mp_policy=short)
        fully_shard(model, mesh=mesh)

    def average(self, forward: Callable[..., Any], machine: "Machine") -> Callable[..., Any]:
        """A model whose gradients are averaged over the processes as they are computed."""
        if self.count == 1:
            return forward
        from torch.nn.parallel import DistributedDataParallel

        device_ids = [machine.device] if machine.device.type == "cuda" else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # from torch 2.13 on broadcast_buffers is to get another name
            return DistributedDataParallel(forward, device_ids, broadcast_buffers=False, gradient_as_bucket_view=True)

    def adding_up(self, forward: Callable[..., Any], last: bool) -> contextlib.AbstractContextManager[Any]:
        """A context for one part of a batch: gradients are averaged with the last, and until then added up by each process.
        (Sharded ones are averaged each time, for to keep them whole is what their process has no room for.)"""
        return contextlib.nullcontext() if last or not hasattr(forward, "no_sync") else forward.no_sync()

    def gathered(self, model: "GPT") -> "GPT":
        """A copy of a sharded model with all its weights, on the CPU of the first process; elsewhere the model itself."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        from model import GPT

        weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if not self.first:
            return model
        copy = GPT(model.config)
        copy.load_state_dict(weights)
        return copy

    def command(self, script: str, *options: str) -> str:
        """A command line that starts a script in as many processes as there are; of several machines that of the first."""
        return shell_command(script, *options, launcher=torchrun(self.count, self.nodes))

    def __str__(self) -> str:
        return f"{self.count} processes on " if self.count > 1 else ""

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """A run of several processes ends as one. That another has gone is told in a line, and nothing is told twice."""
        if self.count == 1 or error is None or isinstance(error, SystemExit):
            return
        if trouble := _connection_trouble(error):
            error = MachineError(f"{trouble}; {self.kept or 'start it again'}")
        if not self._speaks():
            if self.store is None:
                time.sleep(LINGER)  # torchrun ends all as soon as one has ended
            raise SystemExit(2 if isinstance(error, UserError) else 1)
        raise error

    def _speaks(self) -> bool:
        """Whether no other process has spoken. Before they have met, one a machine does: all would say the same."""
        if self.store is None:
            return self.local_rank == 0
        try:
            return self.store.add("spoken", 1) == 1
        except RuntimeError:  # the store has gone with the process that kept it
            return True


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    """The number that torchrun puts into a variable. Raises UserError if something else is there."""
    text = environment.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise UserError(f"{name}={text[:50]} in the environment is no number of torchrun's: unset RANK {name}")
    return int(text)


def torchrun(count: int, nodes: int = 1) -> list[str]:
    """What Python has to start, to start a script in so many processes on one machine, or on the first of several that
    torchrun has connected; nothing for one process."""
    address = ["--standalone"]
    if nodes > 1:
        address = [f"--nnodes={nodes}", "--node_rank=0"]
        address += [f"--{name.lower()}={os.environ[name]}" for name in ("MASTER_ADDR", "MASTER_PORT") if name in os.environ]
    return ["-m", "torch.distributed.run", *address, f"--nproc_per_node={count // nodes}"] if count > 1 else []


def _parent() -> str:
    """The process that started this one, told from all others of this machine: its number, and when it began."""
    number = os.getppid()
    try:
        return f"{number} {Path(f'/proc/{number}/stat').read_text().rpartition(')')[2].split()[19]}"
    except OSError:  # not on Linux
        return str(number)


def _connection_trouble(error: BaseException) -> str | None:
    """What an error of the libraries that connect the processes means; None for any other."""
    text = str(error)
    if not isinstance(error, RuntimeError) or not any(name in text for name in ("gloo/transport", "NCCL", "by peer")):
        return None
    if "NCCL" in text and "remote" not in text:  # of this process: its GPU, its memory, its network
        return f"the GPUs of this run do not reach each other ({' '.join(text.split())[:200]})"
    if "Timed out" in text:
        return "another process of this run does not answer, and the run has ended"
    return "another process of this run has ended, and the run with it"


def local(tensor: "Tensor") -> "Tensor":
    """The part of a tensor that this process holds; of one that is not sharded, all of it."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def as_number(tensor: "Tensor") -> float:
    """What a tensor of one number holds, which may be spread over the processes."""
    return float(getattr(tensor, "full_tensor", lambda: tensor)())
