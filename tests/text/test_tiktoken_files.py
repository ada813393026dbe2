"""What a user can rely on of tiktoken's vocabularies: no download is silent."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import tiktoken
import tiktoken_ext.openai_public as published

from kqv.text import tiktoken_files
from kqv.text.bpe import PATTERNS, BpeTokenizer
from kqv.text.tiktoken_files import PATTERNS_AND_FILES, load_tiktoken
from kqv.text.tokenizer_names import TIKTOKEN_SIZES

TEXT = "the cat and the hat and the mat\n" * 50


@pytest.mark.parametrize("name", TIKTOKEN_SIZES)
def test_the_files_that_are_named_are_those_that_tiktoken_asks_for(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Their addresses and the names in its cache."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    missing = tiktoken_files.missing_files(name)
    asked: list[str] = []

    def note(*addresses: str, **_: object) -> dict:
        asked.extend(address for address in addresses if address.startswith("https://"))
        return {}

    monkeypatch.setattr(published, "load_tiktoken_bpe", note)
    gpt2 = lambda vocab_bpe_file, encoder_json_file, **_: note(vocab_bpe_file, encoder_json_file)  # noqa: E731
    monkeypatch.setattr(published, "data_gym_to_mergeable_bpe_ranks", gpt2)
    published.ENCODING_CONSTRUCTORS[name]()
    assert list(missing) == asked
    assert list(missing.values()) == [
        tmp_path / hashlib.sha1(address.encode()).hexdigest() for address in asked
    ]


def test_without_the_network_the_files_and_their_places_are_named(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    refused: Callable,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    parts = [
        f"{address} as {path}" for address, path in tiktoken_files.missing_files("gpt2").items()
    ]
    with refused(*parts, f"TIKTOKEN_CACHE_DIR={tmp_path}"):
        load_tiktoken("gpt2")
    assert "tiktoken downloads https://" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", TIKTOKEN_SIZES)
def test_a_loaded_vocabulary_is_tiktokens_whatever_gaps_its_ids_have(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With a small vocabulary in place of the files, which are not here."""
    ranks = {bytes([byte]): 255 - byte for byte in range(256)}
    ranks |= {b"he": 256, b" t": 258}  # 257 is no token, as in p50k_base
    special = {"<|endoftext|>": 257, "<|later|>": 270}
    pattern = PATTERNS[PATTERNS_AND_FILES[name][0]]
    encoding = tiktoken.Encoding(
        name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special
    )
    monkeypatch.setattr(tiktoken, "get_encoding", {name: encoding}.__getitem__)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    tokenizer = load_tiktoken(name)
    assert (
        isinstance(tokenizer, BpeTokenizer)
        and tokenizer.name == name
        and tokenizer.vocab_size == 271
    )
    for text in (TEXT, "he'll see<|endoftext|>"):
        assert tokenizer.encode(text) == encoding.encode_ordinary(text)
        assert tokenizer.encode_prompt(text) == encoding.encode(text, allowed_special="all")
        assert tokenizer.decode(tokenizer.encode_prompt(text)) == text
