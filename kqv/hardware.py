"""The machine: which device, which precision, compiled or not."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from kqv.errors import UserError
from kqv.settings import MachineSettings


@dataclass
class Machine:
    """A device and the precision to compute in."""

    device: torch.device
    dtype: torch.dtype
    compile: bool

    def autocast(self) -> AbstractContextManager[Any]:
        """A context in which matrix products are made in `dtype`; weights stay as they are."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def prepare(self, model: Callable[..., Any]) -> Callable[..., Any]:
        """The model, compiled if this machine compiles."""
        return torch.compile(model) if self.compile else model

    def __str__(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        threads = f", {torch.get_num_threads()} threads" if self.device.type == "cpu" else ""
        return f"{name}{threads}, {str(self.dtype).removeprefix('torch.')}{', compiled' if self.compile else ''}"


def choose_machine(settings: MachineSettings) -> Machine:
    """The machine that the settings ask for, `auto` resolved: a GPU in bfloat16 if there is one, else the CPU in
    float32, which small models train as fast in as in bfloat16. Raises UserError for a device that is not there.
    """
    name = settings.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"device={name} cannot be used on this machine: take --device=cpu, or leave it out") from None
    dtype = torch.float32 if settings.dtype == "auto" else getattr(torch, settings.dtype)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as nanoGPT allows
        if settings.dtype == "auto":
            dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return Machine(device, dtype, device.type == "cuda" if settings.compile == "auto" else settings.compile)
