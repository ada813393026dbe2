"""GGUF: llama.cpp computes the same loss, tokenizes the same and stops at no token of ours."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers.exchange import PROMPT, SHAPES, VOCABULARIES, Llama, greedy, shaped

from kqv.exchange.gguf import to_gguf
from model import GPT

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")

# The tokens that end a text: the end of a document, or the byte 0xFF.
ENDS: dict[str, set[int]] = {
    "bytes": set(),
    "byte pairs": {276},
    "byte pairs without an end": {187},
}


@torch.no_grad()
def our_loss(model: GPT, ids: list[int]) -> float:
    """Mean nats per token of a text."""
    logits = model(torch.tensor([ids[:-1]]))
    return float(F.cross_entropy(logits[0], torch.tensor(ids[1:])))


@torch.no_grad()
def margin(model: GPT, ids: list[int]) -> float:
    """How much likelier the likeliest next token is than the second, in nats.

    llama.cpp looks GELU up in a table of 16 bits, so near-ties may come out the other way.
    """
    first, second = model(torch.tensor([ids]))[0, -1].topk(2).values.tolist()
    return first - second


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["f32", "f16", "q8_0"])
def test_llama_cpp_has_our_loss_and_in_float32_our_text_up_to_near_ties(
    shape: str, dtype: str, tmp_path: Path
) -> None:
    model, tokenizer = shaped(shape)
    in_f16 = to_gguf(model, tokenizer, dtype, tmp_path / "model.gguf")
    narrow = dtype == "q8_0" and "mlp_width" in SHAPES[shape]  # 48 is no multiple of 32
    assert in_f16 == (["blk.0.ffn_down.weight", "blk.1.ffn_down.weight"] if narrow else [])
    llama = Llama(tmp_path / "model.gguf")
    ids = tokenizer.encode("The hat is on the mat, and\nthe é is 😀 " * 2)[:24]
    tolerance = {"f32": 0.002, "f16": 0.01, "q8_0": 0.05}[dtype]
    loss = llama.loss(ids, tokenizer.vocab_size)
    assert loss == pytest.approx(our_loss(model, ids), abs=tolerance)
    if dtype == "f32":
        theirs, ours = llama.complete(PROMPT, 60)["choices"][0]["text"], greedy(model, tokenizer)
        same = next((i for i in range(60) if theirs[i] != ours[i]), 60)
        assert same >= 20
        if same < 60:
            assert margin(model, tokenizer.encode(PROMPT + ours[:same])) < 0.01


@pytest.mark.parametrize("kind", ENDS)
def test_llama_cpp_reads_bytes_and_byte_pairs_and_stops_only_at_their_end(
    kind: str, tmp_path: Path
) -> None:
    model, tokenizer = shaped("gpt2", VOCABULARIES[kind]())
    # llama.cpp tells nothing of a token that is a part of a character.
    tokens = range(tokenizer.vocab_size)
    partial = [token for token in tokens if "\ufffd" in tokenizer.decode([token])]
    model.embedding.weight.data[partial] = 0
    to_gguf(model, tokenizer, "f32", tmp_path / "model.gguf")
    llama = Llama(tmp_path / "model.gguf")
    for prompt in ("the cat's hat  sat\n\n on é", " the mat", "12 bats"):
        ids = tokenizer.encode(prompt)
        answer = llama.complete(prompt, 1, n_probs=1)
        assert answer["usage"]["prompt_tokens"] == len(ids)
        (token,) = answer["choices"][0]["logprobs"]["content"]
        with torch.no_grad():
            assert token["id"] == int(model(torch.tensor([ids]))[0, -1].argmax())
    # Without an end of its own, llama.cpp would take the token 11.
    for token in set(tokens) - ENDS[kind]:
        answer = llama.complete("the mat", 3, n_probs=1, logit_bias=[[token, 1000.0]])
        assert answer["usage"]["completion_tokens"] == 3
        if token not in partial:
            written = [each["id"] for each in answer["choices"][0]["logprobs"]["content"]]
            assert written == [token] * 3


def test_llama_cpp_refuses_an_unknown_character(tmp_path: Path) -> None:
    to_gguf(*shaped("gpt2"), "f32", tmp_path / "model.gguf")
    assert "invalid tokens" in Llama(tmp_path / "model.gguf").complete("HQ", 1)["error"]["message"]
