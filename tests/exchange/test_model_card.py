"""The README.md of an exported model: it tells where the model comes from, and its example runs."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.exchange import CHECKPOINT, VOCABULARIES, shaped

from kqv.exchange.huggingface import to_huggingface


def card(folder: Path, checkpoint: dict[str, Any] = CHECKPOINT) -> str:
    """The card of a Qwen3 with this checkpoint."""
    to_huggingface(*shaped("qwen3"), checkpoint, folder)
    return (folder / "README.md").read_text()


def test_the_card_tells_the_recipe_the_text_and_the_loss(tmp_path: Path) -> None:
    text = card(tmp_path / "there")
    for part in ("2.5000 nats", "ab12", "learning_rate = 0.02", "Qwen3", "2 layers of 32"):
        assert part in text


def test_the_card_calls_the_text_what_its_user_calls_it(tmp_path: Path) -> None:
    assert "- text: my animals.txt\n" in card(tmp_path / "there")
    older = {name: value for name, value in CHECKPOINT.items() if name != "sources"}
    assert "- text: cache/animals-1\n" in card(tmp_path / "older", older)


def test_the_card_tells_no_path_of_the_machine(tmp_path: Path) -> None:
    config = {"dataset": "/home/me/data", "out_dir": "/home/me/out", "val_text": ("/home/me/dev",)}
    assert "/home/me" not in card(tmp_path / "there", CHECKPOINT | {"config": config})


def test_the_card_names_what_finds_an_unknown_character(tmp_path: Path) -> None:
    """The library's own error does not name it."""
    transformers = pytest.importorskip("transformers")
    text = card(tmp_path / "there")
    (expression,) = re.findall(r"`(set\(text\).*?)` names", text)
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        tmp_path / "there", local_files_only=True
    )
    with pytest.raises(Exception, match=re.escape("Missing [UNK] token")):
        tokenizer("a Queer Zoo")
    assert "Missing [UNK] token" in text
    assert eval(expression, {"text": "a Queer Zoo", "tokenizer": tokenizer}) == {"Q", "Z"}


@pytest.mark.parametrize("kind", VOCABULARIES)
@pytest.mark.parametrize("shape", ["gpt2", "qwen3"])
@pytest.mark.parametrize("block_size", [1, 24])
def test_the_example_of_the_card_runs_as_it_stands(
    shape: str,
    kind: str,
    block_size: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    pytest.importorskip("transformers")
    model, tokenizer = shaped(shape, VOCABULARIES[kind](), block_size)
    to_huggingface(model, tokenizer, CHECKPOINT, tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    torch.manual_seed(0)
    text = Path("README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text[text.index("## Use") :], re.DOTALL)
    made: dict[str, Any] = {}
    exec(example, made)
    assert capsys.readouterr().out.startswith("\n")
    assert made["options"]["max_new_tokens"] == max(1, block_size - 1)


@pytest.mark.parametrize("kind", VOCABULARIES)
@pytest.mark.parametrize(("shape", "printed"), [("bert", "torch.Size([1, 8, 32])"), ("t5", "")])
def test_the_example_of_an_encoder_and_of_a_translator_runs_as_it_stands(
    shape: str,
    printed: str,
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    pytest.importorskip("transformers")
    to_huggingface(*shaped(shape, VOCABULARIES[kind]()), CHECKPOINT, tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    text = Path("README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text[text.index("## Use") :], re.DOTALL)
    exec(example, {})
    assert capsys.readouterr().out.startswith(printed)
