"""--dry_run=True says what a run takes, and writes nothing."""

import re

import pytest
import torch
from helpers.pairs import write_pairs

import train
from kqv.machine.launching import Launch
from kqv.options.command_line import read_arguments
from kqv.options.defaults import training_settings
from kqv.options.settings import TrainSettings
from kqv.project import ROOT
from kqv.text.characters import CharTokenizer
from kqv.text.pair_datasets import prepare_pairs
from kqv.text.prepared import save_tokenizer
from kqv.text.tokenizer import MASK
from kqv.training.plan import pair_vocabulary, print_plan, text_vocabulary
from model import GPT, GPTConfig

SMALL = {"vocab_size": 64, "block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 32}
DRY_RUN = {"device": "cpu", "dtype": "float32", "dry_run": True}


def test_the_gpt2_recipe_has_as_many_parameters_as_gpt2():
    given, _ = read_arguments(TrainSettings, [str(ROOT / "config" / "train_gpt2.py")])
    settings = vars(training_settings(given))
    shape = {name: settings[name] for name in GPTConfig.__dataclass_fields__ if name in settings}
    with torch.device("meta"):
        padded, original = (GPT(GPTConfig(vocab_size=size, **shape)) for size in (50304, 50257))
        openai = GPT(GPTConfig(vocab_size=50257, **{**shape, "bias": True}))
    # nanoGPT prints 123.59M, which leaves out the position embeddings, 1024 × 768
    assert padded.parameter_count() == 124_373_760
    assert padded.parameter_count() - original.parameter_count() == 47 * 768
    assert openai.parameter_count() == 124_439_808  # Hugging Face's GPT-2


def test_a_dry_run_prints_the_plan_and_writes_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--n_layer=2", "--dry_run=True", "--rate=100000", "--device=cpu", "--dtype=float32"]
    assert train.main([str(ROOT / "config" / "train_gpt2.py"), *options]) == 0
    plan = capsys.readouterr().out
    for part in (
        "53,579,520",
        "50,304 ids (50,257 of gpt2)",
        "491,520 a step, 294,912,000,000",
        "0.21 GB  weights",
        "34 days at",
    ):
        assert part in plan
    assert not list(tmp_path.iterdir())


def test_the_plan_of_several_ranks_says_what_each_of_them_needs_and_sends(capsys):
    config = GPTConfig(**{**SMALL, "n_embd": 256})
    plans = []
    for fsdp in (False, True):
        settings = TrainSettings(**DRY_RUN, rate=1000.0, max_iters=10, fsdp=fsdp)
        print_plan(settings, config, "", Launch(world_size=4))
        plan = capsys.readouterr().out
        assert "each of 4 processes" in plan
        assert "a step by each process" in plan
        assert "5,120 in 10 steps" in plan  # the global batch, whatever the world size
        assert ("gathered" in plan) == fsdp
        plans.append(plan)
    replicated, sharded = (float(re.search(r"([\d.]+) \wB  weights", plan)[1]) for plan in plans)
    assert replicated > 4
    assert sharded == pytest.approx(replicated / 4, abs=0.06)


def test_the_time_is_given_in_years_where_it_takes_years(capsys):
    settings = TrainSettings(**DRY_RUN, rate=1.0, max_iters=10**6)
    print_plan(settings, GPTConfig(**SMALL), "", Launch())
    line = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"time +16 years at 1 tokens/s \(given\); .*", line)


@pytest.mark.parametrize(
    ("tokenizer", "texts", "expected"),
    [
        ("gpt2", [], 50304),
        ("bytes", ["a.txt"], 256),
        ("bpe:1000", [], 1024),
        ("cl100k_base", ["a.txt"], 100288),
        ("", ["a.txt"], 100),
        ("char", ["a.txt"], 100),
    ],
)
def test_a_vocabulary_is_known_by_its_name_without_its_files(tokenizer, texts, expected):
    vocabulary = text_vocabulary("nowhere", tokenizer, texts)
    assert vocabulary.size == expected
    assert vocabulary.how


@pytest.mark.parametrize("dataset", ["openwebtext", "shakespeare"])
def test_a_dataset_of_gpt2s_tokens_is_known_before_it_is_prepared(dataset, tmp_path):
    assert text_vocabulary(dataset, "", [], tmp_path) == (50304, 0, "50,257 of gpt2")
    assert text_vocabulary(dataset, "", ["a.txt"], tmp_path).size == 100


def test_the_plan_of_an_encoder_counts_its_mask(tmp_path):
    folder = tmp_path / "letters"
    folder.mkdir()
    save_tokenizer(CharTokenizer.of("abc"), folder)
    assert text_vocabulary("letters", "", [], tmp_path, MASK) == (4, 0, "3 of letters and a mask")
    assert text_vocabulary("letters", "", [], tmp_path) == (3, 0, "3 of letters")
    assert text_vocabulary("", "bytes", ["a.txt"], markers=MASK).size == 256
    assert text_vocabulary("", "bpe:1024", ["a.txt"], markers=MASK).size == 1088


def test_the_vocabularies_of_pairs_are_those_of_their_dataset_or_known_by_their_names(tmp_path):
    pairs = write_pairs(tmp_path / "a.tsv", [("ab", "x y"), ("ba", "y x"), ("aab", "z x")] * 9)
    prepare_pairs([pairs], tmp_path / "letters", target_tokenizer="symbols")
    prepare_pairs([pairs], tmp_path / "one")
    letters, symbols = 3 + 2, 4 + 2  # with the one of unknown characters, and two markers
    two = pair_vocabulary("letters", "", "", [], tmp_path)
    assert two == (symbols, letters, "those of letters")
    assert pair_vocabulary("one", "", "", [], tmp_path)[:2] == (9, 0)
    assert pair_vocabulary("one", "bpe:1024", "", ["a.tsv"], tmp_path) == (
        1024, 0, "1,024 of bpe:1024",
    )  # fmt: skip
    assert pair_vocabulary("one", "bytes", "symbols", ["a.tsv"], tmp_path) == (
        100, 256, "256 of bytes; assumed: the text was not read",
    )  # fmt: skip


def test_the_plan_of_pairs_is_an_upper_bound_and_says_so(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--dry_run=True", "--rate=1000", "--device=cpu", "--dtype=float32", "--max_iters=10"]
    options += ["--n_layer=1", "--encoder_layers=2", "--block_size=10", "--batch_size=4"]
    assert train.main(["missing.tsv", *options, "--target_tokenizer=symbols"]) == 0
    plan = capsys.readouterr().out
    for part in (
        "100 of sources, 100 ids",
        "at most 80 a step, 800 in 10 steps; a pair has at most 10 on either side",
        "memory            at most ",
        "time              at most ",
    ):
        assert part in plan
    assert not list(tmp_path.iterdir())


def test_a_rate_without_a_dry_run_is_a_mistake(refused):
    with refused("rate", "--dry_run=True"):
        train.main(["--rate=100"])
