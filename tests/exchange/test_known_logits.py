"""The known logits are those of Hugging Face's classes."""

from typing import Any

import pytest
import torch
from torch import Tensor

from kqv.exchange.config_json import to_config_json
from kqv.exchange.families import places, to_theirs
from kqv.exchange.known_logits import IDS, KNOWN_LOGITS, SOURCE, Kind, difference, small_model
from model import GPTConfig


def their_model(kind: Kind, config: GPTConfig) -> Any:
    """A model of Hugging Face's class of this kind."""
    t = pytest.importorskip("transformers")
    options = to_config_json(config)
    for key in ("architectures", "model_type"):
        del options[key]
    match kind[0]:
        case "gpt2":
            return t.GPT2LMHeadModel(t.GPT2Config(**options)).eval()
        case "qwen3":
            return t.Qwen3ForCausalLM(t.Qwen3Config(**options)).eval()
        case "bert":
            return t.BertModel(t.BertConfig(**options), add_pooling_layer=False).eval()
    model = t.T5ForConditionalGeneration(t.T5Config(**options)).eval()
    model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.lm_head.weight))  # untied
    return model


@torch.no_grad()
def their_logits(model: Any, kind: Kind) -> Tensor:
    """The first logits (of BERT, hidden states) of the last position, (3,)."""
    ids = torch.tensor([IDS])
    if kind[0] == "bert":
        return model(ids).last_hidden_state[0, -1, :3]
    if kind[0] == "t5":
        return model(input_ids=torch.tensor([SOURCE]), decoder_input_ids=ids).logits[0, -1, :3]
    return model(ids).logits[0, -1, :3]


@pytest.mark.parametrize("kind", KNOWN_LOGITS)
def test_the_known_logits_are_those_of_hugging_face_s_class(kind: Kind) -> None:
    config = small_model(kind).config
    theirs = their_model(kind, config)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            # A model of ours without biases has none to hand on, and none has segments.
            if name.endswith("bias") or "token_type" in name:
                parameter.zero_()
    weights = to_theirs(small_model(kind).state_dict(), places(config, "huggingface"))
    weights = {name.removeprefix("bert."): weight for name, weight in weights.items()}
    unexpected = {*theirs.load_state_dict(weights, strict=False).unexpected_keys}
    assert unexpected <= ({"lm_head.weight"} if kind[0] == "bert" else set())
    if kind[0] != "t5":
        theirs.tie_weights()
    known = torch.tensor(KNOWN_LOGITS[kind])
    torch.testing.assert_close(their_logits(theirs, kind), known, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KNOWN_LOGITS)
def test_an_unchanged_model_has_the_known_logits(kind: Kind) -> None:
    assert difference(kind[0], small_model(kind).config) == ""


def test_another_formula_has_other_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    kind: Kind = ("gpt2", "gelu", True, True)
    monkeypatch.setitem(KNOWN_LOGITS, kind, KNOWN_LOGITS["gpt2", "gelu_tanh", True, True])
    assert difference("gpt2", small_model(kind).config).startswith("logits differ by")
