"""metrics.jsonl has each step once, whatever interrupts a run; people see a bar, or plain lines."""

import io
import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kqv.options.settings import TrainSettings
from kqv.training.curve import draw_curve
from kqv.training.log import RunLog
from kqv.training.metrics import read_metrics
from kqv.training.pace import Pace


def log_of(folder: Path, first_step: int = 0, **options: object) -> RunLog:
    return RunLog(TrainSettings(out_dir=str(folder), max_iters=40, **options), first_step)


def write_steps(log: RunLog, steps: range) -> None:
    """Write a line for each step, with a validation loss at every twentieth."""
    for step in steps:
        metrics = {"train_loss": 5 - step / 10, "tokens_per_second": 1000}
        if step % 20 == 0:
            metrics["val_loss"] = 4.0
        log.write(step, **metrics)


def steps_in(folder: Path) -> list[int]:
    return [line["step"] for line in read_metrics(folder)]


def test_metrics_are_one_json_object_a_line_written_at_once(tmp_path: Path) -> None:
    numbers = {"train_loss": 3.5, "learning_rate": 0.01, "grad_norm": 1.0, "tokens_per_second": 9}
    with log_of(tmp_path) as log:
        assert log.unfinished == {}
        log.write(0, val_loss=4.174)
        log.write(10, **numbers)
        # read before the file is closed: a crash would lose none
        text = (tmp_path / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert lines == read_metrics(tmp_path)
    seconds = [line.pop("wall_seconds") for line in lines]
    assert lines == [{"step": 0, "val_loss": 4.174}, {"step": 10, **numbers}]
    assert 0 < seconds[0] <= seconds[1]


def test_a_new_run_begins_with_an_empty_file(tmp_path: Path) -> None:
    for _ in range(2):
        with log_of(tmp_path) as log:
            write_steps(log, range(10, 50, 10))
        assert steps_in(tmp_path) == [10, 20, 30, 40]


@pytest.mark.parametrize("checkpoint", [10, 20, 25, 30])
@pytest.mark.parametrize(
    "half_line", ["", '{"step": 40, "train_l', '{"step": 40, "train_loss": 1.5}', "{"]
)
def test_after_a_resume_each_step_has_one_line(
    checkpoint: int, half_line: str, tmp_path: Path
) -> None:
    """A run that wrote up to step 30 is killed in the middle of a line, and resumes from an earlier
    checkpoint."""
    with log_of(tmp_path) as log:
        write_steps(log, range(10, 40, 10))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(half_line)
    with log_of(tmp_path, checkpoint) as log:
        measured = {
            10: {"train_loss": 4.0},
            20: {"train_loss": 3.0, "val_loss": 4.0},
            30: {"train_loss": 2.0},
        }
        if checkpoint in measured:
            assert log.unfinished == {**measured[checkpoint], "tokens_per_second": 1000}
            log.write(checkpoint, **{**log.unfinished, "val_loss": 3.25})
        else:
            assert log.unfinished == {}
        write_steps(log, range(checkpoint // 10 * 10 + 10, 50, 10))
    lines = {line["step"]: line for line in read_metrics(tmp_path)}
    assert steps_in(tmp_path) == [10, 20, 30, 40]
    assert lines[40]["train_loss"] == 1.0
    if checkpoint in measured:
        assert lines[checkpoint]["val_loss"] == 3.25


def test_a_folder_without_metrics_has_none(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []


LINE = '{"step": 0, "val_loss": 4.2}\n'


@pytest.mark.parametrize("text", ["", LINE, LINE + '{"step": 10, "train_l'])
def test_the_curve_is_a_picture_whatever_the_metrics_have(text: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(text)
    assert draw_curve(tmp_path) == tmp_path / "loss.png"
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl", "loss.png"}


def test_the_curve_shows_what_was_measured(tmp_path: Path) -> None:
    pictures = []
    for text in (
        "",
        '{"step": 0, "train_loss": 4.2}\n{"step": 9, "train_loss": 4.0}\n',
        '{"step": 9, "val_loss_full": 1.5}\n',
    ):
        (tmp_path / "metrics.jsonl").write_text(text)
        pictures.append(draw_curve(tmp_path).read_bytes())
    assert len(set(pictures)) == 3


def test_without_a_terminal_there_are_plain_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with log_of(tmp_path) as log:
        log.say("hello")
        log.write(0, val_loss=4.1)  # train.py has said it: no line of its own
        log.progress(10, 3.5, 12345.6)
        log.write(10, train_loss=3.5, tokens_per_second=12345.6)
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"hello\nstep 10/40: loss 3.5000, 12,346 tokens/s, [\d:]+ left\n", err)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_a_bar_shows_the_loss_below_the_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with log_of(tmp_path) as log:
        log.progress(10, 3.5, 12345.6)
        log.say("hello")
        log.write(10, train_loss=3.5, tokens_per_second=12345.6)
    shown = sys.stderr.getvalue()
    for part in ("10/40", "loss 3.500, 12,346 tokens/s", "hello\n"):
        assert part in shown
    assert "step 10/40: loss" not in shown


def test_a_number_that_is_not_finite_is_left_out_of_the_file(tmp_path: Path) -> None:
    with log_of(tmp_path) as log:
        log.write(10, train_loss=math.nan, grad_norm=math.inf, skipped=1, tokens_per_second=1000)
    line = read_metrics(tmp_path)[0]
    assert set(line) == {"step", "skipped", "tokens_per_second", "wall_seconds"}


def test_lists_of_numbers_are_written_and_read_unless_one_is_not_finite(
    tmp_path: Path,
) -> None:
    with log_of(tmp_path) as log:
        log.write(10, entropy=[1.5, 2.5], raw_variance=[1.0, math.inf], tokens_per_second=1000)
    with log_of(tmp_path, 10) as log:
        assert log.unfinished == {"entropy": [1.5, 2.5], "tokens_per_second": 1000}


@pytest.mark.parametrize("room", [0, 1, 60])
def test_a_full_disk_leaves_whole_lines_and_the_next_write_catches_up(
    room: int, tmp_path: Path, small_disk: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with log_of(tmp_path) as log:
        write_steps(log, range(10, 30, 10))
        before = (tmp_path / "metrics.jsonl").read_bytes()
        small_disk(len(before) + room)
        try:
            for step in (30, 40):
                with pytest.raises(OSError):
                    log.write(step, train_loss=2.0, tokens_per_second=1000)
                assert (tmp_path / "metrics.jsonl").read_bytes() == before
        finally:
            small_disk(1 << 30)
        log.write(50, train_loss=1.0, tokens_per_second=1000)
    assert steps_in(tmp_path) == [10, 20, 30, 40, 50]


def test_a_resume_that_is_killed_before_its_first_line_loses_no_line(tmp_path: Path) -> None:
    with log_of(tmp_path) as log:
        write_steps(log, range(10, 40, 10))
    before = read_metrics(tmp_path)
    for _ in range(2):
        with log_of(tmp_path, 20) as log:
            assert log.unfinished == {"train_loss": 3.0, "val_loss": 4.0, "tokens_per_second": 1000}
        assert read_metrics(tmp_path) == before[:2]


GARBAGE = [
    b"\0" * 50,
    b"\xff\xfe\n",
    b"5\n",
    b"null\n",
    b'{"step": "x"}\n',
    b'{"loss": 1}\n',
    b"[" * 99999,
]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_lines_that_a_crash_damaged_are_skipped(garbage: bytes, tmp_path: Path) -> None:
    with log_of(tmp_path) as log:
        write_steps(log, range(10, 30, 10))
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(garbage)
    assert steps_in(tmp_path) == [10, 20]


def test_overfitting_is_reported_once_in_a_run_however_often_it_is_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with log_of(tmp_path) as log:
        for step, train, val in ((10, 3.0, 3.5), (20, 1.0, 4.0)):
            log.write(step, train_loss=train, val_loss=val, tokens_per_second=1000)
    with log_of(tmp_path, 20) as log:
        log.write(20, **log.unfinished)
    with log_of(tmp_path, 20) as log:
        log.write(20, **log.unfinished)
        log.write(30, train_loss=0.5, val_loss=4.5, tokens_per_second=1000)
        assert "since step 10 (3.50 → 4.50)" in log.remark
    with log_of(tmp_path, 30) as log:
        log.write(40, train_loss=0.3, val_loss=5.0, tokens_per_second=1000)
    lines = capsys.readouterr().err.splitlines()
    (remark,) = (line for line in lines if line.startswith("validation loss has risen"))
    assert "since step 10 (3.50 → 4.00)" in remark


def test_the_pace_sees_the_speed_of_every_line_that_has_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Watch(Pace):
        def see(self, tokens_per_second: float) -> str:
            return f"slow: {tokens_per_second}" if tokens_per_second < 100 else ""

    with RunLog(TrainSettings(out_dir=str(tmp_path), max_iters=40), 0, Watch(1, "")) as log:
        log.write(0, val_loss=3.0)
        log.write(10, train_loss=3.0, tokens_per_second=1000)
        log.write(20, train_loss=3.0, tokens_per_second=50)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("slow")] == ["slow: 50"]
