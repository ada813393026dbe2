"""A rehearsed step counts the memory and the FLOPs that a real one takes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kqv.kernels import linear_cross_entropy
from kqv.machine.device import choose_machine
from kqv.options.settings import TrainSettings
from kqv.project import ROOT
from kqv.training.rehearsal import (
    LiveBytes,
    count_flops,
    count_memory,
    formula_flops,
    rehearse_flops,
    rehearse_memory,
)
from model import GPT2, GPTConfig

SMALL = {"vocab_size": 64, "block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 32}

# (dtype, activation checkpointing). A process trains two steps of each case and prints by how many
# bytes it grew. The first case does not count: it loads what torch loads late.
CASES = [("bfloat16", True), ("float32", False), ("bfloat16", False), ("float32", True)]
TRAINING = """
import sys
import torch
from kqv.machine.device import choose_machine
from kqv.options.settings import TrainSettings
from kqv.training.optimizers import make_optimizers
from model import GPT, GPTConfig

def kilobytes(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))

def train(dtype, checkpointing, vocab_size, batch, **size):
    settings = TrainSettings(device="cpu", dtype=dtype)
    machine = choose_machine(settings)
    model = GPT(GPTConfig(vocab_size=vocab_size, **size)).train()
    model.activation_checkpointing = checkpointing
    machine.choose_attention(model)  # not machine.prepare, which keeps freed memory
    optimizers = make_optimizers(model, settings, machine.muon_dtype)
    for _ in range(2):
        ids = torch.randint(vocab_size, (batch, model.config.block_size))
        with machine.autocast():
            loss = model(ids, targets=ids)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

torch.set_num_threads(1)
for case in eval(sys.argv[1]):
    open("/proc/self/clear_refs", "w").write("5")  # the peak is now what there is
    before = kilobytes("VmRSS")
    train(*case, **eval(sys.argv[2]))
    print(1024 * (kilobytes("VmHWM") - before))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(),
    reason="only Linux tells the peak of a process's memory",
)
def test_the_counted_memory_is_that_of_a_real_process():
    size = {"n_layer": 2, "n_head": 4, "n_embd": 256, "block_size": 256}
    # Each block of memory comes from the system and goes back to it: glibc's heap keeps holes.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    environment["MALLOC_MMAP_THRESHOLD_"] = "65536"
    arguments = repr(CASES), repr({"vocab_size": 1000, "batch": 2, **size})
    command = [sys.executable, "-c", TRAINING, *arguments]
    measured = subprocess.check_output(command, env=environment, text=True).split()
    config = GPTConfig(vocab_size=1000, **size)
    for (dtype, checkpointing), growth in zip(CASES[1:], measured[1:], strict=True):
        settings = TrainSettings(device="cpu", dtype=dtype, batch_size=2, **size)
        settings.activation_checkpointing = checkpointing
        counted = count_memory(settings, config, choose_machine(settings), 2, micro_batches=1)
        assert counted.peak == pytest.approx(int(growth), rel=0.1)


@pytest.mark.parametrize("family", [{}, GPT2], ids=["default", "gpt2"])
def test_the_counted_flops_are_those_of_a_count_by_hand(family):
    config = GPTConfig(**SMALL, **family)
    settings = TrainSettings(device="cpu", dtype="float32", optimizer="adamw" if family else "muon")
    window, update = count_flops(settings, config, choose_machine(settings))
    time, width = 16, 32
    mlp = (2 if family else 3) * width * config.hidden
    matrices = 2 * (4 * width * width + mlp) + 64 * width
    pairs = 2 * time * time * width  # one product of attention over all heads
    # forward: scores and output; backward: scores again, and the gradients of weights, query, key
    # and value
    by_hand = 6 * matrices * time + 2 * (2 + 5) * pairs
    assert window == by_hand
    # PaLM's formula does not compute the scores again
    assert formula_flops(config, matrices) * time == by_hand - 2 * pairs
    assert (update == 0) == bool(family)  # Muon's products


def test_the_counted_flops_of_a_pair_are_those_of_a_count_by_hand_for_both_stacks():
    shape = {**SMALL, "architecture": "encoder_decoder", "encoder_layers": 3}
    config = GPTConfig(**shape, source_vocab_size=40)
    settings = TrainSettings(device="cpu", dtype="float32", optimizer="adamw")
    window, _ = count_flops(settings, config, choose_machine(settings))
    time, width = 16, 32
    mlp, attention = 3 * width * config.hidden, 4 * width * width
    matrices = 3 * (attention + mlp) + 2 * (2 * attention + mlp) + 64 * width
    products = 2 * time * time * width  # one product of attention over all heads
    attentions = 3 + 2 * 2  # each with the scores computed again in the backward pass
    assert window == 6 * matrices * time + attentions * (2 + 5) * products
    # Of a pair, half of the tokens stand on either side.
    by_formula = formula_flops(config, matrices) * 2 * time
    assert by_formula == window - attentions * products


def test_the_flops_of_an_encoder_are_those_of_a_decoder():
    settings = TrainSettings(device="cpu", dtype="float32")
    flops = [
        count_flops(settings, GPTConfig(**SMALL, architecture=each), choose_machine(settings))
        for each in ("encoder", "decoder")
    ]
    assert flops[0] == flops[1]


def test_activation_checkpointing_saves_memory_and_adds_work():
    config, activations, flops = GPTConfig(vocab_size=65), {}, {}
    for checkpointing in (False, True):
        settings = TrainSettings(device="cpu", dtype="float32")
        settings.activation_checkpointing = checkpointing
        machine = choose_machine(settings)
        memory = count_memory(settings, config, machine, 32, 1)
        activations[checkpointing] = memory.activations
        flops[checkpointing], _ = count_flops(settings, config, machine)
    assert activations[True] < 0.7 * activations[False]
    assert 1.2 * flops[False] < flops[True] < 1.34 * flops[False]


def test_a_large_vocabulary_takes_the_memory_of_a_chunk_of_logits(monkeypatch):
    hidden = torch.randn(4, 500, 8, requires_grad=True)
    weight = torch.randn(1000, 8, requires_grad=True)
    monkeypatch.setattr("kqv.kernels.LOGITS_AT_ONCE", 50 * 1000)
    with LiveBytes() as live:
        linear_cross_entropy(hidden, weight, torch.zeros(4, 500, dtype=torch.int64)).backward()
    all_logits = 4 * 2000 * 1000  # bytes
    assert live.peak < all_logits / 5


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["decoder", "encoder_decoder"])
def test_extrapolating_a_deep_model_gives_what_rehearsing_all_its_blocks_gives(
    architecture, monkeypatch
):
    monkeypatch.setattr("kqv.training.rehearsal.MOST_BLOCKS", 6)
    settings = TrainSettings(device="cpu", dtype="float32")
    shape = {**SMALL, "n_layer": 9, "architecture": architecture}
    config, machine = GPTConfig(**shape), choose_machine(settings)
    rehearsed = rehearse_memory(config, settings, machine, 4, 2, gradients_stay=False)
    assert count_memory(settings, config, machine, 4, 2) == rehearsed
    flops = count_flops(settings, config, machine)
    assert flops == rehearse_flops(settings, config, machine)
