"""sample.py from a prompt to a text, as a user runs it."""

import json
import select
import subprocess

import pytest
from helpers.shell import SENTENCES, TINY, easy_text

SEPARATOR = "\n---------------\n"
PROMPT = "The old"
LENGTH = 40  # long enough for a full stop, and more than twice the block


def sample(shell, run, *words, **options):
    done = shell.run("sample.py", f"--out_dir={run.folder}", *words, **options)
    assert done.status == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def three(shell, trained):
    """What stdout holds after three samples."""
    return sample(
        shell, trained, f"--start={PROMPT}", f"--max_new_tokens={LENGTH}", "--num_samples=3"
    ).stdout


@pytest.fixture(scope="module")
def first(three):
    """The first of them, as it is written when it is alone."""
    return three.split(SEPARATOR)[0] + "\n"


def test_num_samples_texts_have_the_prompt_and_max_new_tokens_characters_each(three):
    *texts, rest = three.split(SEPARATOR)
    assert rest == ""
    assert len(texts) == 3 and len(set(texts)) == 3
    for text in texts:
        assert text.startswith(PROMPT)
        assert len(text) == len(PROMPT) + LENGTH


def test_the_same_command_writes_the_same_text(shell, trained, three):
    again = sample(
        shell, trained, f"--start={PROMPT}", f"--max_new_tokens={LENGTH}", "--num_samples=3"
    )
    assert again.stdout == three
    assert again.stderr == ""


def test_a_prompt_comes_from_a_file_and_a_sample_does_not_depend_on_how_many_there_are(
    shell, trained, first, tmp_path
):
    (tmp_path / "prompt.txt").write_bytes(b"\xef\xbb\xbf" + PROMPT.encode())
    assert (
        sample(
            shell, trained, f"--start=FILE:{tmp_path / 'prompt.txt'}", f"--max_new_tokens={LENGTH}"
        ).stdout
        == first
    )


def test_a_prompt_comes_from_standard_input(shell, trained, first):
    assert (
        sample(shell, trained, "--start=-", f"--max_new_tokens={LENGTH}", input=PROMPT).stdout
        == first
    )


def test_stop_ends_a_sample_before_the_string(shell, trained, first):
    done = sample(
        shell,
        trained,
        f"--start={PROMPT}",
        f"--max_new_tokens={LENGTH}",
        "--stop=nowhere",
        "--stop=.",
    )
    assert "." in first
    assert done.stdout == first.split(".")[0] + "\n"


def test_unknown_characters_of_a_prompt_can_be_skipped_and_are_named(shell, trained, first):
    done = sample(
        shell, trained, "--start=Thé☃e old", f"--max_new_tokens={LENGTH}", "--unknown=skip"
    )
    assert done.stdout == first
    assert "'é' '☃'" in done.stderr


def test_jsonl_has_one_object_a_sample_with_a_log_probability_for_each_token(shell, trained, three):
    done = sample(
        shell,
        trained,
        f"--start={PROMPT}",
        f"--max_new_tokens={LENGTH}",
        "--num_samples=3",
        "--output=jsonl",
    )
    objects = [json.loads(line) for line in done.stdout.splitlines()]
    assert [text + SEPARATOR for text in three.split(SEPARATOR)[:-1]] == [
        value["prompt"] + value["text"] + SEPARATOR for value in objects
    ]
    for value in objects:
        assert "".join(value["tokens"]) == value["text"] and len(value["tokens"]) == LENGTH
        assert len(value["log_probabilities"]) == LENGTH
        assert all(-20 < number <= 0 for number in value["log_probabilities"])
        # a model that knows its text is seldom surprised, and sometimes
        assert (
            sum(value["log_probabilities"]) / LENGTH > -1 and min(value["log_probabilities"]) < -0.5
        )


def test_temperature_0_leaves_nothing_to_chance_and_text_goes_on_past_the_block(shell, trained):
    prompt = SENTENCES[0] + SENTENCES[1]  # longer than the block of 16 by itself
    done = sample(
        shell,
        trained,
        f"--start={prompt}",
        "--temperature=0",
        "--max_new_tokens=300",
        "--num_samples=2",
    )
    one, two, _ = done.stdout.split(SEPARATOR)
    assert one == two and len(one) == len(prompt) + 300
    known = set(easy_text().split())
    written = one.split()[:-1]  # the last word may be cut
    assert sum(word in known for word in written) > 0.9 * len(written)


@pytest.mark.slow
def test_a_conversation_goes_on_after_a_prompt_with_unknown_characters(shell, trained):
    done = sample(
        shell, trained, "--interactive", "--max_new_tokens=20", input="The old\nZebra\nThe red\n"
    )
    assert "'Z'" in done.stderr and "Traceback" not in done.stderr
    assert done.stdout.startswith("The old\n")
    assert done.stdout.index("The red\n") == len("The old\n") + 20 + 1
    assert len(done.stdout) == 2 * (len("The old\n") + 20 + 1)


@pytest.mark.slow
def test_a_conversation_works_with_a_model_that_knows_no_newline(shell, one_line):
    done = sample(shell, one_line, "--interactive", "--max_new_tokens=20", input="la\nli\n")
    assert done.stderr == ""
    assert done.stdout.startswith("la") and len(done.stdout) >= 2 * (2 + 20)


@pytest.mark.slow
def test_a_model_of_a_single_step_is_said_to_be_hardly_trained(shell, text, tmp_path):
    done = shell.run("train.py", text, TINY, "--max_iters=1", f"--out_dir={tmp_path}")
    assert done.status == 0, done.stderr
    sampled = shell.run("sample.py", f"--out_dir={tmp_path}", "--max_new_tokens=5")
    (said,) = sampled.stderr.splitlines()
    assert said.startswith(f"{tmp_path / 'ckpt.pt'} is hardly trained: it is of step 1 of 1; ")
    words = (f"--out_dir={tmp_path}", "--format=text", "--text=The cat")
    explained = shell.run("explain.py", *words)
    assert explained.status == 0 and explained.stderr == said + "\n"
    before = shell.run("explain.py", *words, "--step=0")
    assert before.status == 0 and before.stderr == ""  # what is asked for is the untrained model


# Runs sample.py so that it waits for a byte on standard input before each token.
PACED = """
import sys
sys.path.insert(0, ".")
import kqv.generation.sampling, sample
from kqv.errors import run_script
real = kqv.generation.sampling.generate

def generate(*arguments):
    for tokens in real(*arguments):
        sys.stdin.buffer.raw.read(1)
        yield tokens

kqv.generation.sampling.generate = generate
run_script(sample.main)
"""


def test_text_appears_as_it_is_generated_and_a_reader_may_leave(shell, trained):
    (shell.folder / "paced.py").write_text(PACED)
    words = (f"--out_dir={trained.folder}", "--start=The", "--max_new_tokens=4000")
    with shell.start("paced.py", *words, stdin=subprocess.PIPE) as process:
        process.stdin.write(b"." * 20)
        seen = b""
        while len(seen) < len("The") + 20:
            assert select.select([process.stdout], [], [], 60)[0], (
                f"after 20 characters there is {seen!r}"
            )
            seen += (piece := process.stdout.read(1))
            assert piece, process.stderr.read().decode()
        assert seen.startswith(b"The") and process.poll() is None
        process.stdout.close()  # as `| head` does
        process.stdin.close()  # no more waiting
        assert process.stderr.read() == b""
        assert process.wait() == 0
