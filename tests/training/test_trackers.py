"""What a user can rely on of TensorBoard and Weights & Biases: the same numbers, the samples, the curve, and no question."""

import json
import os
from pathlib import Path

import pytest

from kqv.options.settings import TrainSettings
from kqv.training.curve import draw_curve
from kqv.training.log import RunLog

NUMBERS = {
    0: {"val_loss": 4.0},
    10: {"train_loss": 3.5, "tokens_per_second": 100},
    20: {"train_loss": 3.0, "val_loss": 3.25, "tokens_per_second": 90},
}


def report(folder: Path, first_step: int = 0, last_step: int = 20, **options: object) -> None:
    """What a short run tells."""
    with RunLog(
        TrainSettings(out_dir=str(folder), wandb_run_name="a name", **options), first_step
    ) as log:
        for step, metrics in NUMBERS.items():
            if first_step <= step <= last_step:
                if "val_loss" in metrics:
                    log.sample(step, f"<b>sample\nof step {step}")
                log.write(step, **metrics, entropy=[1.0, 2.0])
        draw_curve(folder)


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
    assert "step" not in events.Tags()["scalars"] and "entropy" not in events.Tags()["scalars"]
    texts = [
        event.tensor_proto.string_val[0].decode() for event in events.Tensors("sample/text_summary")
    ]
    assert texts == [f"    <b>sample\n    of step {step}\n" for step in (0, 20)]
    settings = events.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "a name" in settings and "| n_layer | 3 |" in settings
    assert events.Images("curve")[-1].encoded_image_string.startswith(b"\x89PNG")


def test_weights_and_biases_keeps_a_run_in_the_folder_and_asks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("HOME", "NETRC", "WANDB_CONFIG_DIR"):  # nobody has logged in there
        monkeypatch.setenv(name, str(tmp_path / "home"))
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    (tmp_path / "run").mkdir()
    report(tmp_path / "run", wandb_log=True)
    (run,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    assert (run / next(run.glob("run-*.wandb")).name).stat().st_size > 1000
    data = next(run.glob("run-*.wandb")).read_bytes()
    for piece in (b"a name", b"val_loss", b"train_loss", b"n_layer"):
        assert piece in data
    pages = [path.read_text() for path in run.glob("files/media/html/*.html")]
    assert any("&lt;b&gt;sample\nof step 20" in page for page in pages)
    assert next(run.glob("files/media/images/curve*.png")).read_bytes().startswith(b"\x89PNG")
    assert (
        len(
            [
                json.loads(line)
                for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
            ]
        )
        == 3
    )
