"""The known logits are those of Hugging Face's classes."""

from typing import Any

import pytest
import torch

from kqv.exchange.families import places, to_theirs
from kqv.exchange.known_logits import KNOWN_LOGITS, Kind, difference, logits_of, small_model
from model import GPTConfig

ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_new"}


def their_model(kind: Kind, config: GPTConfig) -> Any:
    """A model of Hugging Face's class of this kind."""
    transformers = pytest.importorskip("transformers")
    if kind[0] == "gpt2":
        theirs = transformers.GPT2Config(
            vocab_size=13, n_positions=8, n_layer=2, n_head=2, n_embd=8, bos_token_id=None,
            eos_token_id=None, activation_function=ACTIVATIONS[config.mlp],
            tie_word_embeddings=config.tie_weights,
        )  # fmt: skip
        return transformers.GPT2LMHeadModel(theirs).eval()
    theirs = transformers.Qwen3Config(
        vocab_size=13, hidden_size=8, intermediate_size=config.hidden, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, head_dim=4, max_position_embeddings=8,
        tie_word_embeddings=config.tie_weights,
    )  # fmt: skip
    return transformers.Qwen3ForCausalLM(theirs).eval()


@pytest.mark.parametrize("kind", KNOWN_LOGITS)
def test_the_known_logits_are_those_of_hugging_face_s_class(kind: Kind) -> None:
    config = small_model(kind).config
    theirs = their_model(kind, config)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.endswith("bias"):  # a model of ours without biases has none to hand on
                parameter.zero_()
    weights = to_theirs(small_model(kind).state_dict(), places(config, "huggingface"))
    assert not theirs.load_state_dict(weights, strict=False).unexpected_keys
    theirs.tie_weights()
    known = torch.tensor(KNOWN_LOGITS[kind])
    torch.testing.assert_close(logits_of(theirs), known, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KNOWN_LOGITS)
def test_an_unchanged_model_has_the_known_logits(kind: Kind) -> None:
    assert difference(kind[0], small_model(kind).config) == ""


def test_another_formula_has_other_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    kind: Kind = ("gpt2", "gelu", True, True)
    monkeypatch.setitem(KNOWN_LOGITS, kind, KNOWN_LOGITS["gpt2", "gelu_tanh", True, True])
    assert difference("gpt2", small_model(kind).config).startswith("logits differ by")
