"""sample.py with an encoder, as a user runs it: blanks are filled, texts written from nothing."""

import json
import re

import pytest
from helpers.shell import SENTENCES, TINY

SEPARATOR = "\n---------------\n"
SENTENCE = SENTENCES[0].strip()
BLANKED = SENTENCE.replace("sits on", "s_ts _n")


@pytest.fixture(scope="module")
def encoder(shell, text, tmp_path_factory):
    """The folder of a tiny encoder that has learned its text."""
    folder = tmp_path_factory.mktemp("encoder")
    words = ("--architecture=encoder", "--mask_rate=uniform", "--block_size=48", "--n_embd=32")
    shell.succeed("train.py", text, TINY, *words, "--max_iters=600", f"--out_dir={folder}")
    return folder


@pytest.fixture
def fill(shell, encoder):
    def fill(*words, **options):
        return shell.succeed("sample.py", f"--out_dir={encoder}", *words, **options)

    return fill


def test_blanks_are_filled_and_the_rest_of_the_text_stays(fill) -> None:
    done = fill(f"--start={BLANKED}", "--temperature=0")
    assert done.stdout == SENTENCE + "\n" and done.stderr == ""
    other = fill(f"--start={BLANKED.replace('_', '?')}", "--blank=?", "--temperature=0")
    assert other.stdout == done.stdout


def test_each_blank_has_its_probabilities_in_json_lines(fill) -> None:
    done = fill(f"--start={BLANKED}", "--num_samples=2", "--output=jsonl", "--temperature=0")
    for number, line in enumerate(done.stdout.splitlines()):
        sample = json.loads(line)
        assert (sample["sample"], sample["prompt"], sample["text"]) == (number, BLANKED, SENTENCE)
        blanks = sample["blanks"]
        places = [i for i, character in enumerate(BLANKED) if character == "_"]
        assert [blank["position"] for blank in blanks] == places
        assert sorted(blank["step"] for blank in blanks) == [1, 2]
        for blank in blanks:
            assert blank["token"] == SENTENCE[blank["position"]] == blank["likeliest"][0][0]
            chances = [chance for _, chance in blank["likeliest"]]
            assert chances == sorted(chances, reverse=True) and 0.5 < sum(chances) <= 1.0001


def test_a_text_is_written_from_nothing_in_the_steps_asked_for(fill) -> None:
    words = ("--max_new_tokens=100", "--num_samples=2", "--denoise_steps=12")
    done = fill(*words)
    one, two, rest = done.stdout.split(SEPARATOR)
    assert rest == "" and len(one) == len(two) == 100 and one != two
    assert "block_size=48" in done.stderr and len(done.stderr.splitlines()) == 1
    again = fill("--max_new_tokens=100", "--denoise_steps=12", "--output=jsonl")
    sample = json.loads(again.stdout)
    assert sample["text"] == one and sample["prompt"] == ""
    assert (
        max(blank["step"] for blank in sample["blanks"]) == 12 + 12 + 12 + 4
    )  # windows of 48, 24, 24, 4


def test_a_prompt_without_blanks_is_continued(fill) -> None:
    done = fill("--start=The old cat", "--max_new_tokens=20")
    assert done.stdout.startswith("The old cat") and len(done.stdout) == 11 + 20 + 1


def test_in_a_terminal_the_text_is_redrawn_until_it_is_whole(shell, encoder) -> None:
    words = (f"--out_dir={encoder}", f"--start={BLANKED}", "--temperature=0")
    done = shell.run_at_terminal("sample.py", *words, TERM="xterm", COLUMNS="", LINES="")
    frames = re.split(r"\r\x1b\[J", done.stdout)
    assert done.status == 0 and frames[1] == BLANKED and frames[-1] == SENTENCE + "\n"
    assert [frame.count("_") for frame in frames[1:]] == [2, 1, 0, 0]


def test_a_conversation_goes_on_after_a_mistake(fill) -> None:
    lines = f"{BLANKED}\nZ_bra\nThe _ld\n"
    done = fill("--interactive", "--temperature=0", input=lines)
    assert done.stdout.splitlines() == [SENTENCE, "The old"]
    assert "'Z'" in done.stderr and "Traceback" not in done.stderr


def test_unknown_characters_can_be_skipped(fill) -> None:
    done = fill(f"--start=☃{BLANKED}", "--unknown=skip", "--temperature=0")
    assert done.stdout == SENTENCE + "\n" and "'☃'" in done.stderr


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("--stop=.", ("--stop=", "architecture=encoder")),
        ("--dtype=int8", ("int8",)),
        ("--blank=e", ("'e'", "--blank=_")),
        ("--start=" + 10 * "The c_t ", ("80 characters", "block_size=48")),
    ],
)
def test_what_an_encoder_cannot_do_is_refused_in_one_line(shell, encoder, word, parts) -> None:
    done = shell.run("sample.py", f"--out_dir={encoder}", f"--start={BLANKED}", word)
    assert done.status == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert all(part in done.stderr for part in parts)


def test_options_of_an_encoder_are_refused_for_a_decoder(shell, trained) -> None:
    done = shell.run("sample.py", f"--out_dir={trained.folder}", "--denoise_steps=3")
    assert done.status == 2 and "--architecture=encoder" in done.stderr


def test_a_run_does_not_go_on_with_another_mask_rate(shell, encoder) -> None:
    resume = ("--init_from=resume", f"--out_dir={encoder}", "--mask_rate=0.15")
    done = shell.run("train.py", *resume, "--max_iters=700")
    assert done.status == 2 and len(done.stderr.splitlines()) == 1
    assert "mask_rate=uniform" in done.stderr and f"--init_from={encoder}" in done.stderr
    assert "over the masked ones" in shell.succeed("train.py", *resume, "--eval_only=True").stdout


def test_an_encoder_of_few_blanks_is_said_to_be_no_writer(shell, text, tmp_path) -> None:
    words = (TINY, "--architecture=encoder", f"--out_dir={tmp_path}")
    shell.succeed("train.py", text, *words)
    done = shell.succeed("sample.py", f"--out_dir={tmp_path}", "--max_new_tokens=10")
    assert "15%" in done.stderr and "--mask_rate=uniform" in done.stderr
    one = shell.succeed("sample.py", f"--out_dir={tmp_path}", "--start=The _at")
    assert "15%" not in one.stderr


def test_explain_shows_what_each_blank_would_be(shell, encoder) -> None:
    words = (f"--out_dir={encoder}", "--format=text")
    done = shell.succeed("explain.py", *words, f"--text={BLANKED}")
    rows = done.stdout.split("\n\n")[-1].splitlines()
    places = [i for i, character in enumerate(BLANKED) if character == "_"]
    assert [row[:10] for row in rows] == [f"□ ({i}) → {SENTENCE[i]}" for i in places]
    default = shell.succeed("explain.py", *words)
    assert "at each blank" in default.stdout and "□" in default.stdout
    refused = shell.run("explain.py", *words, "--text=The cat", "--blank=a")
    assert refused.status == 2 and len(refused.stderr.splitlines()) == 1


def test_explain_refuses_blanks_for_a_decoder(shell, encoder, trained) -> None:
    beside = (f"--out_dir={encoder}", f"--against={trained.folder}", f"--text={BLANKED}")
    done = shell.run("explain.py", *beside, "--open=False")
    assert done.status == 2 and len(done.stderr.splitlines()) == 1
    assert f"{trained.folder}/ckpt.pt is no encoder" in done.stderr
    done = shell.run("explain.py", f"--out_dir={trained.folder}", "--blank=?")
    assert done.status == 2 and "--architecture=encoder" in done.stderr
