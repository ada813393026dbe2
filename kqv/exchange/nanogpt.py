"""nanoGPT's checkpoints, both directions.

nanoGPT saves with torch.save

    model           weights by name, some of them with a prefix that torch.compile left
    model_args      n_layer, n_head, n_embd, block_size, bias, vocab_size, dropout
    optimizer       the state of torch.optim.AdamW: all matrices, then all vectors, in the model's
                    order
    iter_num, best_val_loss, config

and leaves the text elsewhere: data/DATASET has meta.pkl, the characters, and train.bin and val.bin.
"""

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kqv import project
from kqv.errors import MachineError, UserError
from kqv.exchange.families import Place, check_formula, decoder_family, places, to_ours, to_theirs
from kqv.exchange.malformed import refuse_malformed
from kqv.files import replacing_folder
from kqv.options.config import LAYERNORM_EPSILON
from kqv.options.defaults import NANOGPT_FIXED
from kqv.text.characters import CharTokenizer
from kqv.text.registry import NANOGPT_FILE, find_vocabulary, load_tokenizer
from kqv.text.tiktoken_files import load_tiktoken
from kqv.text.tokenizer import Tokenizer, pad_vocab_size
from kqv.text.tokenizer_names import TIKTOKEN_SIZES
from model import GPT, GPT2, GPTConfig

MODEL_ARGS = ("n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size", "dropout")
# Vocabulary sizes for which nanoGPT takes GPT-2's byte pairs where there is no meta.pkl.
GPT2_SIZES = (TIKTOKEN_SIZES["gpt2"], pad_vocab_size(TIKTOKEN_SIZES["gpt2"]))
COMPILED = "_orig_mod."  # the prefix that torch.compile leaves
# Settings that a resume leaves out, so that a checkpoint from a GPU resumes on any machine.
OF_THE_MACHINE = ("device", "dtype", "compile", "backend")
NO_LOSS = 1e9  # nanoGPT's best_val_loss before the first evaluation


# --- ours to theirs ---------------------------------------------------------------------------


def to_nanogpt(model: GPT, tokenizer: Tokenizer, checkpoint: dict[str, Any], folder: Path) -> None:
    """Write a folder with nanoGPT's ckpt.pt and, for characters, its meta.pkl.

    nanoGPT's sample.py looks for the characters in data/DATASET/meta.pkl, and takes GPT-2's byte
    pairs if there is none.

    Raises UserError, before anything is written, if nanoGPT has no such model or tokenizer.
    """
    check_nanogpt(model.config)
    check_formula(model)
    if not isinstance(tokenizer, CharTokenizer) and tokenizer.name != "gpt2":
        raise UserError(
            f"nanoGPT knows characters and GPT-2's byte pairs, and this model has the tokenizer "
            f"{tokenizer.name}"
        )
    weights = to_theirs(model.state_dict(), places(model.config, "nanogpt"))
    weights["lm_head.weight"] = weights["transformer.wte.weight"]
    state = {
        "model": weights,
        "model_args": {name: getattr(model.config, name) for name in MODEL_ARGS},
        "iter_num": checkpoint.get("iter_num", 0),
        "best_val_loss": checkpoint.get("best_val_loss", NO_LOSS),
        "config": {**checkpoint.get("config", {}), "dataset": dataset_name(checkpoint)},
    }
    with replacing_folder(folder) as fresh:
        try:
            torch.save(state, fresh / "ckpt.pt")
        except RuntimeError:  # what torch's archive writer makes of a full disk
            raise MachineError(
                f"{folder} could not be written: the disk may be full; "
                f"free some space and try again"
            ) from None
        if isinstance(tokenizer, CharTokenizer):
            (fresh / NANOGPT_FILE).write_bytes(pickle.dumps(_meta(tokenizer.characters)))


def check_nanogpt(config: GPTConfig) -> None:
    """Raises UserError naming the first option of a model that nanoGPT does not have."""
    if decoder_family(config, "nanoGPT") != "gpt2":
        raise UserError(
            f"a model with position={config.position} does not run in nanoGPT, "
            f"which has position=learned"
        )
    if config.hidden != 4 * config.n_embd:
        raise UserError(
            f"a model with mlp_width={config.mlp_width} does not run in nanoGPT, which has 4 n_embd"
        )
    if config.epsilon != LAYERNORM_EPSILON:
        raise UserError(
            f"a model with norm_epsilon={config.epsilon} does not run in nanoGPT, which has "
            f"{LAYERNORM_EPSILON}"
        )
    for option, value in (("mlp", "gelu"), ("tie_weights", True)):
        if getattr(config, option) != value:
            raise UserError(
                f"a model with {option}={getattr(config, option)} does not run in nanoGPT: "
                f"it has {option}={value}"
            )


def dataset_name(checkpoint: dict[str, Any]) -> str:
    """The name of the data folder that an exported model refers to."""
    return Path(str(checkpoint.get("config", {}).get("dataset", ""))).name or "kqv"


def _meta(characters: str) -> dict[str, Any]:
    """The content of nanoGPT's meta.pkl."""
    ids = {character: number for number, character in enumerate(characters)}
    itos = {number: character for character, number in ids.items()}
    return {"vocab_size": len(ids), "itos": itos, "stoi": ids}


# --- theirs to ours ---------------------------------------------------------------------------


def from_nanogpt(state: dict[str, Any], path: Path) -> dict[str, Any]:
    """Convert what nanoGPT saved to a checkpoint of ours.

    Raises UserError if it is something else, or its characters cannot be found.
    """
    with refuse_malformed(path, "is no checkpoint of kqv or nanoGPT"):
        config = _model_config(state["model_args"])
        weights = _weights(state["model"])
        options = dict(state.get("config", {}))
        dataset = options.get("dataset")
        found = {
            "model": to_ours(weights, config, "nanogpt"),
            "model_args": vars(config),
            "tokenizer": _find_tokenizer(dataset, path, config.vocab_size).to_dict(),
            "scaler": {},
            "nanogpt": True,  # sample.py then continues past block_size as nanoGPT does
            "data": _find_data(dataset, path),
            "config": {
                **{name: value for name, value in options.items() if name not in OF_THE_MACHINE},
                **NANOGPT_FIXED,
            },
            "iter_num": int(state.get("iter_num", 0)),
            "best_val_loss": float(state.get("best_val_loss", NO_LOSS)),
        }
        if "optimizer" in state:
            moments = _moments(state["optimizer"], weights, places(config, "nanogpt"))
            found["optimizer"] = [{"state": dict(enumerate(moments))}]
    return found


def _model_config(model_args: Mapping[str, Any]) -> GPTConfig:
    if unknown := model_args.keys() - {*MODEL_ARGS}:
        raise UserError(f"nanoGPT has no {min(unknown)}")
    # The first version of nanoGPT had biases and no option for them.
    return GPTConfig(**{"bias": True, **model_args, **GPT2})


def _weights(model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """nanoGPT's weights without what is none: a prefix, and the mask of torch before 2.0."""
    weights = {name.removeprefix(COMPILED): tensor for name, tensor in model.items()}
    return {name: tensor for name, tensor in weights.items() if not name.endswith(".attn.bias")}


def _moments(
    optimizer: dict[str, Any], weights: dict[str, Tensor], table: list[Place]
) -> Iterator[dict[str, Tensor]]:
    """The moments of each of our weights, in the order of our AdamW, which is nanoGPT's.

    nanoGPT has query, key and value in one matrix, and so their moments.
    """
    # Matrices first; the sort is stable.
    ordered = sorted(table, key=lambda place: weights[place.theirs].ndim < 2)
    numbers = [number for group in optimizer["param_groups"] for number in group["params"]]
    for place, number in zip(ordered, numbers, strict=True):
        moments = optimizer["state"].get(number, {})
        parts = len(place.ours)
        for part in range(parts):
            yield {
                name: tensor.chunk(parts)[part] if name in ("exp_avg", "exp_avg_sq") else tensor
                for name, tensor in moments.items()
            }


def data_remark(checkpoint: dict[str, Any], path: Path, dataset: str) -> str:
    """Which prepared data a run that starts from nanoGPT's checkpoint at `path` reads."""
    if checkpoint["data"]:
        return f"{path} was trained on {dataset}: its train.bin and val.bin are used"
    return (
        f"no train.bin and val.bin in nanoGPT's data/{dataset} beside {path}: kqv's data/{dataset} "
        f"is used"
    )


def _data_folder(path: Path, name: str) -> Path:
    """data/NAME in the checkout of nanoGPT whose out/ckpt.pt is `path`."""
    return path.absolute().parent.parent / "data" / name


def _find_data(dataset: object, path: Path) -> str:
    """The folder of the token files that a checkpoint was trained on, "" if it is not there.

    The name comes from the checkpoint, so only folders inside data/ are looked at.
    """
    if not isinstance(dataset, str) or not dataset:
        return ""
    if Path(dataset).is_absolute() or ".." in Path(dataset).parts:
        return ""
    folder = _data_folder(path, dataset)
    complete = all((folder / name).is_file() for name in ("train.bin", "val.bin"))
    return str(folder) if complete else ""


def _find_tokenizer(dataset: object, path: Path, vocab_size: int) -> Tokenizer:
    """The tokenizer of a checkpoint, which does not hold it.

    It is looked for beside the checkpoint, in the data folder of the nanoGPT around it, then in
    ours; else it is GPT-2's if that has as many tokens.

    Raises UserError naming the file that is missing.
    """
    name = dataset if isinstance(dataset, str) else ""
    folders = [path.parent]
    if name:
        folders += [_data_folder(path, name), project.DATA / name]
    for folder in folders:
        if folder == path.parent and not (folder / NANOGPT_FILE).exists():
            continue  # beside a checkpoint, a tokenizer.json alone may be Hugging Face's
        if find_vocabulary(folder):
            tokenizer = load_tokenizer(folder)
            if tokenizer.vocab_size == vocab_size:
                return tokenizer
    if vocab_size in GPT2_SIZES:
        return load_tiktoken("gpt2")
    raise UserError(
        f"it does not say which characters its {vocab_size} tokens are: "
        f"put the {NANOGPT_FILE} of its dataset {name} into {path.parent}"
    )
