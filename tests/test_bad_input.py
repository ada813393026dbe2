"""Whatever is typed, written or found in a file: it works, or one line says why not. Never a
traceback, never a hang.

pytest tests/test_bad_input.py --cases=2000     the same with more cases; takes some minutes
"""

import contextlib
import copy
import hashlib
import io
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import explain
import export
import sample
import train
from kqv import project
from kqv.checkpoints.loading import load_checkpoint
from kqv.checkpoints.single import SEAL, save_checkpoint
from kqv.errors import exit_status
from kqv.options.option_types import alternatives
from kqv.options.settings import ExplainSettings, ExportSettings, SampleSettings, TrainSettings

TINY = [
    "--n_layer=1", "--n_head=2", "--n_embd=8", "--block_size=8", "--batch_size=2",
    "--max_iters=2", "--eval_iters=2", "--sample_chars=0", "--compile=False", "--device=cpu",
]  # fmt: skip
TEXT = "To be, or not to be, that is the question:\n" * 20
PAIRS = "To be\tor not\nor\tto be\nthat is\tthe question\n" * 20
ARCHITECTURES = ("decoder", "encoder", "encoder_decoder")
# Seconds of computing, and by the clock, because others compute, too; what takes longer hangs.
LONGEST, LONGEST_WAIT = 30, 300

# Each example has files of its own, and a slow machine is no failure.
many = settings(
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much], deadline=None
)


@pytest.fixture(scope="module", autouse=True)
def at_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A data folder of our own, and no signal handlers that outlive a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(project, "DATA", tmp_path_factory.mktemp("data"))
        patch.setattr(train, "stop_signals", lambda *_: contextlib.nullcontext([]))
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
        yield


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the examples, with a text and pairs in it."""
    folder = tmp_path_factory.mktemp("room")
    (folder / "text.txt").write_text(TEXT)
    (folder / "pairs.tsv").write_text(PAIRS)
    return folder


class Run(NamedTuple):
    """A model, and what it was trained on."""

    folder: Path
    words: list[str]


@pytest.fixture(scope="module")
def runs(room: Path) -> dict[str, Run]:
    """A run of each architecture."""
    made = {}
    for name in ARCHITECTURES:
        words, folder = learning(room, name), room / name
        assert answer(train.main, *words, *TINY, f"--out_dir={folder}") == (0, "")
        made[name] = Run(folder, words)
    return made


def learning(room: Path, architecture: str) -> list[str]:
    """The words of a command line that name what an architecture learns from."""
    if architecture != "encoder_decoder":
        return [str(room / "text.txt"), f"--architecture={architecture}"]
    return [str(room / "pairs.tsv"), f"--architecture={architecture}", "--target_tokenizer=symbols"]


@pytest.fixture(scope="module")
def trained(runs: dict[str, Run]) -> Path:
    return runs["decoder"].folder


def answer(main: Callable[[list[str]], int], *words: str) -> tuple[int, str]:
    """The exit status of a script and the line that explains it.

    Anything else fails the test: an exception that `run_script` would show as a traceback, two
    lines, an unknown status, a hang.
    """

    def too_long(*_: object) -> None:
        raise AssertionError(f"{words} hangs")

    before = [signal.signal(kind, too_long) for kind in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, LONGEST)
    signal.alarm(LONGEST_WAIT)
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = exit_status(lambda: main(list(words)))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for kind, handler in zip((signal.SIGPROF, signal.SIGALRM), before, strict=True):
            signal.signal(kind, handler)
    name = Path(sys.argv[0]).name
    said = [line for line in err.getvalue().splitlines() if line.startswith(f"{name}: ")]
    assert (status, len(said)) in ((0, 0), (1, 1), (2, 1)), (words, status, err.getvalue())
    return status, "".join(said)


def no_halves(folder: Path) -> None:
    """No file that was begun is left, and each checkpoint is whole."""
    assert list(folder.rglob("*.tmp")) == []
    for path in folder.rglob("*.pt"):
        load_checkpoint(path)


# --- options -------------------------------------------------------------------------------------


NUMBERS = [
    -1, 0, 1, 2, 3, 7, 2**31, 2**63, 10**30, -0.0, 0.5, 1e-300, 1e300, "nan", "inf", "-inf", "",
    "x", "1e3", "0x10", "1_0",
]  # fmt: skip
WORDS = [
    "", "x", "True", "none", "\0", "é", "../..", "a" * 300, "resume", "/", "-", "--", "ckpt.pt",
    "\n", "%s", "{}",
]  # fmt: skip
NOT_FUZZED = {
    # What the machine has is tested elsewhere; compiling takes minutes.
    "device": "cpu", "compile": "False",
    "out_dir": None, "to": None, "wandb_log": "False",
}  # fmt: skip


# More work than anybody waits for is no hang.
LONG_WORK = re.compile(
    r"--(max_iters|max_new_tokens|sample_chars|gradient_accumulation_steps)=\d{4}"
)


def options_of(settings_class: type) -> st.SearchStrategy[list[str]]:
    """One to three options with values that fit, nearly fit or do not."""

    def values(name: str) -> st.SearchStrategy[str]:
        kinds = alternatives(get_type_hints(settings_class)[name])
        words = [kind for kind in kinds if isinstance(kind, str)]
        return st.sampled_from(
            [str(value) for value in [*words, *(WORDS if str in kinds else NUMBERS + WORDS[:4])]]
        )

    names = [field.name for field in fields(settings_class) if field.name not in NOT_FUZZED]
    one = st.sampled_from(names).flatmap(
        lambda name: values(name).map(lambda value: f"--{name}={value}")
    )
    return st.lists(one, min_size=1, max_size=3)


@pytest.mark.slow
@many
@given(options=options_of(TrainSettings), architecture=st.sampled_from(ARCHITECTURES))
def test_any_options_train_or_are_refused(
    room: Path, options: list[str], architecture: str
) -> None:
    assume(not any(map(LONG_WORK.match, options)))
    with tempfile.TemporaryDirectory(dir=room) as folder:
        words = learning(room, architecture)
        answer(train.main, *words, *TINY, f"--out_dir={folder}/run", *options)
        no_halves(Path(folder))


@pytest.mark.slow
@many
@given(options=options_of(ExplainSettings), architecture=st.sampled_from(ARCHITECTURES))
def test_any_options_explain_or_are_refused(
    runs: dict[str, Run], options: list[str], architecture: str
) -> None:
    answer(explain.main, f"--out_dir={runs[architecture].folder}", "--text=To be", *options)


@pytest.mark.slow
@many
@given(options=options_of(ExportSettings), architecture=st.sampled_from(ARCHITECTURES))
def test_any_options_export_or_are_refused(
    runs: dict[str, Run], options: list[str], architecture: str
) -> None:
    assume("--format=onnx" not in options)  # takes seconds
    answer(export.main, f"--out_dir={runs[architecture].folder}", *options)
    no_halves(runs[architecture].folder)


@pytest.mark.slow
@many
@given(options=options_of(SampleSettings), architecture=st.sampled_from(ARCHITECTURES))
def test_any_options_sample_or_are_refused(
    runs: dict[str, Run], options: list[str], architecture: str
) -> None:
    assume(not any(map(LONG_WORK.match, options)))
    where = f"--out_dir={runs[architecture].folder}"
    answer(sample.main, where, "--device=cpu", "--max_new_tokens=12", *options)


# --- texts and prompts ---------------------------------------------------------------------------


PIECES = [
    "a", "\0", "\n", "\r", "\r\n", "é", "山", "😀", "\ufeff", "\u2028",
    b"\xed\xa0\x80", b"\xff", b"\xc3",
]  # fmt: skip
BYTES = st.lists(st.sampled_from(PIECES) | st.binary(max_size=5), max_size=12).map(
    lambda pieces: b"".join(
        piece if isinstance(piece, bytes) else piece.encode() for piece in pieces
    )
)


@pytest.mark.slow
@many
@given(
    content=BYTES,
    times=st.sampled_from([1, 10, 100]),
    encoding=st.sampled_from(["utf-8", "utf-16", "latin-1", "shift_jis"]),
)
def test_any_text_is_learnt_or_refused(
    room: Path, content: bytes, times: int, encoding: str
) -> None:
    with tempfile.TemporaryDirectory(dir=room) as folder:
        text = Path(folder) / "any.txt"
        text.write_bytes(content * times)
        words = (str(text), f"--encoding={encoding}", "--sample_chars=5", f"--out_dir={folder}/run")
        status, _ = answer(train.main, *TINY, *words)
        no_halves(Path(folder))
        if status == 0:
            assert answer(sample.main, f"--out_dir={folder}/run", "--max_new_tokens=10")[0] == 0


def test_a_line_of_ten_megabytes_is_a_text_like_any_other(room: Path) -> None:
    (room / "line.txt").write_bytes(b"All work and no play makes Jack a dull boy. " * 230_000)
    words = (str(room / "line.txt"), "--block_size=64", "--batch_size=512")
    status, _ = answer(train.main, *TINY, *words, f"--out_dir={room / 'line'}")
    assert status == 0


PROMPTS = (
    st.text(max_size=20)
    | st.text("Tobe, \n\0", max_size=20)
    | st.sampled_from(["FILE:", "FILE:/", "FILE:/dev/null", "-"])
)


@pytest.mark.slow
@many
@given(start=PROMPTS, architecture=st.sampled_from(ARCHITECTURES))
def test_any_prompt_is_continued_or_refused(
    runs: dict[str, Run], start: str, architecture: str
) -> None:
    where = f"--out_dir={runs[architecture].folder}"
    for more in ((), ("--unknown=skip",), ("--output=jsonl", "--stop=e")):
        answer(sample.main, where, "--max_new_tokens=5", f"--start={start}", *more)


# --- checkpoints ---------------------------------------------------------------------------------


RUBBISH = [
    None, True, -1, 0, 3, 10**12, 2**70, 10**600, -(10**600), 0.5, float("nan"), float("inf"),
    float("-inf"), "", "x", "rope", [], [1], {}, {"x": 1}, (), (1, 2),
    torch.ones(3), torch.ones(()), torch.full((8, 8), float("nan")),
    torch.ones(1).expand(10**9), torch.zeros(0), torch.ones(8, 8, dtype=torch.int64),
    torch.ones(8, 8, dtype=torch.complex64), "../../etc", "\ud800",
]  # fmt: skip


def places(state: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each thing in a checkpoint."""
    children: Iterable[tuple[Any, Any]] = ()
    if isinstance(state, dict):
        children = state.items()
    elif isinstance(state, list):
        children = enumerate(state)
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def changed(state: Any, place: tuple[Any, ...], value: Any, how: str) -> Any:
    state = copy.deepcopy(state)
    inner = state
    for key in place[:-1]:
        inner = inner[key]
    if how == "remove":
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return state


def save_again(path: Path, state: dict[str, Any]) -> None:
    """Write what was read from a checkpoint."""
    save_checkpoint(path, {key: value for key, value in state.items() if key != "format"})


@pytest.mark.slow
@many
@given(data=st.data())
def test_any_checkpoint_is_used_or_refused(
    room: Path, runs: dict[str, Run], data: st.DataObject
) -> None:
    original, words = runs[data.draw(st.sampled_from(ARCHITECTURES))]
    state = load_checkpoint(original / "last.pt")
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.sampled_from(list(places(state))))
        value = data.draw(st.sampled_from(RUBBISH))
        how = data.draw(st.sampled_from(["change", "change", "remove"]))
        state = changed(state, place, value, how)
    with tempfile.TemporaryDirectory(dir=room) as name:
        folder = Path(name)
        for file in ("ckpt.pt", "last.pt"):
            save_again(folder / file, state)
        answer(sample.main, f"--out_dir={folder}", "--max_new_tokens=3", "--start=To")
        answer(explain.main, f"--out_dir={folder}", "--text=To be", "--step=0")
        tuned = f"--out_dir={folder / 'tuned'}"
        answer(train.main, *words, f"--init_from={folder}", *TINY[5:], tuned)
        resume = ("--init_from=resume", f"--out_dir={folder}", "--max_iters=4")
        answer(train.main, *words, *resume, *TINY[6:])


@pytest.mark.parametrize(
    "name",
    ["seed", "batch_size", "gradient_accumulation_steps", "learning_rate", "attention_scale"],
)
def test_a_number_of_hundreds_of_digits_in_a_checkpoint_is_refused(
    room: Path, trained: Path, name: str
) -> None:
    state = load_checkpoint(trained / "last.pt")
    place = ("model_args" if name in state["model_args"] else "config", name)
    state = changed(state, place, 10**600, "change")
    with tempfile.TemporaryDirectory(dir=room) as folder:
        save_again(Path(folder) / "last.pt", state)
        resume = ("--init_from=resume", f"--out_dir={folder}", "--max_iters=4")
        status, line = answer(train.main, str(room / "text.txt"), *resume, *TINY[6:])
        assert status == 2 and name in line
        status, line = answer(explain.main, f"--out_dir={folder}", "--text=To be", "--step=0")
        is_needed = name in ("seed", "attention_scale")
        assert (status, name in line) == ((2, True) if is_needed else (0, False))


@many
@given(data=st.data())
def test_a_checkpoint_with_any_bytes_changed_is_used_or_refused(
    room: Path, trained: Path, data: st.DataObject
) -> None:
    """And sealed again, as only somebody does who means it."""
    content = bytearray((trained / "ckpt.pt").read_bytes()[: -len(SEAL) - 32])
    for _ in range(data.draw(st.integers(1, 8))):
        begin = data.draw(st.integers(0, len(content) - 1))
        new = data.draw(st.binary(min_size=1, max_size=6))
        content[begin : begin + len(new)] = new
    path = room / "bytes.pt"
    path.write_bytes(bytes(content) + SEAL + hashlib.sha256(content).digest())
    answer(sample.main, f"--out_dir={path}", "--max_new_tokens=3", "--start=To")
    answer(explain.main, f"--out_dir={path}", "--text=To be")
