"""The machine: device, precision, compilation, memory."""

import ctypes
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from kqv.efficient import pays_to_slide
from kqv.errors import UserError
from kqv.kernels import positions_at_once
from kqv.machine.parameters import count_parameters
from kqv.machine.ranks import Ranks
from kqv.options.settings import MachineSettings, TrainSettings
from model import GPT, GPTConfig

# Up to this block_size, on a CPU in bfloat16, attention as it is written (plain matrix products) is
# faster than the fused kernel, whose backward pass on a CPU is slow (figures in docs/log.md).
WRITTEN_ATTENTION_UP_TO = 512

# Values of ONEDNN_MAX_CPU_ISA with AVX-512 but without its bfloat16 instructions.
WITHOUT_BFLOAT16 = ("AVX512_CORE", "AVX512_CORE_VNNI")


@dataclass
class Machine:
    """A device and the precision to compute in."""

    device: torch.device
    dtype: torch.dtype
    compile: bool
    fast_bfloat16: bool
    """whether bfloat16 products are faster here than float32 ones"""

    def autocast(self) -> AbstractContextManager[Any]:
        """A context in which matrix products compute in `dtype`; weights stay in float32."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    @property
    def muon_dtype(self) -> torch.dtype:
        """The precision of Muon's products. With --dtype=float32 they are as exact as all others:
        runs agree to 1e-6 whatever the world size."""
        short = self.fast_bfloat16 and self.dtype != torch.float32
        return torch.bfloat16 if short else torch.float32

    def prepare(self, model: GPT) -> Callable[..., Any]:
        """Move a model here and choose its attention for training. Returns what to call: the model,
        compiled or not."""
        if self.compile:
            check_compiler(self.device)
        here = torch.empty(0, device=self.device).device
        if next(model.parameters()).device != here:  # tensors without numbers cannot be moved
            model.to(here)
        if self.device.type == "cpu":
            _keep_freed_memory()
        self.choose_attention(model)
        return torch.compile(model) if self.compile else model

    def choose_attention(self, model: GPT) -> None:
        """Choose the body of attention that is faster here: the fused kernel, or the formula."""
        config = model.config
        short = self.dtype == torch.bfloat16 and config.block_size <= WRITTEN_ATTENTION_UP_TO
        written = self.device.type == "cpu" and short and config.attention_score == "dot"
        model.fuse_attention(not written or pays_to_slide(config, config.block_size))

    @property
    def threads(self) -> int:
        """Threads of a CPU that compute; 0 on other devices."""
        return torch.get_num_threads() if self.device.type == "cpu" else 0

    def __str__(self) -> str:
        parts = [self.device.type]
        if self.device.type == "cuda":
            parts = [torch.cuda.get_device_name(self.device)]
        if self.threads:
            parts.append(f"{self.threads} threads")
        parts.append(str(self.dtype).removeprefix("torch."))
        if self.compile:
            parts.append("compiled")
        return ", ".join(parts)


def choose_machine(settings: MachineSettings, local_rank: int | None = None) -> Machine:
    """The machine that the settings ask for, with `auto` resolved. Of several ranks each takes the
    GPU with its local rank.

    Raises UserError for a device that is not there or cannot be shared by ranks. `auto` takes a GPU
    if there is one; bfloat16 where its products are fast, and float16 on GPUs that have nothing
    else that is short.
    """
    device = _choose_device(settings, local_rank)
    if settings.dtype == "int8" and device.type != "cpu":
        raise UserError(
            f"dtype=int8 is for a CPU: take --dtype=bfloat16 on {device}, or --device=cpu"
        )
    fast_bfloat16 = _has_fast_bfloat16(device)
    dtype = torch.float32
    if settings.dtype != "auto":
        dtype = getattr(torch, settings.dtype)
    elif fast_bfloat16:
        dtype = torch.bfloat16
    elif device.type == "cuda":
        dtype = torch.float16
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as nanoGPT allows
        if device.index is not None:
            torch.cuda.set_device(device)  # collectives use the current device
    compiled = can_compile(device) if settings.compile == "auto" else settings.compile
    return Machine(device, dtype, compiled, fast_bfloat16)


def _choose_device(settings: MachineSettings, local_rank: int | None) -> torch.device:
    """The device, with `auto` resolved. Raises UserError as `choose_machine` does."""
    name = settings.device
    shared = local_rank is not None or getattr(settings, "fsdp", False)
    if name == "auto":
        name = "cpu"
        if torch.cuda.is_available():
            name = "cuda"
        elif torch.backends.mps.is_available() and not shared:
            name = "mps"
    if shared and name == "mps":
        raise UserError("device=mps is for one process that is not sharded: take --device=cpu")
    if local_rank is not None and name.startswith("cuda:"):
        raise UserError(
            f"device={name} is one GPU, and each process takes its own: take --device=cuda, or "
            f"start one process"
        )
    if name == "cuda" and local_rank is not None:
        name = f"cuda:{local_rank}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
        torch.autocast(device.type, torch.bfloat16)
    except (RuntimeError, AssertionError, NotImplementedError):
        hint = "take --device=cpu, or leave it out"
        if local_rank:
            hint = f"start fewer processes than {local_rank + 1}"
        raise UserError(f"device={name} cannot be used on this machine: {hint}") from None
    return device


def check_memory(settings: TrainSettings, vocab_size: int, machine: Machine, ranks: Ranks) -> None:
    """Raises UserError if a training step needs more memory than the machine has (with eval_only,
    if the weights do): the system would kill this process, or another, without a word. The estimate
    is below what is needed, so that nothing is refused that would fit, and takes no time."""
    _, windows = ranks.micro_batches(settings.step_windows, settings.batch_size)
    pairs = settings.architecture == "encoder_decoder"  # of any length, one token at least
    tokens = windows * (1 if pairs else settings.block_size)
    shards = ranks.world_size if settings.fsdp else 1
    try:
        parameters = count_parameters(GPTConfig.of(settings, vocab_size))
    except OverflowError:
        parameters = 2**63
    what, needed = "this model takes", 4 * parameters // shards
    if not settings.eval_only:
        what = "a step of this model takes"
        stored = 1 if settings.activation_checkpointing else 8  # activations a layer and token
        activations = 4 * stored * settings.n_layer * settings.n_embd * tokens
        # logits and their gradient, in chunks if there are many
        at_once = min(tokens, positions_at_once(vocab_size, machine.device))
        logits = 2 * 4 * at_once * vocab_size
        starts = 8 * settings.step_windows  # where the windows begin
        # weights, gradient and two moments
        needed = 4 * 4 * parameters // shards + activations + logits + starts
    there = memory_there(machine)
    if there is not None and needed > there:
        raise UserError(
            f"{what} more than {needed // 10**9:,} GB of memory, and there are {there // 10**9}: "
            f"lower --n_embd, --n_layer, --batch_size or --block_size"
        )


def memory_there(machine: Machine) -> int | None:
    """Bytes of memory that the device has, or None where the system does not tell."""
    if machine.device.type == "cuda":
        return torch.cuda.mem_get_info(machine.device)[1]
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _keep_freed_memory() -> None:
    """Have the C library keep the memory of freed tensors for the next step. By default glibc may
    return large blocks to the system each time, and each page is then faulted in and zeroed again,
    which is slow now and then (docs/log.md)."""
    if sys.platform == "linux" and hasattr(
        ctypes.CDLL(None), "mallopt"
    ):  # glibc; others keep it by themselves
        trim_threshold, mmap_threshold = -1, -3  # from malloc.h
        for parameter in (trim_threshold, mmap_threshold):
            ctypes.CDLL(None).mallopt(parameter, 2**30)


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile has what it needs on a GPU: Triton, a C compiler for it, and a GPU that
    it supports."""
    compiler = (
        shutil.which(os.environ.get("CC", "")) or shutil.which("gcc") or shutil.which("clang")
    )
    known = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0)
    return known and compiler is not None and find_spec("triton") is not None


def check_compiler(device: torch.device) -> None:
    """Raises UserError now, and not during a run, if torch.compile lacks the compiler that it needs
    on this device."""
    if device.type == "cuda" and not can_compile(device):
        raise UserError(
            "compile=True needs Triton and a C compiler on a GPU: install gcc, or leave out "
            "--compile"
        )
    if device.type == "cpu" and sys.platform != "win32":
        # as torch chooses it
        name = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
        if not shutil.which(name):
            raise UserError(
                f"compile=True needs a C++ compiler, and there is no {name}: install it, or leave "
                f"out --compile"
            )


def _has_fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        # torch 2.10 has no such function
        known: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        there = any(known.get(feature, False) for feature in ("avx512_bf16", "amx_bf16", "bf16"))
        return there and onednn_has_bfloat16()
    return False


def onednn_has_bfloat16() -> bool:
    """Whether oneDNN may use the processor's bfloat16 instructions; true where there is no oneDNN.

    ONEDNN_MAX_CPU_ISA can forbid them. oneDNN itself says so only without AVX-512; with AVX-512 but
    without those instructions it emulates them.
    """
    if not torch.backends.mkldnn.is_available():
        return True
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported() and limit.upper() not in WITHOUT_BFLOAT16
