"""What a user can rely on of --tokenizer=: a mistake is found at once."""

import importlib
import importlib.util
from collections.abc import Callable

import pytest

from kqv.text.tokenizer_names import check_tokenizer_name


@pytest.mark.parametrize("name", ["char", "bytes", "gpt2", "cl100k_base", "bpe:257", "bpe:1024"])
def test_names_are_known(name: str) -> None:
    if name.startswith("bpe"):
        pytest.importorskip("rustbpe")
    check_tokenizer_name(name)


BAD_NAMES = {
    "": "char, bytes, jamo, symbols, gpt2",
    "bit": "char, bytes",
    "gpt3": "gpt2",
    "r50k": "r50k_base",
    "bpe": "bpe:1024",
    "bpe:": "257",
    "bpe:256": "257",
    "bpe:0": "257",
    "bpe:-5": "257",
    "bpe:1e3": "257",
    "bpe:999999999999999": "100,000",
    "bpe:²": "257",
}


@pytest.mark.parametrize("name", BAD_NAMES)
def test_another_name_is_answered_with_one_that_works(name: str, refused: Callable) -> None:
    with refused(f"tokenizer={name}", BAD_NAMES[name]):
        check_tokenizer_name(name)


@pytest.mark.parametrize(
    ("name", "package"), [("gpt2", "tiktoken"), ("bpe:300", "tiktoken"), ("bpe:300", "rustbpe")]
)
def test_a_missing_package_is_named(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch, refused: Callable
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda asked: None if asked == package else there(asked)
    )
    with refused(f"needs the package {package}: pip install {package}"):
        check_tokenizer_name(name)
