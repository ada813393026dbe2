"""The formats that export.py writes, by name.

Each writer takes the loaded model, the path to write and the options. It returns a remark for the
user, "" if there is nothing to say. (kqv/options has each format's suffix and packages.)
"""

from collections.abc import Callable
from pathlib import Path

from kqv.checkpoints.loading import LoadedModel
from kqv.checkpoints.single import save_checkpoint
from kqv.exchange.gguf import to_gguf
from kqv.exchange.huggingface import to_huggingface
from kqv.exchange.nanogpt import dataset_name, to_nanogpt
from kqv.exchange.onnx import to_onnx
from kqv.exchange.safetensors import to_safetensors
from kqv.options.settings import ExportSettings
from kqv.text.registry import NANOGPT_FILE

Writer = Callable[[LoadedModel, Path, ExportSettings], str]


def _huggingface(loaded: LoadedModel, to: Path, settings: ExportSettings) -> str:
    to_huggingface(loaded.model, loaded.tokenizer, loaded.checkpoint, to)
    return ""


def _nanogpt(loaded: LoadedModel, to: Path, settings: ExportSettings) -> str:
    to_nanogpt(loaded.model, loaded.tokenizer, loaded.checkpoint, to)
    if not (to / NANOGPT_FILE).exists():
        return ""
    folder = f"data/{dataset_name(loaded.checkpoint)}"
    return f"nanoGPT looks for the characters in its {folder}: put {NANOGPT_FILE} there"


def _gguf(loaded: LoadedModel, to: Path, settings: ExportSettings) -> str:
    narrow = to_gguf(loaded.model, loaded.tokenizer, settings.dtype, to)
    if not narrow:
        return ""
    return (
        f"in f16, because q8_0 takes rows of 32 numbers: "
        f"{len(narrow)} matrices, such as {narrow[0]}"
    )


def _onnx(loaded: LoadedModel, to: Path, settings: ExportSettings) -> str:
    to_onnx(loaded.model, loaded.tokenizer, loaded.checkpoint, to)
    return ""


def _safetensors(loaded: LoadedModel, to: Path, settings: ExportSettings) -> str:
    to_safetensors(loaded.model, loaded.tokenizer, loaded.checkpoint, to)
    return ""


def _checkpoint(loaded: LoadedModel, to: Path, settings: ExportSettings) -> str:
    to.parent.mkdir(parents=True, exist_ok=True)  # such as a new folder to resume in
    save_checkpoint(to, loaded.checkpoint)
    return ""


WRITERS: dict[str, Writer] = {
    "huggingface": _huggingface,
    "nanogpt": _nanogpt,
    "gguf": _gguf,
    "onnx": _onnx,
    "safetensors": _safetensors,
    "checkpoint": _checkpoint,
}
