"""nanoGPT's checkpoints, read as if they were ours.

nanoGPT saves with torch.save

    model           weights by name, some of them with a prefix that torch.compile left
    model_args      n_layer, n_head, n_embd, block_size, bias, vocab_size, dropout
    optimizer       the state of torch.optim.AdamW: first all matrices, then all vectors, in the order of the model
    iter_num, best_val_loss, config

and keeps the text elsewhere: data/DATASET has meta.pkl, the characters, and train.bin and val.bin.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from kqv.errors import UserError
from kqv.exchange.families import Place, places, to_ours
from kqv.options.defaults import NANOGPT_FIXED
from kqv.text.registry import SIZES, named_encoding
from kqv.text.tokenizer import Tokenizer, load_tokenizer, padded
from model import GPT2, GPTConfig

ARGUMENTS = ("n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size", "dropout")
GPT2_TOKENS = (
    SIZES["gpt2"],
    padded(SIZES["gpt2"]),
)  # nanoGPT takes them where there is no meta.pkl
COMPILED = "_orig_mod."
THEIR_MACHINE = (
    "device",
    "dtype",
    "compile",
    "backend",
)  # a checkpoint from a GPU goes on on any machine


def from_nanogpt(state: dict[str, Any], path: Path) -> dict[str, Any]:
    """What `load_checkpoint` gives, out of what nanoGPT saved. Raises UserError if it is something else, or its characters
    are nowhere."""
    try:
        arguments: dict[str, Any] = {
            "bias": True,
            **state["model_args"],
        }  # the first nanoGPT had biases and no option
        if unknown := arguments.keys() - {*ARGUMENTS}:
            raise UserError(f"nanoGPT has no {min(unknown)}")
        config = GPTConfig(**{**arguments, **GPT2})
        theirs = {name.removeprefix(COMPILED): weights for name, weights in state["model"].items()}
        # a mask, in checkpoints from torch without scaled_dot_product_attention
        theirs = {
            name: weights for name, weights in theirs.items() if not name.endswith(".attn.bias")
        }
        options = dict(state.get("config", {}))
        found = {
            "model": to_ours(theirs, config, "nanogpt"),
            "model_args": vars(config),
            "tokenizer": _tokenizer(options.get("dataset"), path, config.vocab_size).to_dict(),
            "scaler": {},
            "nanogpt": True,  # for sample.py, which then does as nanoGPT does
            "data": _data(options.get("dataset"), path),
            "config": {
                **{name: value for name, value in options.items() if name not in THEIR_MACHINE},
                **NANOGPT_FIXED,
            },
            "iter_num": int(state.get("iter_num", 0)),
            "best_val_loss": float(state.get("best_val_loss", 1e9)),
        }
        if "optimizer" in state:
            found["optimizer"] = [
                {
                    "state": dict(
                        enumerate(_moments(state["optimizer"], theirs, places(config, "nanogpt")))
                    )
                }
            ]
    except UserError as error:
        raise UserError(f"{path} cannot be used: {error}") from None
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
        ArithmeticError,
    ) as error:
        raise UserError(
            f"{path} is no checkpoint of kqv or nanoGPT: {' '.join(str(error).split())[:200]}"
        ) from None
    return found


def _moments(
    optimizer: dict[str, Any], theirs: dict[str, Tensor], table: list[Place]
) -> Iterator[dict[str, Tensor]]:
    """The moments of each of our weights, in the order of our AdamW, which is that of nanoGPT's; query, key and value have
    theirs in one."""
    ordered = sorted(
        table, key=lambda place: theirs[place.theirs].ndim < 2
    )  # stable: the matrices come first
    numbers = [number for group in optimizer["param_groups"] for number in group["params"]]
    for place, number in zip(ordered, numbers, strict=True):
        kept = optimizer["state"].get(number, {})
        for part in range(len(place.ours)):
            yield {
                name: moment.chunk(len(place.ours))[part]
                if name in ("exp_avg", "exp_avg_sq")
                else moment
                for name, moment in kept.items()
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
    """data/NAME in the checkout of nanoGPT where the checkpoint is out/ckpt.pt."""
    return path.absolute().parent.parent / "data" / name


def _data(dataset: object, path: Path) -> str:
    """The folder of the token files that a checkpoint was trained on, "" if they are not beside it.

    The name comes from the checkpoint: only what lies in data/ is looked for.
    """
    if not isinstance(dataset, str) or not dataset:
        return ""
    if Path(dataset).is_absolute() or ".." in Path(dataset).parts:
        return ""
    folder = _data_folder(path, dataset)
    there = all((folder / name).is_file() for name in ("train.bin", "val.bin"))
    return str(folder) if there else ""


def _tokenizer(dataset: object, path: Path, vocab_size: int) -> Tokenizer:
    """The characters of a checkpoint: beside it, in the data folder of the nanoGPT that it lies in, or in ours; else GPT-2's
    byte pairs if there are as many.

    Raises UserError naming the file that is missing.
    """
    from kqv.text import datasets as corpus

    name = dataset if isinstance(dataset, str) else ""
    folders = [path.parent]
    if name:
        folders += [_data_folder(path, name), corpus.DATA / name]
    for folder in folders:
        ours = folder != path.parent and (folder / "tokenizer.json").exists()
        if ours or (folder / "meta.pkl").exists():
            tokenizer = load_tokenizer(folder)
            if tokenizer.vocab_size == vocab_size:
                return tokenizer
    if vocab_size in GPT2_TOKENS:
        return named_encoding("gpt2")
    raise UserError(
        f"it does not say which characters its {vocab_size} tokens are: put the meta.pkl of its dataset {name} into {path.parent}"
    )
