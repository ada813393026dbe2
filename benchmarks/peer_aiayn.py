"""attention-is-all-you-need-pytorch as a peer, in a process of its own.

    python -m benchmarks.peer_aiayn train '{"checkout": DIR, ...}'        prints tokens/s
    python -m benchmarks.peer_aiayn translate '{"checkout": DIR, ...}'    writes ids, by lines

DIR is a checkout of github.com/jadore801120/attention-is-all-you-need-pytorch. Its classes run as
they are, and so does its training loop. Nothing of kqv is imported here.
"""

import importlib
import json
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

WARMUP_STEPS = 3
PADDING = 0  # the id of padding in training, which the batches measured here do not have
LR_MUL, LR_WARMUP = 2.0, 4000  # the defaults of its train.py
DROPOUT = 0.1


def load_peer(checkout: str) -> SimpleNamespace:
    """Its modules. Its train.py imports torchtext and dill to read data: names stand in for these,
    since the torchtext that it needs does not run with today's torch."""
    sys.path.insert(0, checkout)  # before our own train.py
    names = {
        "torchtext": (),
        "torchtext.data": ("Field", "Dataset", "BucketIterator"),
        "torchtext.datasets": ("TranslationDataset",),
        "dill": (),
    }
    for name, attributes in names.items():
        module = ModuleType(name)
        module.__dict__.update(dict.fromkeys(attributes))
        sys.modules[name] = module
    return SimpleNamespace(
        models=importlib.import_module("transformer.Models"),
        optim=importlib.import_module("transformer.Optim"),
        translator=importlib.import_module("transformer.Translator"),
        train=importlib.import_module("train"),
    )


def transformer(peer: SimpleNamespace, shape: dict[str, Any], padding: int) -> Any:
    """Its Transformer: one matrix for both embeddings and the head, the embedding scaled."""
    width, heads, vocabulary = shape["n_embd"], shape["n_head"], shape["vocab_size"]
    return peer.models.Transformer(
        vocabulary,
        vocabulary,
        padding,
        padding,
        d_word_vec=width,
        d_model=width,
        d_inner=4 * width,
        n_layers=shape["n_layer"],
        n_head=heads,
        d_k=width // heads,
        d_v=width // heads,
        dropout=DROPOUT,
        scale_emb_or_prj="emb",
    )


def train(job: dict[str, Any]) -> None:
    """Print tokens/s of the median step of its training loop, with label smoothing.

    A step has `batch_size` pairs of random ids; each side is `block_size` long, markers included.
    """
    peer = load_peer(job["checkout"])
    model = transformer(peer, job, PADDING)
    adam = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98), eps=1e-9)
    optimizer = peer.optim.ScheduledOptim(adam, LR_MUL, job["n_embd"], LR_WARMUP)
    times: list[float] = []

    def batches() -> Iterator[SimpleNamespace]:
        """One for each step, (time, pairs) as torchtext's are; notes when it is asked for."""
        for _ in range(job["steps"]):
            times.append(time.perf_counter())
            lengths = job["block_size"], job["block_size"] + 1  # a target has both of its markers
            source, target = (
                torch.randint(PADDING + 1, job["vocab_size"], (length, job["batch_size"]))
                for length in lengths
            )
            yield SimpleNamespace(src=source, trg=target)
        times.append(time.perf_counter())

    padding = SimpleNamespace(src_pad_idx=PADDING, trg_pad_idx=PADDING)
    peer.train.train_epoch(
        model, batches(), optimizer, padding, torch.device("cpu"), smoothing=True
    )
    steps = [end - begin for begin, end in pairwise(times)]
    print(2 * job["block_size"] * job["batch_size"] / median(steps[WARMUP_STEPS:]))


def translate(job: dict[str, Any]) -> None:
    """Translate the lines of ids in the file `sources` one at a time, as its translate.py does.

    `weights` is a file with its weights; `begin` and `end` are the ids of the markers. Writes the
    ids of each translation, without markers, to the file `to`.
    """
    peer = load_peer(job["checkout"])
    begin, end = job["begin"], job["end"]
    model = transformer(peer, job, padding=begin)  # sources have no begin, and need no padding
    result = model.load_state_dict(torch.load(job["weights"]), strict=False)
    missing = [name for name in result.missing_keys if not name.endswith("pos_table")]
    if missing or result.unexpected_keys:
        sys.exit(f"weights do not fit: missing {missing}, unexpected {result.unexpected_keys}")
    translator = peer.translator.Translator(
        model, job["beam_size"], job["longest"], begin, begin, begin, end
    )
    with Path(job["sources"]).open() as sources, Path(job["to"]).open("w") as file:
        for line in sources:
            _, *ids = translator.translate_sentence(torch.tensor([json.loads(line)]))
            json.dump(ids[:-1] if ids[-1] == end else ids, file)
            file.write("\n")


if __name__ == "__main__":
    {"train": train, "translate": translate}[sys.argv[1]](json.loads(sys.argv[2]))
