"""nanoGPT and back: the same logits on both sides, and training resumes as in nanoGPT."""

import pickle
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.exchange import CHECKPOINT, PROMPT, SHAPES, adamw, equal_weights, set_gradients, shaped
from helpers.hostile import Hostile
from helpers.models import random_ids, randomised

from kqv import project
from kqv.checkpoints.loading import load_checkpoint, load_latest, load_model
from kqv.checkpoints.restoring import restore_model
from kqv.exchange.families import places, to_theirs
from kqv.exchange.nanogpt import check_nanogpt, to_nanogpt
from kqv.generation.sampling import generate_text
from kqv.options.settings import SampleSettings, TrainSettings
from kqv.training.optimizers import make_optimizers, restore_optimizers
from model import GPT2, GPTConfig

CHARACTERS = "\n !abcdefgé"
SIZE = {"vocab_size": len(CHARACTERS), "n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 12}


def their_gpt2(bias: bool = True) -> tuple[Any, dict[str, torch.nn.Parameter]]:
    """A random GPT-2 of transformers, and its weights as nanoGPT has them: matrices transposed."""
    transformers = pytest.importorskip("transformers")
    sizes = {name: value for name, value in SIZE.items() if name != "block_size"}
    config = transformers.GPT2Config(
        **sizes, n_positions=SIZE["block_size"], activation_function="gelu"
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    torch.manual_seed(0)
    weights = {}
    for name, weight in theirs.named_parameters():  # in nanoGPT's order
        is_norm = "ln_" in name and name.endswith("weight")
        torch.nn.init.normal_(weight, mean=1.0 if is_norm else 0.0, std=0.3)
        if name.endswith("bias") and not bias:
            torch.nn.init.zeros_(weight)
            continue
        transposed = name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))
        ours = weight.detach().T if transposed else weight.detach()
        weights[name] = torch.nn.Parameter(ours.clone())
    return theirs, weights


def nanogpt_state(
    weights: Mapping[str, torch.Tensor], bias: bool = True, prefix: str = ""
) -> dict[str, Any]:
    """What nanoGPT saves."""
    model = {f"{prefix}{name}": weight.detach() for name, weight in weights.items()}
    model[f"{prefix}lm_head.weight"] = model[f"{prefix}transformer.wte.weight"]
    return {
        "model": model,
        "model_args": {**SIZE, "bias": bias, "dropout": 0.0},
        "iter_num": 7,
        "best_val_loss": torch.tensor(2.5),
        "config": {"dataset": "few_characters", "device": "cuda", "learning_rate": 1e-2},
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An out_dir beside a data folder with a meta.pkl, as in a checkout of nanoGPT."""
    data = tmp_path / "data" / "few_characters"
    data.mkdir(parents=True)
    ids = {character: number for number, character in enumerate(CHARACTERS)}
    meta = {"vocab_size": len(ids), "itos": dict(enumerate(CHARACTERS)), "stoi": ids}
    (data / "meta.pkl").write_bytes(pickle.dumps(meta))
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


# --- ours to theirs ---------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["gpt2", "gpt2 without biases"])
def test_what_nanogpt_gets_is_in_its_layout_and_comes_back(shape: str, tmp_path: Path) -> None:
    model, tokenizer = shaped(shape)
    to_nanogpt(model, tokenizer, CHECKPOINT, tmp_path / "there")
    state = torch.load(tmp_path / "there" / "ckpt.pt", weights_only=True)
    biased = shape == "gpt2"
    assert state["model_args"] == {
        "n_layer": 2,
        "n_head": 2,
        "n_embd": 32,
        "block_size": 96,
        "bias": biased,
        "vocab_size": tokenizer.vocab_size,
        "dropout": 0.0,
    }
    assert len(state["model"]) == 3 + 2 * (12 if biased else 6) + (2 if biased else 1)
    assert state["model"]["transformer.h.1.attn.c_attn.weight"].shape == (96, 32)
    assert state["config"]["dataset"] == "animals-1"
    meta = pickle.loads((tmp_path / "there" / "meta.pkl").read_bytes())
    assert meta["vocab_size"] == tokenizer.vocab_size
    assert "".join(meta["itos"][meta["stoi"][character]] for character in PROMPT) == PROMPT
    back = load_model(str(tmp_path / "there"))
    assert back.tokenizer == tokenizer and back.checkpoint["iter_num"] == 20
    assert equal_weights(model, back.model)


@pytest.mark.parametrize(
    ("shape", "option"),
    [
        ("gpt2 tanh", "mlp"),
        ("gpt2 untied", "tie_weights"),
        ("gpt2 of another width", "mlp_width"),
        ("qwen3", "position"),
    ],
)
def test_a_model_that_nanogpt_does_not_have_is_refused_by_its_option(
    shape: str, option: str, refused: Callable
) -> None:
    check_nanogpt(GPTConfig(**SIZE, **SHAPES["gpt2"]))
    with refused(f"{option}=", "nanoGPT"):
        check_nanogpt(GPTConfig(**SIZE, **SHAPES[shape]))


# --- theirs to ours ---------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_a_checkpoint_of_nanogpt_computes_and_writes_what_it_did(
    folder: Path, bias: bool, prefix: str
) -> None:
    theirs, weights = their_gpt2(bias)
    state = nanogpt_state(weights, bias, prefix)
    mask = torch.ones(1, 1, 12, 12)  # in checkpoints of old versions of torch
    state["model"][f"{prefix}transformer.h.0.attn.bias"] = mask
    torch.save(state, folder / "ckpt.pt")
    model, tokenizer, checkpoint, _ = load_model(str(folder))
    assert tokenizer.decode(range(tokenizer.vocab_size)) == CHARACTERS
    assert checkpoint["best_val_loss"] == 2.5
    ids = random_ids(model.config)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(ids), theirs(ids).logits, atol=1e-4, rtol=0)
        text = tokenizer.encode("a bad ")
        for _ in range(40):  # past block_size nanoGPT crops the text
            text.append(int(theirs(torch.tensor([text[-12:]])).logits[0, -1].argmax()))
    greedy = SampleSettings(temperature=0, max_new_tokens=40, past_block="slide")
    assert generate_text(model, tokenizer, "a bad ", greedy) == tokenizer.decode(text)[6:]
    assert checkpoint["nanogpt"]


@pytest.mark.parametrize("bias", [True, False])
def test_training_resumes_with_the_moments_of_nanogpt(folder: Path, bias: bool) -> None:
    _, weights = their_gpt2(bias)
    optimizer = adamw(weights)
    for step in range(3):
        set_gradients(weights, step)
        optimizer.step()
    state = nanogpt_state(weights, bias) | {"optimizer": optimizer.state_dict()}
    torch.save(state, folder / "ckpt.pt")

    checkpoint, path = load_latest(str(folder))
    assert checkpoint["iter_num"] == 7 and checkpoint["config"]["lr_schedule"] == "cosine"
    assert "device" not in checkpoint["config"]
    model, _ = restore_model(checkpoint, path)
    options = {"optimizer": "adamw", "learning_rate": 1e-2, "beta2": 0.99, "weight_decay": 0.1}
    optimizers = make_optimizers(model, TrainSettings(**options))
    restore_optimizers(optimizers, checkpoint["optimizer"])
    ours, table = dict(model.named_parameters()), places(model.config, "nanogpt")
    for step in range(3, 6):
        set_gradients(weights, step)
        for place in table:
            parts = weights[place.theirs].grad.chunk(len(place.ours))
            for name, gradient in zip(place.ours, parts, strict=True):
                ours[name].grad = gradient.clone()
        optimizer.step()
        optimizers[0].step()
        now = to_theirs(model.state_dict(), table)
        assert now.keys() == weights.keys()
        for name, weight in weights.items():
            torch.testing.assert_close(now[name], weight.detach(), atol=1e-6, rtol=0)


def test_a_missing_meta_pkl_is_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable
) -> None:
    meta = folder.parent / "data" / "few_characters" / "meta.pkl"
    _, weights = their_gpt2()
    torch.save(nanogpt_state(weights), folder / "ckpt.pt")
    monkeypatch.setattr(project, "DATA", folder.parent / "ours")
    for place in (folder, folder.parent / "ours" / "few_characters"):
        place.mkdir(parents=True, exist_ok=True)
        meta = meta.rename(place / "meta.pkl")
        assert load_model(str(folder))[1].vocab_size == len(CHARACTERS)
    meta.unlink()
    with refused(str(folder / "ckpt.pt"), "meta.pkl", "few_characters"):
        load_model(str(folder))


def test_the_text_beside_a_checkpoint_is_found_and_no_other(folder: Path) -> None:
    """The name comes from the checkpoint, which must not choose any file to be read."""
    _, weights = their_gpt2()
    state, data = nanogpt_state(weights), folder.parent / "data"
    elsewhere = folder.parent / "elsewhere"
    shutil.copytree(data / "few_characters", elsewhere)
    for place in (data / "few_characters", elsewhere):
        (place / "train.bin").write_bytes(bytes(200))

    def found(name: str) -> str:
        torch.save({**state, "config": {"dataset": name}}, folder / "ckpt.pt")
        return load_checkpoint(folder / "ckpt.pt")["data"]

    assert found("few_characters") == ""  # half of it is not enough
    for place in (data / "few_characters", elsewhere):
        (place / "val.bin").write_bytes(bytes(200))
    assert found("few_characters") == str(data / "few_characters")
    assert found("../elsewhere") == found(str(elsewhere)) == ""


def test_a_flipped_bit_is_noticed_without_a_seal(folder: Path, refused: Callable) -> None:
    _, weights = their_gpt2()
    path = folder / "ckpt.pt"
    torch.save(nanogpt_state(weights), path)
    good = path.read_bytes()
    load_checkpoint(path)
    before = load_checkpoint(path)["model"]
    for place in range(0, len(good), len(good) // 150):
        damaged = bytearray(good)
        damaged[place] ^= 16
        path.write_bytes(damaged)
        try:
            after = load_checkpoint(path)["model"]
        except Exception as error:
            with refused(str(path)):
                raise error
        else:  # what is between the parts of the archive means nothing
            assert all(torch.equal(after[name], weight) for name, weight in before.items())


MALFORMED: dict[str, Any] = {
    "model": [None, {}, {"x": 1}, [1]],
    "model_args": [None, {}, {**SIZE, "experts": 3}, {**SIZE, "n_layer": 10**9}],
    "optimizer": [
        None,
        {},
        {"state": {}, "param_groups": []},
        {"state": {}, "param_groups": [{"params": 3}]},
    ],
    "config": [None, 3, {"dataset": 5}, {"dataset": "\0"}],
    "iter_num": [None, "x", [1]],
    "best_val_loss": ["x", torch.ones(3)],
}


@pytest.mark.parametrize(
    ("part", "value"), [(part, value) for part, values in MALFORMED.items() for value in values]
)
def test_a_malformed_part_is_one_line(
    part: str, value: Any, folder: Path, refused: Callable, monkeypatch: Any
) -> None:
    monkeypatch.setattr(project, "DATA", folder)
    _, weights = their_gpt2()
    optimizer = adamw(weights)
    set_gradients(weights, 0)
    optimizer.step()
    good = {**nanogpt_state(weights), "optimizer": optimizer.state_dict()}
    torch.save(good, folder / "ckpt.pt")
    load_latest(str(folder))
    torch.save({**good, part: value}, folder / "ckpt.pt")
    with refused(str(folder / "ckpt.pt")):
        load_latest(str(folder))


def test_code_in_a_checkpoint_is_refused_and_not_run(folder: Path, refused: Callable) -> None:
    _, weights = their_gpt2()
    state = nanogpt_state(weights) | {"config": Hostile(folder / "code was run")}
    torch.save(state, folder / "ckpt.pt")
    with refused("run"):
        load_checkpoint(folder / "ckpt.pt")
    assert not (folder / "code was run").exists()


def test_a_checkpoint_of_ours_that_lost_its_seal_is_not_taken_for_nanogpt_s(
    folder: Path, refused: Callable
) -> None:
    model = randomised(GPTConfig(**SIZE, **GPT2))
    state = {"format": "kqv 1", "model": model.state_dict(), "model_args": vars(model.config)}
    torch.save(state, folder / "ckpt.pt")
    with refused("was cut short"):
        load_checkpoint(folder / "ckpt.pt")
