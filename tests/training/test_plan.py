"""kqv/training/plan.py: what a dry run says is what a run takes."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

import train
from kqv.machine.device import choose_machine
from kqv.machine.launching import Launch
from kqv.options.command_line import read_arguments
from kqv.options.defaults import training_settings
from kqv.options.settings import TrainSettings
from kqv.project import ROOT as PROJECT
from kqv.training import plan as planning
from kqv.training.plan import (
    SECONDS,
    LiveBytes,
    count_flops,
    count_memory,
    formula,
    measure_rate,
    print_plan,
    vocabulary_size,
)
from model import GPT, GPT2, GPTConfig, linear_cross_entropy

SMALL = {"vocab_size": 64, "block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 32}

# A process that trains two steps of each case and tells by how much it grew. The first one loads what torch loads late.
CASES = [("bfloat16", True), ("float32", False), ("bfloat16", False), ("float32", True)]
TRAINING = """
import sys
import torch
from kqv.machine.device import choose_machine
from kqv.training.optimizers import make_optimizers
from kqv.machine.launching import Launch
from kqv.options.defaults import training_settings
from kqv.options.settings import TrainSettings
from model import GPT, GPTConfig

def kilobytes(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))

def train(dtype, again, vocab_size, batch, **size):
    settings = TrainSettings(device="cpu", dtype=dtype)
    machine = choose_machine(settings)
    model = GPT(GPTConfig(vocab_size, **size)).train()
    model.activation_checkpointing = again
    machine.choose_attention(model)
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


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(),
    reason="only Linux tells the peak of a process's memory",
)
def test_the_memory_of_training_steps_is_what_was_said_before():
    size = {"n_layer": 2, "n_head": 4, "n_embd": 256, "block_size": 256}
    # Each block of memory from the system and back to it: what is left out is glibc's heap, which keeps holes.
    environment = {
        **os.environ,
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "PYTHONPATH": str(PROJECT),
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [
        sys.executable,
        "-c",
        TRAINING,
        repr(CASES),
        repr({"vocab_size": 1000, "batch": 2, **size}),
    ]
    really = subprocess.run(
        command, env=environment, capture_output=True, check=True, text=True
    ).stdout.split()[1:]
    for (dtype, again), growth in zip(CASES[1:], really, strict=True):
        settings = TrainSettings(
            device="cpu", dtype=dtype, batch_size=2, activation_checkpointing=again, **size
        )
        said = count_memory(
            settings,
            GPTConfig(vocab_size=1000, **size),
            choose_machine(settings),
            windows=2,
            parts=1,
        )
        assert said.peak == pytest.approx(int(growth), rel=0.1)


@pytest.mark.parametrize("family", [{}, GPT2], ids=["default", "gpt2"])
def test_flops_are_those_of_a_count_by_hand(family):
    config = GPTConfig(**SMALL, **family)
    settings = TrainSettings(device="cpu", dtype="float32", optimizer="adamw" if family else "muon")
    window, update = count_flops(settings, config, choose_machine(settings))
    time, width, inside = 16, 32, config.hidden
    mlp = (2 if family else 3) * width * inside
    matrices = 2 * (4 * width * width + mlp) + 64 * width
    pairs = 2 * time * time * width  # one product of attention over all heads
    # forward twice over: scores and output; backward: scores again, and the gradients by weights, query, key and value
    by_hand = 6 * matrices * time + 2 * (2 + 5) * pairs
    assert window == by_hand
    assert (
        formula(config, matrices) * time == by_hand - 2 * pairs
    )  # PaLM's does not compute the scores again
    assert (update == 0) == bool(family)  # Muon's products


def test_computing_blocks_again_takes_memory_away_and_adds_work():
    settings = TrainSettings(device="cpu", dtype="float32")
    config, machine = GPTConfig(vocab_size=65), choose_machine(settings)
    plain = (
        count_memory(settings, config, machine, 32, 1),
        count_flops(settings, config, machine)[0],
    )
    settings.activation_checkpointing = True
    again = (
        count_memory(settings, config, machine, 32, 1),
        count_flops(settings, config, machine)[0],
    )
    assert again[0].activations < 0.7 * plain[0].activations
    assert 1.2 * plain[1] < again[1] < 1.34 * plain[1]


def test_a_large_vocabulary_takes_the_memory_of_a_chunk_of_logits(monkeypatch):
    hidden, weight = (
        torch.randn(4, 500, 8, requires_grad=True),
        torch.randn(1000, 8, requires_grad=True),
    )
    monkeypatch.setattr("model.CHUNK", 50 * 1000)
    with LiveBytes() as live:
        linear_cross_entropy(hidden, weight, torch.zeros(4, 500, dtype=torch.int64)).backward()
    assert live.peak < 4 * 2000 * 1000 / 5


def test_gpt2_has_as_many_parameters_as_nanogpt_s():
    given, _ = read_arguments(TrainSettings, [str(PROJECT / "config" / "train_gpt2.py")])
    settings = vars(training_settings(given))
    shape = {name: settings[name] for name in GPTConfig.__dataclass_fields__ if name in settings}
    with torch.device("meta"):
        padded, original = (GPT(GPTConfig(vocab_size=size, **shape)) for size in (50304, 50257))
        openai = GPT(GPTConfig(vocab_size=50257, **{**shape, "bias": True}))
    assert (
        padded.parameter_count() == 124_373_760
    )  # nanoGPT prints 123.59M: less its positions, 1024 × 768
    assert padded.parameter_count() - original.parameter_count() == 47 * 768
    assert openai.parameter_count() == 124_439_808  # Hugging Face's GPT-2


def test_a_dry_run_says_it_all_and_writes_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--n_layer=2", "--dry_run=True", "--rate=100000", "--device=cpu", "--dtype=float32"]
    assert train.main([str(PROJECT / "config" / "train_gpt2.py"), *options]) == 0
    said = capsys.readouterr().out
    for part in ("53,579,520", "50,304 ids (50,257 of gpt2)", "491,520 a step, 294,912,000,000"):
        assert part in said
    assert "0.21 GB  weights" in said and "34 days at" in said
    assert not list(tmp_path.iterdir())


def test_a_run_of_several_processes_says_what_each_of_them_needs_and_sends(capsys):
    settings = TrainSettings(device="cpu", dtype="float32", dry_run=True, rate=1000.0, max_iters=10)
    said = {}
    for fsdp in (False, True):
        settings.fsdp = fsdp
        print_plan(settings, GPTConfig(**{**SMALL, "n_embd": 256}), "", Launch(world_size=4))
        said[fsdp] = capsys.readouterr().out
        assert "each of 4 processes" in said[fsdp] and "a step by each process" in said[fsdp]
        assert "5,120 in 10 steps" in said[fsdp]  # however many share them
    assert "gathered" in said[True] and "gathered" not in said[False]
    whole, quarter = (float(said[fsdp].split("  weights")[0].split()[-2]) for fsdp in (False, True))
    assert whole > 4 and quarter == pytest.approx(whole / 4, abs=0.06)


class Simulated:
    """A machine that computes so many FLOPs a second, and a clock that knows what its work takes."""

    def __init__(self, monkeypatch, settings, flops_per_second, update=0.0):
        self.now, self.speed, self.batches = 0.0, flops_per_second, []
        self.settings, self.machine = settings, choose_machine(settings)
        monkeypatch.setattr(
            "kqv.training.plan.time", SimpleNamespace(perf_counter=lambda: self.now)
        )
        # what is counted with tensors that hold no numbers is counted before a clock is looked at
        real = planning._micro_batch

        def micro_batch(forward, windows, machine):
            if not isinstance(forward.embedding.weight, FakeTensor):
                self.batches.append((forward.config.n_layer, windows))
                self.now += self.seconds(forward.config, windows)
            else:
                real(forward, windows, machine)

        def step(model, optimizers, clip):
            self.now += update * model.parameter_count()

        monkeypatch.setattr("kqv.training.plan._micro_batch", micro_batch)
        monkeypatch.setattr("kqv.training.plan._update", step)

    def seconds(self, config, windows=1):
        return windows * count_flops(self.settings, config, self.machine)[0] / self.speed


@pytest.mark.parametrize("parts", [1, 3])
def test_the_speed_is_that_of_real_steps(parts, monkeypatch):
    settings = TrainSettings(device="cpu", dtype="float32")
    config = GPTConfig(**SMALL)
    there = Simulated(monkeypatch, settings, 1e9, update=1e-6)
    rate, windows, blocks = measure_rate(settings, config, there.machine, 4, parts)
    step = there.seconds(config, 4 * parts) + 1e-6 * GPT(config).parameter_count()
    assert rate == pytest.approx(4 * parts * 16 / step, rel=0.01)
    assert (windows, blocks) == (4, 2)


@pytest.mark.parametrize("seconds", [0.01, 1.0, 3.0, 10.0, 30.0, 300.0])
def test_measuring_ends_in_time_however_slow_the_model_is_and_finds_the_same_speed(
    seconds, monkeypatch
):
    """`seconds` are those of one window."""
    settings = TrainSettings(device="cpu", dtype="float32")
    config = GPTConfig(**{**SMALL, "n_layer": 24})
    window = count_flops(settings, config, choose_machine(settings))[0]
    there = Simulated(monkeypatch, settings, window / seconds, update=1e-9)
    rate, windows, blocks = measure_rate(settings, config, there.machine, 8, 1)
    assert rate == pytest.approx(config.block_size / seconds, rel=0.01)
    assert there.now < SECONDS + seconds / 24 * 3  # one window of one block takes what it takes
    assert (windows == 8) == (seconds < 0.1) and (blocks == 24) == (seconds < 5)


def test_of_a_deep_model_a_few_blocks_are_rehearsed_and_it_comes_to_the_same(monkeypatch):
    settings = TrainSettings(device="cpu", dtype="float32")
    config, machine = GPTConfig(**{**SMALL, "n_layer": 30}), choose_machine(settings)
    rehearsed = count_memory(settings, config, machine, 4, 2)
    monkeypatch.setattr(planning, "REHEARSED", 30)
    assert rehearsed == count_memory(settings, config, machine, 4, 2)
    assert count_flops(settings, config, machine) == planning._count_flops(
        settings, config, machine
    )
    assert planning._parameters(config) == GPT(config).parameter_count()


def test_the_time_is_said_in_years_where_it_takes_years(capsys):
    settings = TrainSettings(device="cpu", dtype="float32", dry_run=True, rate=1.0, max_iters=10**6)
    print_plan(settings, GPTConfig(**SMALL), "", Launch())
    line = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"time +16 years at 1 tokens/s \(given\); .*", line)


@pytest.mark.parametrize(
    ("tokenizer", "texts", "expected"),
    [
        ("gpt2", [], 50304), ("bytes", ["a.txt"], 256), ("bpe:1000", [], 1024), ("cl100k_base", ["a.txt"], 100288),
        ("", ["a.txt"], 100), ("char", ["a.txt"], 100),
    ],
)  # fmt: skip
def test_a_vocabulary_is_known_by_its_name_without_its_files(tokenizer, texts, expected):
    size, source = vocabulary_size("nowhere", tokenizer, texts)
    assert size == expected and source


@pytest.mark.parametrize("dataset", ["openwebtext", "shakespeare"])
def test_a_dataset_of_gpt2s_tokens_is_known_before_it_is_prepared(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("kqv.training.plan.DATA", tmp_path)
    assert vocabulary_size(dataset, "", []) == (50304, "50,257 of gpt2")
    assert vocabulary_size(dataset, "", ["a.txt"])[0] == 100


def test_a_rate_without_a_dry_run_is_a_mistake(refused):
    with refused("rate", "--dry_run=True"):
        train.main(["--rate=100"])
