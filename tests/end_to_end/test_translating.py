"""Pairs from the shell: train an encoder-decoder, translate with it, score it."""

import json

import pytest
from helpers.pairs import date_pairs, write_pairs
from helpers.shell import same_weights

TRAIN = (
    *("--n_layer=1", "--n_head=2", "--n_embd=32", "--batch_size=32", "--max_iters=60"),
    *("--eval_interval=30", "--dropout=0.1", "--label_smoothing=0.1", "--compile=False"),
)


@pytest.fixture(scope="module")
def pairs():
    return date_pairs(400)


@pytest.fixture(scope="module")
def run(shell, pairs, tmp_path_factory):
    """The folder of a run on dates in words and digits, and what it said."""
    folder = tmp_path_factory.mktemp("dates")
    write_pairs(folder / "dates.tsv", pairs)
    done = shell.succeed("train.py", folder / "dates.tsv", *TRAIN, f"--out_dir={folder / 'out'}")
    return folder / "out", done


def test_a_tsv_file_trains_an_encoder_decoder_and_says_so(run, pairs):
    _, done = run
    assert "an encoder-decoder learns to translate" in done.stderr
    assert f"{len(pairs) * 9 // 10} pairs of dates.tsv" in done.stderr
    assert "over the targets of the whole validation split" in done.stdout
    assert "'--start=the " in done.stdout  # a first try of sample.py


def test_a_source_is_translated_alone_by_lines_and_as_json(shell, run, tmp_path):
    out, _ = run
    source = "the third of may 2019"
    alone = shell.succeed("sample.py", f"--out_dir={out}", f"--start={source}").stdout
    (tmp_path / "lines.txt").write_text(f"{source}\n\nthe first of june 1999\n")
    options = (f"--start=FILE:{tmp_path / 'lines.txt'}", "--each_line=True")
    lines = shell.succeed("sample.py", f"--out_dir={out}", *options).stdout
    assert lines.split("\n")[0] + "\n" == alone
    assert lines.split("\n")[1] == "" and lines.count("\n") == 3
    beams = ("--beam_size=4", "--num_samples=2", "--output=jsonl")
    done = shell.succeed("sample.py", f"--out_dir={out}", *options, *beams)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(each["line"], each["sample"]) for each in found] == [(1, 0), (1, 1), (3, 0), (3, 1)]
    assert found[0]["score"] >= found[1]["score"]
    assert found[0]["source"] == source


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "needs a source"),
        (("--start=",), "the source is empty"),
        (("--start=a\nb",), "--each_line=True"),
        (("--start=ZZZ",), "'Z'"),
        (("--start=may", "--beam_size=2", "--temperature=1"), "leave out --temperature="),
        (("--start=may", "--beam_size=2", "--num_samples=3"), "--beam_size=3"),
        (("--start=may", "--num_samples=3"), "--beam_size=5"),
        (("--start=may", "--max_new_tokens=0"), "must be 1 or more"),
        (("--interactive=True", "--each_line=True"), "leave out --each_line=True"),
        (("--start=may", "--blank=%"), "--architecture=encoder"),
    ],
)
def test_a_mistake_is_one_line(shell, run, options, says):
    done = shell.run("sample.py", f"--out_dir={run[0]}", *options)
    assert done.status == 2
    assert done.stdout == "" and done.stderr.count("\n") == 1
    assert says in done.stderr


def test_lines_of_unknown_characters_are_answered_by_empty_lines(shell, run):
    out, _ = run
    options = (f"--out_dir={out}", "--start=-", "--each_line=True", "--unknown=skip")
    done = shell.succeed("sample.py", *options, input="may\nZZZ\njune\n")
    first, second, third, rest = done.stdout.split("\n")
    assert first and third and not second and not rest
    assert "'Z'" in done.stderr


def test_a_target_that_the_model_cannot_end_is_said_to_be_cut(shell, pairs, tmp_path):
    path, out = tmp_path / "dates.tsv", f"--out_dir={tmp_path / 'out'}"
    write_pairs(path, pairs)
    # After no step at all, no target ends.
    shell.succeed("train.py", path, *TRAIN, "--max_iters=0", out)
    done = shell.succeed("sample.py", out, "--start=may")
    assert len(done.stdout) == 64 + 1
    assert done.stderr.splitlines()[-1].startswith("a target is cut after block_size=64 tokens")
    assert (
        "is cut" not in shell.succeed("sample.py", out, "--start=may", "--max_new_tokens=9").stderr
    )


def test_a_source_may_have_several_lines(shell, tmp_path):
    path, out = tmp_path / "lines.jsonl", f"--out_dir={tmp_path / 'out'}"
    path.write_text('{"source": "a\\nb", "target": "c\\td"}\n' * 20)
    done = shell.succeed(
        "train.py", path, "--architecture=encoder_decoder", *TRAIN, "--max_iters=1", out
    )
    assert "--each_line=False" in done.stdout  # in the first try of sample.py
    words = (out, "--start=a\nb", "--max_new_tokens=5")
    one = shell.succeed("sample.py", *words, "--each_line=False", "--output=jsonl").stdout
    assert json.loads(one)["source"] == "a\nb"
    assert "--each_line=False all as one" in shell.run("sample.py", *words).stderr


def test_korean_is_shown_as_it_is_written(shell, tmp_path):
    path, out = tmp_path / "korean.tsv", f"--out_dir={tmp_path / 'out'}"
    path.write_text("han\t한글\nkuk\t국어\n" * 40)
    shell.succeed("train.py", path, *TRAIN, "--tokenizer=jamo", "--dropout=0", out)
    for source in ("han", "kuk"):
        shown = shell.succeed("sample.py", out, f"--start={source}").stdout
        whole = shell.succeed("sample.py", out, f"--start={source}", "--output=jsonl").stdout
        assert shown == json.loads(whole)["text"] + "\n" and len(shown) == 3


def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(shell, run, pairs, tmp_path):
    write_pairs(tmp_path / "dates.tsv", pairs)
    half = [*TRAIN, "--max_iters=30", "--lr_decay_iters=60", f"--out_dir={tmp_path / 'out'}"]
    whole = [*TRAIN, "--lr_decay_iters=60", f"--out_dir={tmp_path / 'whole'}"]
    shell.succeed("train.py", tmp_path / "dates.tsv", *whole)
    shell.succeed("train.py", tmp_path / "dates.tsv", *half)
    shell.succeed(
        "train.py", "--init_from=resume", f"--out_dir={tmp_path / 'out'}", "--max_iters=60"
    )
    assert same_weights(tmp_path / "out" / "last.pt", tmp_path / "whole" / "last.pt")


def test_eval_only_scores_the_translations_of_a_file_of_one_s_own(shell, run, pairs, tmp_path):
    write_pairs(tmp_path / "test.tsv", pairs[:20])
    done = shell.succeed(
        "train.py", "--init_from=resume", f"--out_dir={run[0]}", "--eval_only=True",
        f"--val_text={tmp_path / 'test.tsv'}", "--beam_size=2",
    )  # fmt: skip
    assert "validation loss" in done.stdout
    assert "of 20" in done.stdout and "word error rate" in done.stdout
