"""What a user can rely on of --tokenizer=: a mistake in it is seen at once, nothing is fetched unsaid, sizes are real."""

import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import tiktoken
import tiktoken_ext.openai_public as published

from kqv.text import tiktoken_files
from kqv.text.bpe import PATTERNS, BpeTokenizer
from kqv.text.byte_level import ByteTokenizer
from kqv.text.characters import CharTokenizer
from kqv.text.registry import make_tokenizer
from kqv.text.tiktoken_files import PATTERNS_AND_FILES, load_tiktoken
from kqv.text.tokenizer_names import TIKTOKEN_SIZES, check_tokenizer_name

TEXT = "the cat and the hat and the mat\n" * 50


@pytest.mark.parametrize("name", ["char", "bytes", "gpt2", "cl100k_base", "bpe:257", "bpe:1024"])
def test_names_are_known(name: str) -> None:
    if name.startswith("bpe"):
        pytest.importorskip("rustbpe")
    check_tokenizer_name(name)


BAD_NAMES = {
    "": "char, bytes, gpt2", "bit": "char, bytes", "gpt3": "gpt2", "r50k": "r50k_base", "bpe": "bpe:1024", "bpe:": "257",
    "bpe:256": "257", "bpe:0": "257", "bpe:-5": "257", "bpe:1e3": "257", "bpe:999999999999999": "100,000", "bpe:²": "257",
}  # fmt: skip


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


def test_tokenizers_are_made_from_names() -> None:
    assert make_tokenizer("char", "ba", [TEXT]) == CharTokenizer("ab")
    assert make_tokenizer("bytes", "ba", [TEXT]) == ByteTokenizer()


def test_a_vocabulary_is_learnt_from_the_text_the_same_each_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("rustbpe")
    whole = make_tokenizer("bpe:262", "", [TEXT])
    in_pieces = make_tokenizer("bpe:262", "", (TEXT[i : i + 7] for i in range(0, len(TEXT), 7)))
    assert whole == in_pieces and whole.vocab_size == 262 and whole.name == "bpe:262"
    assert {b" the", b"at"} <= {whole.token_bytes(token) for token in range(256, 262)}
    assert capsys.readouterr().err == ""


def test_a_short_text_gives_fewer_tokens_and_that_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("rustbpe")
    tokenizer = make_tokenizer("bpe:1024", "", ["the cat"])
    assert tokenizer.vocab_size == 261 and tokenizer.name == "bpe:1024"
    assert capsys.readouterr().err.startswith("the text gave 261 tokens of the 1024 asked for")


# --- tiktoken's encodings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TIKTOKEN_SIZES)
def test_the_files_named_are_those_that_tiktoken_asks_for(
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
def test_a_named_encoding_is_tiktokens_whatever_gaps_its_ids_have(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With a small vocabulary in place of the files, which are not here."""
    ranks = {bytes([byte]): 255 - byte for byte in range(256)} | {
        b"he": 256,
        b" t": 258,
    }  # 257 is no token, as in p50k_base
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
