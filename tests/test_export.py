"""export.py: a model that a format cannot express is refused before anything is written, an export
replaces only one of ours, and a full disk leaves nothing half-written."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.exchange import CHARACTERS, CHECKPOINT, OTHER_SHAPES, SHAPES, with_markers
from helpers.models import randomised

import export
from kqv.checkpoints.restoring import model_state
from kqv.checkpoints.single import save_checkpoint
from kqv.errors import MachineError
from kqv.text.characters import CharTokenizer
from model import GPT, MLP, Attention, Block, GatedMLP, GPTConfig

IN_FAMILIES = ["huggingface", "gguf", "nanogpt"]  # formats of GPT-2 and Qwen3 only


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Path]:
    """`run(shape, options...)`: export.py on a checkpoint of this shape. Returns its folder."""
    folder = tmp_path / "run"
    folder.mkdir()

    def export_shape(options: dict[str, Any], *words: str) -> Path:
        tokenizer = with_markers(CharTokenizer(CHARACTERS), options)
        config = GPTConfig(
            vocab_size=tokenizer.vocab_size, block_size=8, n_layer=1, n_head=2, n_embd=16, **options
        )
        state = model_state(randomised(config), tokenizer) | CHECKPOINT
        save_checkpoint(folder / "ckpt.pt", state)
        export.main([f"--out_dir={folder}", *words])
        return folder

    return export_shape


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def contents_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("form", IN_FAMILIES)
@pytest.mark.parametrize(
    "option",
    [{"mask": "future"}, {"window": 3}, {"attention_scale": "dim"}, {"attention_score": "linear"}],
)
def test_a_model_that_a_format_cannot_express_leaves_nothing(
    form: str, option: dict[str, Any], run: Callable, tmp_path: Path, refused: Callable
) -> None:
    ((name, value),) = option.items()
    with refused(f"{name}={value}"):
        run(option, f"--format={form}")
    assert names_in(tmp_path / "run") == {"ckpt.pt"}


# The comparison of a changed formula is remembered by config: each case has its own rope_base,
# which means nothing in a GPT-2.
UNUSED_BASES = itertools.count(20_000)


@pytest.mark.parametrize("form", IN_FAMILIES)
@pytest.mark.parametrize("kind", [MLP, Attention, GPT])
def test_a_model_whose_formula_was_changed_is_not_handed_on_as_one_of_a_family(
    form: str,
    kind: Any,
    run: Callable,
    tmp_path: Path,
    refused: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forward = kind.forward
    monkeypatch.setattr(kind, "forward", lambda *inputs, **more: 1.01 * forward(*inputs, **more))
    shape = SHAPES["gpt2"] | {"rope_base": float(next(UNUSED_BASES))}
    with refused("model.py was changed", "GPT-2", "--format=onnx"):
        run(shape, f"--format={form}")
    assert names_in(tmp_path / "run") == {"ckpt.pt"}
    run(shape, "--format=safetensors")


def test_nanogpt_takes_its_own_shape_only(run: Callable, tmp_path: Path, refused: Callable) -> None:
    with refused("position=rope", "nanoGPT"):
        run({}, "--format=nanogpt")
    assert names_in(tmp_path / "run") == {"ckpt.pt"}


@pytest.mark.parametrize(("form", "program"), [("gguf", "llama.cpp"), ("nanogpt", "nanoGPT")])
@pytest.mark.parametrize("shape", ["bert", "t5"])
def test_programs_that_run_decoders_only_refuse_other_architectures_by_name(
    shape: str, form: str, program: str, run: Callable, tmp_path: Path, refused: Callable
) -> None:
    architecture = OTHER_SHAPES[shape]["architecture"]
    with refused(f"architecture={architecture} ", program, "--format=huggingface"):
        run(OTHER_SHAPES[shape], f"--format={form}")
    assert names_in(tmp_path / "run") == {"ckpt.pt"}


@pytest.mark.parametrize(
    ("shape", "title", "kind"),
    [("bert", "BERT", kind) for kind in (MLP, Attention, Block)]
    + [("t5", "T5", kind) for kind in (GatedMLP, Attention, Block)],
)
def test_an_encoder_or_translator_whose_formula_was_changed_is_not_handed_on(
    shape: str,
    title: str,
    kind: Any,
    run: Callable,
    refused: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forward = kind.forward
    monkeypatch.setattr(kind, "forward", lambda *inputs, **more: 1.01 * forward(*inputs, **more))
    with refused("model.py was changed", title, "--format=onnx"):
        run(OTHER_SHAPES[shape] | {"rope_base": float(next(UNUSED_BASES))})


def test_a_cross_attention_that_was_changed_is_not_handed_on(
    run: Callable, refused: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Attention.forward

    def changed(self: Attention, *inputs: Any, **more: Any) -> Any:
        output = forward(self, *inputs, **more)
        return 1.01 * output if self.cross else output

    monkeypatch.setattr(Attention, "forward", changed)
    with refused("model.py was changed", "T5"):
        run(OTHER_SHAPES["t5"] | {"rope_base": float(next(UNUSED_BASES))})


def test_an_export_replaces_one_of_ours_and_nothing_else(
    run: Callable, tmp_path: Path, refused: Callable
) -> None:
    folder = run({}, "--format=huggingface")
    assert (run({}, "--format=huggingface") / "huggingface" / "config.json").exists()
    precious = tmp_path / "precious"
    precious.mkdir()
    run({}, f"--to={precious}")  # empty, so nothing is lost
    (precious / "notes.txt").write_text("added by hand")
    before = names_in(precious)
    for target in (precious, folder, folder / "ckpt.pt"):
        with refused(str(target), "another folder"):
            run({}, f"--to={target}")
    assert names_in(precious) == before
    with refused("end in .gguf"):
        run({}, "--format=gguf", f"--to={folder / 'ckpt.pt'}")
    with refused("dtype=f16"):
        run({}, "--dtype=f16")
    assert names_in(folder) == {"ckpt.pt", "huggingface"}


@pytest.mark.parametrize("form", ["huggingface", "gguf", "nanogpt", "safetensors"])
def test_a_full_disk_leaves_nothing_half_written(
    form: str, run: Callable, small_disk: Callable
) -> None:
    folder = run(SHAPES["gpt2"], f"--format={form}")
    before = contents_of(folder)
    small_disk(1000)
    with pytest.raises((MachineError, OSError)):
        export.main([f"--out_dir={folder}", f"--format={form}"])
    small_disk(1 << 30)
    assert contents_of(folder) == before
