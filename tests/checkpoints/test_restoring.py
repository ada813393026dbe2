"""A restored model is the saved one, and a checkpoint that claims another is refused before memory
is taken for it."""

import dataclasses
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoints import SHAPE, TOKENIZER
from helpers.models import random_ids, randomised

import kqv.checkpoints.archive
from kqv.checkpoints.loading import load_checkpoint
from kqv.checkpoints.restoring import model_state, restore_model
from kqv.checkpoints.single import save_checkpoint
from kqv.text.characters import CharTokenizer
from model import GPT2, MLP, GPTConfig

PATH = Path("ckpt.pt")


def small_state() -> dict[str, Any]:
    """What sampling needs of a small model."""
    return model_state(randomised(GPTConfig(**SHAPE)), TOKENIZER)


@pytest.mark.parametrize(
    "options",
    [{}, {**GPT2, "bias": True}, {"position": "sinusoidal", "attention_scale": 0.5, "window": 3}],
)
def test_a_restored_model_is_the_model(options: dict[str, Any], tmp_path: Path) -> None:
    model = randomised(GPTConfig(**SHAPE, **options))
    save_checkpoint(tmp_path / "ckpt.pt", model_state(model, TOKENIZER))
    restored, tokenizer = restore_model(load_checkpoint(tmp_path / "ckpt.pt"), tmp_path / "ckpt.pt")
    assert restored.config == model.config
    assert tokenizer == TOKENIZER
    ids = random_ids(model.config)
    assert torch.equal(restored.eval()(ids), model(ids))
    assert restored.parameter_count() == model.parameter_count()


@pytest.mark.parametrize("position", ["rope", "learned", "sinusoidal"])
def test_a_changed_model_of_fewer_weights_is_restored(
    position: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.GatedMLP", MLP)  # without a gate
    model = randomised(GPTConfig(**{**SHAPE, "n_layer": 3, "position": position}))
    back, _ = restore_model(model_state(model, TOKENIZER), PATH)
    assert back.state_dict().keys() == model.state_dict().keys()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, back.state_dict()[name])


@pytest.mark.parametrize(
    "options", [{"position": "learned"}, {"architecture": "encoder", "linformer_rank": 2}]
)
def test_a_model_is_fine_tuned_with_a_shorter_block(options: dict[str, Any]) -> None:
    model = randomised(GPTConfig(**SHAPE, **options))
    short = SHAPE["block_size"] // 2
    restored, _ = restore_model(model_state(model, TOKENIZER), PATH, short)
    assert restored.config.block_size == short
    ids = random_ids(model.config)[:, :short]
    assert torch.equal(restored.eval()(ids), model(ids))


# --- claims -----------------------------------------------------------------------------------


def test_a_torch_that_trusts_the_sizes_in_a_checkpoint_is_refused(
    monkeypatch: pytest.MonkeyPatch, refused: Callable
) -> None:
    monkeypatch.setattr(torch, "__version__", type(torch.__version__)("2.9.1"))
    with refused("torch 2.9.1", "pip install -r requirements.txt"):
        runpy.run_path(str(kqv.checkpoints.archive.__file__))


@pytest.mark.parametrize(
    "claims",
    [
        {"model_args": {"block_size": 10**12}},
        {"model_args": {"n_layer": 10**9}},
        {"model_args": {"n_embd": 10**6}},
        {"model_args": {"n_embd": 2 * 10**9}},
        {"model": {"head.weight": torch.ones(1, 1).expand(10**6, 10**6)}},
    ],
    ids=repr,
)
def test_a_claimed_size_is_refused_before_the_model_is_made(
    claims: dict[str, Any], refused: Callable
) -> None:
    state = small_state()
    for part, changes in claims.items():
        state[part] = state[part] | changes
    with refused(str(PATH), "cannot be used"):
        restore_model(state, PATH)


# --- parts that do not fit --------------------------------------------------------------------


def with_option(name: str, value: Any) -> dict[str, Any]:
    return {"model_args": {**dataclasses.asdict(GPTConfig(**SHAPE)), name: value}}


WRONG_OPTIONS = {
    "n_layer": 2,
    "n_embd": 12,
    "bias": True,
    "qk_norm": False,
    "vocab_size": 5,
    "mlp": "relu3",
    "norm": "batchnorm",
    "position": "alibi",
    "mask": "diagonal",
    "attention_score": "cubed",
    "attention_scale": "cube",
    "n_head": 0,
    "block_size": None,
    "experts": 8,
    "window": 2**70,
    "rope_base": 2**70,
    "mlp_width": 2**70,
}
MISFITS = {
    "no weights": {"model": {}},
    "weights of another kind": {"model": "weights"},
    "no vocabulary": {"tokenizer": None},
    "a larger vocabulary": {"tokenizer": CharTokenizer.of("hello world!\n").to_dict()},
    "no shape": {"model_args": None},
    **{f"{name}={value!r}": with_option(name, value) for name, value in WRONG_OPTIONS.items()},
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_checkpoint_whose_parts_do_not_fit_is_refused(misfit: str, refused: Callable) -> None:
    state = small_state()
    restore_model(state, PATH)
    with refused(str(PATH), "cannot be used"):
        restore_model({**state, **MISFITS[misfit]}, PATH)


@pytest.mark.parametrize("missing", ["model", "model_args", "tokenizer"])
def test_a_checkpoint_without_one_of_its_parts_is_refused(missing: str, refused: Callable) -> None:
    state = small_state()
    del state[missing]
    with refused(str(PATH), missing):
        restore_model(state, PATH)
