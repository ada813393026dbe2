"""The device and precision that are asked for are used, and `auto` works on this machine."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from kqv.efficient import slides
from kqv.kernels import cross_entropy
from kqv.machine import device as hardware
from kqv.machine.device import check_memory, choose_machine
from kqv.machine.launching import Launch
from kqv.machine.ranks import Ranks
from kqv.options.settings import MachineSettings, SampleSettings, TrainSettings
from kqv.project import ROOT as PROJECT
from model import GPT, GPTConfig

SHAPE = {"vocab_size": 7, "n_layer": 1, "n_head": 2, "n_embd": 8}

CPU = MachineSettings(device="cpu")


def test_what_is_asked_for_is_what_is_used():
    machine = choose_machine(MachineSettings(device="cpu", dtype="bfloat16", compile=False))
    assert (machine.device.type, machine.dtype, machine.compile) == ("cpu", torch.bfloat16, False)
    assert str(machine).startswith("cpu, ") and "bfloat16" in str(machine)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
def test_each_precision_of_sampling_can_be_chosen(dtype):
    assert choose_machine(SampleSettings(device="cpu", dtype=dtype)).dtype == getattr(torch, dtype)


@pytest.mark.parametrize("fast", [True, False])
def test_bfloat16_is_taken_only_where_the_processor_is_fast_at_it(fast, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": fast}, raising=False)
    monkeypatch.setattr(hardware, "onednn_has_bfloat16", lambda: True)
    machine = choose_machine(MachineSettings(device="cpu"))
    assert machine.fast_bfloat16 == fast
    assert machine.dtype == (torch.bfloat16 if fast else torch.float32)


def chosen(**environment):
    """What dtype=auto takes on a CPU in a process with these variables."""
    code = (
        "from kqv.machine.device import choose_machine\n"
        "from kqv.options.settings import MachineSettings\n"
        "print(choose_machine(MachineSettings(device='cpu')).dtype)"
    )
    environment |= {key: text for key, text in os.environ.items() if not key.endswith("_CPU_ISA")}
    command = [sys.executable, "-c", code]
    return subprocess.check_output(command, cwd=PROJECT, env=environment, text=True).strip()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "value"),
    [("ONEDNN_MAX_CPU_ISA", x) for x in ("AVX2", "avx512_core")] + [("DNNL_MAX_CPU_ISA", "AVX2")],
)
def test_bfloat16_is_not_taken_where_onednn_may_not_use_its_instructions(variable, value):
    assert chosen(**{variable: value}) == "torch.float32"


@pytest.mark.slow
def test_a_limit_of_onednn_that_allows_bfloat16_changes_nothing():
    here = str(choose_machine(MachineSettings(device="cpu")).dtype)
    assert chosen() == chosen(ONEDNN_MAX_CPU_ISA="AVX512_CORE_BF16") == here


@pytest.mark.parametrize(
    ("dtype", "block_size", "fused"),
    [("bfloat16", 64, False), ("bfloat16", 1024, True), ("float32", 64, True)],
)
def test_a_cpu_trains_with_the_attention_that_was_measured_to_be_faster(dtype, block_size, fused):
    model = GPT(GPTConfig(block_size=block_size, **SHAPE))
    choose_machine(MachineSettings(device="cpu", dtype=dtype)).prepare(model)
    assert model.blocks[0].attention.fused == fused


def test_windows_of_a_long_text_are_attended_to_chunk_by_chunk():
    model = GPT(GPTConfig(block_size=512, window=32, **SHAPE))
    choose_machine(MachineSettings(device="cpu", dtype="bfloat16")).prepare(model)
    assert slides(model.blocks[0].attention, 512)


def test_a_score_that_no_kernel_knows_stays_written_out():
    model = GPT(GPTConfig(attention_score="squared", **SHAPE))
    choose_machine(MachineSettings(device="cpu", dtype="float32")).prepare(model)
    assert not model.blocks[0].attention.fused


@pytest.mark.parametrize("name", ["banana", "meta", "cuda:99", ""])
def test_a_device_that_is_not_there_is_refused_by_name(name, refused):
    with refused(f"device={name}", "--device=cpu"):
        choose_machine(MachineSettings(device=name))


def test_a_step_that_memory_cannot_hold_is_refused_unless_ranks_share_it(refused, monkeypatch):
    monkeypatch.setattr(hardware, "memory_there", lambda machine: 16 * 10**9)
    machine, alone, four = choose_machine(CPU), Ranks(), Ranks(Launch(world_size=4))
    # 1.5 billion weights: 24 GB with their moments
    size = {"n_layer": 24, "n_head": 16, "n_embd": 2048, "block_size": 1024}
    large = TrainSettings(**size, batch_size=1)
    with refused("24 GB of memory, and there are 16", "--n_embd"):
        check_memory(large, 50304, machine, alone)
    check_memory(replace(large, batch_size=4, fsdp=True), 50304, machine, four)
    long = TrainSettings(n_layer=12, n_head=12, n_embd=768, block_size=1024, batch_size=64)
    with refused("22 GB of memory", "--batch_size"):
        check_memory(long, 50304, machine, alone)
    check_memory(long, 50304, machine, four)
    # without gradients and moments
    measured = replace(large, eval_only=True, n_layer=2 * large.n_layer)
    check_memory(measured, 50304, machine, alone)
    with refused("this model takes more than"):
        check_memory(replace(measured, n_layer=8 * large.n_layer), 50304, machine, alone)


def test_pairs_are_not_refused_for_a_length_that_none_of_them_may_have(refused, monkeypatch):
    monkeypatch.setattr(hardware, "memory_there", lambda machine: 16 * 10**9)
    machine, size = choose_machine(CPU), {"n_layer": 12, "n_head": 12, "n_embd": 768}
    pairs = TrainSettings(
        **size, architecture="encoder_decoder", block_size=1024, batch_size=64, encoder_layers=2
    )
    with refused("22 GB of memory", "--batch_size"):
        text = replace(pairs, architecture="decoder", encoder_layers=0)
        check_memory(text, 50304, machine, Ranks())
    check_memory(pairs, 50304, machine, Ranks())
    with refused("a step of this model takes more than"):
        check_memory(replace(pairs, encoder_layers=200), 50304, machine, Ranks())


def test_a_missing_compiler_is_reported_before_the_run(monkeypatch, refused):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    for device in ("cpu", "cuda"):
        with refused("compile=True needs", "leave out --compile"):
            hardware.check_compiler(torch.device(device))


@pytest.mark.parametrize("name", ["mps", "cuda:1"])
def test_a_device_that_several_ranks_cannot_share_is_refused(name, refused):
    with refused(f"device={name}", "--device=" + ("cpu" if name == "mps" else "cuda")):
        choose_machine(MachineSettings(device=name), 1)


def test_a_gpu_is_compiled_for_only_where_triton_and_a_compiler_are(monkeypatch):
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(hardware, "find_spec", lambda name: name == "triton")
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/gcc" if name == "gcc" else None)
    assert hardware.can_compile(gpu)
    assert not hardware.can_compile(torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    assert not hardware.can_compile(gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert not hardware.can_compile(gpu)


def test_bfloat16_computes_nearly_what_float32_does():
    torch.manual_seed(0)
    model, ids = GPT(GPTConfig(**SHAPE)), torch.randint(7, (4, 64))
    torch.nn.init.normal_(model.head.weight)
    losses = []
    for dtype in ("float32", "bfloat16"):
        machine = choose_machine(MachineSettings(device="cpu", dtype=dtype))
        with machine.autocast():
            losses.append(cross_entropy(model(ids), ids).item())
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_int8_is_refused_on_a_gpu(refused):
    with refused("dtype=int8", "--dtype=bfloat16"):
        choose_machine(SampleSettings(device="cuda", dtype="int8"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_is_taken_if_there_is_one():
    machine = choose_machine(MachineSettings())
    model, ids = GPT(GPTConfig(**SHAPE)), torch.randint(7, (4, 64), device=machine.device)
    with machine.autocast():
        cross_entropy(machine.prepare(model)(ids), ids).backward()
    assert machine.device.type == "cuda"
    assert machine.compile
