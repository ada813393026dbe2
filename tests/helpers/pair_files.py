"""Files of pairs for tests, and what a prepared dataset holds of them."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

from kqv.text.dataset_folders import PairDataset

Pairs = Sequence[tuple[str, str]]


def write_tsv(path: Path, pairs: Pairs) -> Path:
    """A file with a pair a line; packed if its name ends with .gz."""
    data = "".join(f"{source}\t{target}\n" for source, target in pairs).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_jsonl(path: Path, pairs: Pairs) -> Path:
    """A file with an object a line, under source and target."""
    objects = [json.dumps({"source": source, "target": target}) for source, target in pairs]
    path.write_text("".join(f"{each}\n" for each in objects))
    return path


def pairs_of(dataset: PairDataset, split: str) -> list[tuple[str, str]]:
    """The pairs of a split, decoded from its ids; [] if it has none."""
    if not getattr(dataset, f"{split}_pairs"):
        return []
    pairs = dataset.open_split(split, block_size=1 << 20)
    decode = dataset.source_tokenizer.decode, dataset.tokenizer.decode
    return [
        (decode[0](source), decode[1](target))
        for source, target in map(pairs.pair, range(len(pairs)))
    ]


def words(count: int) -> list[tuple[str, str]]:
    """Pairs of different lengths: a number in digits, and in the names of its digits."""
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    return [
        (str(number), " ".join(names[int(digit)] for digit in str(number)))
        for number in (i * 37 % 1009 for i in range(count))
    ]
