"""TensorBoard and Weights & Biases get the numbers of metrics.jsonl, the samples and the curve."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kqv.options.settings import TrainSettings
from kqv.training.curve import draw_curve
from kqv.training.log import RunLog
from kqv.training.metrics import read_metrics

if TYPE_CHECKING:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

NUMBERS = {
    0: {"val_loss": 4.0},
    10: {"train_loss": 3.5, "tokens_per_second": 100},
    20: {"train_loss": 3.0, "val_loss": 3.25, "tokens_per_second": 90},
}


def report(folder: Path, first_step: int = 0, last_step: int = 20, **options: object) -> None:
    """Log what a short run logs."""
    settings = TrainSettings(out_dir=str(folder), wandb_run_name="a name", **options)
    with RunLog(settings, first_step) as log:
        for step, metrics in NUMBERS.items():
            if first_step <= step <= last_step:
                if "val_loss" in metrics:
                    log.sample(step, f"<b>sample\nof step {step}")
                log.write(step, **metrics, entropy=[1.0, 2.0])
        draw_curve(folder)


def texts_of(events: "EventAccumulator", name: str) -> list[str]:
    tensors = events.Tensors(f"{name}/text_summary")
    return [tensor.tensor_proto.string_val[0].decode() for tensor in tensors]


def test_tensorboard_shows_the_numbers_the_samples_the_settings_and_the_curve(
    tmp_path: Path,
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    report(tmp_path, last_step=10, tensorboard=True)
    report(tmp_path, first_step=10, tensorboard=True)  # a resume
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    for name in ("train_loss", "val_loss", "tokens_per_second"):
        expected = [(step, metrics[name]) for step, metrics in NUMBERS.items() if name in metrics]
        assert [(event.step, event.value) for event in events.Scalars(name)] == expected
    assert not {"step", "entropy"} & set(events.Tags()["scalars"])
    assert texts_of(events, "sample") == [
        f"    <b>sample\n    of step {step}\n" for step in (0, 20)
    ]
    settings = texts_of(events, "settings")[0]
    assert "a name" in settings
    assert "| n_layer | 3 |" in settings
    assert events.Images("curve")[-1].encoded_image_string.startswith(b"\x89PNG")


@pytest.mark.slow
def test_weights_and_biases_logs_offline_into_out_dir_without_asking_for_a_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    # a home in which nobody has logged in
    for name in ("HOME", "NETRC", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    (tmp_path / "run").mkdir()
    report(tmp_path / "run", wandb_log=True)
    (run,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    data = next(run.glob("run-*.wandb")).read_bytes()
    for piece in (b"a name", b"val_loss", b"train_loss", b"n_layer"):
        assert piece in data
    pages = [path.read_text() for path in run.glob("files/media/html/*.html")]
    assert any("&lt;b&gt;sample\nof step 20" in page for page in pages)
    assert next(run.glob("files/media/images/curve*.png")).read_bytes().startswith(b"\x89PNG")
    assert len(read_metrics(tmp_path / "run")) == 3
