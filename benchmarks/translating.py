"""translate: the test sentences of Multi30k from German to English, beam 5, the whole process.

Both programs run the same weights: a Transformer of 2017 that kqv trains first, for a few minutes,
without the biases that the other program does not have. So both write the same translations, up to
details of their beam searches, and have the same work. The other program translates one sentence at
a time, as its translate.py does; it is given ids and writes ids, which saves it the tokenizer.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.commands import options, python, run_library
from benchmarks.measure import Finished, Row, alternate, process, say, shown_command
from benchmarks.settings import BenchSettings
from benchmarks.training_pairs import CONFIG, DTYPES, PEER
from kqv.checkpoints.loading import LoadedModel, load_model
from kqv.errors import UserError
from kqv.project import ROOT
from kqv.text.tokenizer import DOCUMENT_END, TARGET_BEGIN

DATA = ROOT / "data" / "multi30k"
BEAM_SIZE = 5
LENGTH_PENALTY = 0.7  # of the peer, which has no option for it
LONGEST = 100  # tokens of a translation; the default of its translate.py

# The shape of config/multi30k.py, and what the peer's model has or lacks.
MODEL: dict[str, Any] = dict(
    n_layer=3, n_head=4, n_embd=256, tokenizer="bpe:4096", block_size=LONGEST, batch_size=128,
    embedding_norm=True, bias=False, norm_epsilon=1e-6,
)  # fmt: skip

# What the peer calls a part of a weight's name. Its norms stand in the module that they follow.
PEER_NAMES = {
    "embedding_norm": "layer_norm",
    "blocks": "layer_stack",
    "attention": "slf_attn",
    "attention_norm": "slf_attn.layer_norm",
    "cross_attention": "enc_attn",
    "cross_norm": "enc_attn.layer_norm",
    "query": "w_qs",
    "key": "w_ks",
    "value": "w_vs",
    "output": "fc",
    "mlp": "pos_ffn",
    "mlp_norm": "pos_ffn.layer_norm",
    "up": "w_1",
    "down": "w_2",
}
HAVE_BIASES = ("layer_norm", "w_1", "w_2")  # there; 0 does nothing


@dataclass
class Translated:
    """What one side wrote, and how long its process took."""

    lines: list[str]
    seconds: float


def run(settings: BenchSettings, scratch: Path) -> Iterator[Row]:
    """Rows of the whole process, in float32 and in our default precision."""
    sources = read_sources()
    (scratch / "sources.txt").write_text("\n".join(sources) + "\n", encoding="utf-8")
    train_model(scratch / "model", settings.translate_iters)
    commands = {dtype: kqv_command(scratch, dtype) for dtype in DTYPES}
    sides: dict[str, Any] = {
        dtype: partial(kqv_translations, command, len(sources))
        for dtype, command in commands.items()
    }
    sides[PEER] = None
    if settings.aiayn:
        loaded = load_model(str(scratch / "model"))
        job = make_job(loaded, sources, scratch) | {"checkout": settings.aiayn}
        sides[PEER] = partial(peer_translations, job, loaded)
    measured = alternate(sides, settings.rounds)
    say_agreement(measured)
    for dtype, command in commands.items():
        both = {"kqv": measured[dtype]} | {
            side: measured[side] for side in measured.keys() & {PEER}
        }
        times = {side: [each.seconds for each in runs] for side, runs in both.items()}
        what = f"translating {len(sources):,} sentences, beam {BEAM_SIZE}, --dtype={dtype}"
        yield Row(what, "s", False, shown_command(command), times)
        lengths = {side: [mean_length(each.lines) for each in runs] for side, runs in both.items()}
        what = "  characters of a translation"
        yield Row(what, "characters", False, shown_command(command), lengths)


def read_sources() -> list[str]:
    """The German sentences of the test set. Raises UserError if it is not prepared."""
    path = DATA / "test.tsv"
    if not path.exists():
        raise UserError("prepare the sentences first: python data/multi30k/prepare.py")
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [line.partition("\t")[0] for line in lines]


def train_model(out_dir: Path, steps: int) -> None:
    """Train on Multi30k long enough to write sentences that end."""
    texts = [str(DATA / "train.tsv"), CONFIG, *options(val_text=DATA / "dev.tsv")]
    say(f"training a model for {steps} steps, which is not measured")
    run_options = dict(max_iters=steps, eval_interval=steps, sample_chars=0, out_dir=out_dir)
    process([*python("train.py"), *texts, *options(MODEL, **run_options)])


def kqv_command(scratch: Path, dtype: str) -> list[str]:
    """Our sample.py."""
    start = options(out_dir=scratch / "model", start=f"FILE:{scratch / 'sources.txt'}")
    search = options(each_line=True, beam_size=BEAM_SIZE, length_penalty=LENGTH_PENALTY)
    limits = options(max_new_tokens=LONGEST, dtype=dtype, device="cpu", output="jsonl")
    return [*python("sample.py"), *start, *search, *limits]


def kqv_translations(command: list[str], count: int) -> Translated:
    """Translate with our sample.py."""
    finished = process(command)
    lines = [line for line in finished.output.splitlines() if line.startswith("{")]
    if len(lines) != count:
        raise UserError(f"sample.py wrote {len(lines)} translations of {count} sentences")
    return Translated([json.loads(line)["text"] for line in lines], finished.seconds)


def make_job(loaded: LoadedModel, sources: Sequence[str], scratch: Path) -> dict[str, Any]:
    """Write the weights and the ids of the sources for the peer. Returns what it is to do."""
    config, tokenizer = loaded.model.config, loaded.tokenizer
    torch.save(peer_weights(loaded.model.state_dict()), scratch / "weights.pt")
    ids = (json.dumps(tokenizer.encode(source)) for source in sources)
    (scratch / "ids.txt").write_text("\n".join(ids) + "\n")
    shape = {name: getattr(config, name) for name in ("n_layer", "n_head", "n_embd", "vocab_size")}
    markers = dict(begin=tokenizer.marker_id(TARGET_BEGIN), end=tokenizer.marker_id(DOCUMENT_END))
    files = dict(weights=scratch / "weights.pt", sources=scratch / "ids.txt", to=scratch / "to.txt")
    search = dict(beam_size=BEAM_SIZE, longest=LONGEST)
    return shape | markers | search | {name: str(path) for name, path in files.items()}


def peer_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our weights under the peer's names, with a bias of 0 wherever it has one."""
    theirs = {}
    for name, weight in weights.items():
        stack = "encoder" if name.startswith("encoder.") else "decoder"
        parts = name.removeprefix("encoder.").removesuffix(".weight").split(".")
        if parts == ["head"]:
            theirs["trg_word_prj.weight"] = weight
            continue
        if parts == ["embedding"]:
            parts = ["src_word_emb" if stack == "encoder" else "trg_word_emb"]
        module = ".".join([stack, *(PEER_NAMES.get(part, part) for part in parts)])
        theirs[f"{module}.weight"] = weight
        if module.endswith(HAVE_BIASES):
            theirs[f"{module}.bias"] = torch.zeros(len(weight))
    return theirs


def peer_translations(job: dict[str, Any], loaded: LoadedModel) -> Translated:
    """Translate with the peer."""
    finished: Finished = run_library("aiayn", "translate", job)
    lines = Path(job["to"]).read_text().splitlines()
    return Translated(
        [loaded.tokenizer.decode(json.loads(line)) for line in lines], finished.seconds
    )


def say_agreement(measured: dict[str, list[Translated]]) -> None:
    """Say how many translations are the same in both programs, in float32."""
    if PEER in measured:
        ours, theirs = (measured[side][0].lines for side in ("float32", PEER))
        same = sum(map(str.__eq__, ours, theirs))
        say(f"{same} of {len(ours)} translations are the same in both programs")


def mean_length(lines: Sequence[str]) -> float:
    """Characters of a line, on average."""
    return sum(map(len, lines)) / len(lines)
