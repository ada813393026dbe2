"""The machine: which device, which precision, compiled or not."""

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

from kqv.errors import UserError
from kqv.options.settings import MachineSettings, TrainSettings
from model import CHUNK, GPT

# Up to this many positions, on a CPU in bfloat16, the plain matrix products of the written-out attention are
# faster than the fused kernel, whose backward pass on a CPU is slow (docs/log.md has the figures).
WRITTEN_ATTENTION_UP_TO = 512

# Values of ONEDNN_MAX_CPU_ISA with AVX-512 and without its instructions for bfloat16.
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
        """A context in which matrix products are made in `dtype`; weights stay as they are."""
        return (
            nullcontext()
            if self.dtype == torch.float32
            else torch.autocast(self.device.type, self.dtype)
        )

    @property
    def muon_dtype(self) -> torch.dtype:
        """The precision of Muon's products. Where float32 is asked for they are as exact as all else, so that runs agree to
        1e-6 however many processes share the work."""
        return (
            torch.bfloat16 if self.fast_bfloat16 and self.dtype != torch.float32 else torch.float32
        )

    def prepare(self, model: GPT) -> Callable[..., Any]:
        """Move a model here and choose its attention for training. Returns what to call: the model, compiled or not."""
        if self.compile:
            check_compiler(self.device)
        model.to(self.device)
        if self.device.type == "cpu":
            _keep_freed_memory()
        self.choose_attention(model)
        return torch.compile(model) if self.compile else model

    def choose_attention(self, model: GPT) -> None:
        """Have the model attend by the body that is the faster one here."""
        on_cpu = self.device.type == "cpu"
        written = (
            on_cpu
            and self.dtype == torch.bfloat16
            and model.config.block_size <= WRITTEN_ATTENTION_UP_TO
        )
        model.fuse_attention(not written or model.config.attention_score != "dot")

    def __str__(self) -> str:
        name = (
            torch.cuda.get_device_name(self.device)
            if self.device.type == "cuda"
            else self.device.type
        )
        threads = f", {torch.get_num_threads()} threads" if self.device.type == "cpu" else ""
        return f"{name}{threads}, {str(self.dtype).removeprefix('torch.')}{', compiled' if self.compile else ''}"


def choose_machine(settings: MachineSettings, number: int | None = None) -> Machine:
    """The machine that the settings ask for, with `auto` resolved; of several GPUs the one with this `number`, for each process
    of several takes its own. Raises UserError for a device that is not there, or cannot be shared.

    A GPU is taken if there is one. Precision: bfloat16 where its products are fast, float16 on GPUs that know nothing
    else that is short.
    """
    name, shared = settings.device, number is not None or getattr(settings, "fsdp", False)
    if name == "auto":
        name = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available() and not shared
            else "cpu"
        )
    if shared and name == "mps":
        raise UserError("device=mps is for one process that is not sharded: take --device=cpu")
    if number is not None and name.startswith("cuda:"):
        raise UserError(
            f"device={name} is one GPU, and each process takes its own: take --device=cuda, or start one process"
        )
    if name == "cuda" and number is not None:
        name = f"cuda:{number}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
        torch.autocast(device.type, torch.bfloat16)
    except (RuntimeError, AssertionError, NotImplementedError):
        hint = (
            f"start fewer processes than {number + 1}"
            if number
            else "take --device=cpu, or leave it out"
        )
        raise UserError(f"device={name} cannot be used on this machine: {hint}") from None
    if settings.dtype == "int8" and device.type != "cpu":
        raise UserError(
            f"dtype=int8 is for a CPU: take --dtype=bfloat16 on {name}, or --device=cpu"
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
            torch.cuda.set_device(device)  # what is sharded, or sent, lies on the current one
    compiled = can_compile(device) if settings.compile == "auto" else settings.compile
    return Machine(device, dtype, compiled, fast_bfloat16)


def check_memory(
    settings: TrainSettings, vocab_size: int, machine: Machine, windows: int, shares: int = 1
) -> None:
    """Raises UserError if a training step of so many `windows` at once, with weights in so many `shares`, needs more memory than
    the machine has (with eval_only, if the weights do): the system would end this process, or another, without a word. What is
    counted is less than what is needed, so that nothing is refused that would fit."""
    tokens = windows * settings.block_size
    inner = 4 * settings.n_embd + 2 * (settings.mlp_width or 4 * settings.n_embd)
    parameters = settings.n_layer * settings.n_embd * inner + vocab_size * settings.n_embd
    kept = 1 if settings.activation_checkpointing else 8
    activations = kept * settings.n_layer * settings.n_embd * tokens
    # weights, gradient and two moments; what the backward pass needs; the logits and their gradient, of a chunk where the
    # vocabulary is large; where the windows of a step begin
    starts = settings.batch_size * settings.gradient_accumulation_steps
    needed = (
        4 * 4 * parameters // shares
        + 4 * activations
        + 2 * 4 * min(tokens * vocab_size, CHUNK)
        + 8 * starts
    )
    what = "a step of this model takes"
    if settings.eval_only:
        what, needed = "this model takes", 4 * parameters // shares
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
    """Have the C library keep the memory of freed tensors for the next step. As it is, glibc may hand large blocks back to
    the system each time, and each page is then faulted in and zeroed again, which is slow now and then (docs/log.md)."""
    if sys.platform == "linux" and hasattr(
        ctypes.CDLL(None), "mallopt"
    ):  # glibc; others keep it by themselves
        trim_threshold, mmap_threshold = -1, -3  # from malloc.h
        for parameter in (trim_threshold, mmap_threshold):
            ctypes.CDLL(None).mallopt(parameter, 2**30)


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile has on a GPU what it needs: Triton, the C compiler that this calls, and a GPU that it knows."""
    compiler = (
        shutil.which(os.environ.get("CC", "")) or shutil.which("gcc") or shutil.which("clang")
    )
    known = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0)
    return known and compiler is not None and find_spec("triton") is not None


def check_compiler(device: torch.device) -> None:
    """Raises UserError if torch.compile lacks on this device the compiler that it calls: found now, it ends no run later."""
    if device.type == "cuda" and not can_compile(device):
        raise UserError(
            "compile=True needs on a GPU Triton and a C compiler: install gcc, or leave out --compile"
        )
    if device.type == "cpu" and sys.platform != "win32":
        name = os.environ.get("CXX") or (
            "clang++" if sys.platform == "darwin" else "g++"
        )  # as torch chooses it
        if not shutil.which(name):
            raise UserError(
                f"compile=True needs a C++ compiler, and there is no {name}: install it, or leave out --compile"
            )


def _has_fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        known: Mapping[str, Any] = getattr(
            torch.cpu, "get_capabilities", dict
        )()  # torch 2.10 cannot say
        there = any(known.get(feature, False) for feature in ("avx512_bf16", "amx_bf16", "bf16"))
        return there and _onednn_may()
    return False


def _onednn_may() -> bool:
    """Whether oneDNN, which makes the products, may use the bfloat16 instructions of this
    processor: ONEDNN_MAX_CPU_ISA can forbid it. Without AVX-512 it says so itself; with AVX-512
    that has none for bfloat16 it emulates them and does not."""
    if not torch.backends.mkldnn.is_available():
        return True  # others make the products
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported() and limit.upper() not in WITHOUT_BFLOAT16
