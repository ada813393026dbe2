"""The pairs of a run, and the batches of a step. The methods are those of TextData (data.py)."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from kqv.errors import UserError
from kqv.machine.ranks import Ranks
from kqv.options.settings import TrainSettings
from kqv.text.batches import Batch
from kqv.text.dataset_folders import PairDataset
from kqv.text.pair_batches import all_pairs, pair_batch, spaced_pairs
from kqv.text.pair_splits import PairSplit, left_out_remark
from kqv.text.token_files import fingerprint
from kqv.text.tokenizer import Tokenizer
from kqv.training.frequencies import trivial_losses

COUNTED_PAIRS, COUNTED_BATCHES = 256, 64  # whose tokens are counted, spread evenly over a split


@dataclass(frozen=True)
class PairData:
    """A dataset of pairs, and its two splits."""

    dataset: PairDataset
    train: PairSplit
    val: PairSplit
    fingerprint: str
    """what tells the training split from any other"""
    characters_per_token: float
    """of the targets of the validation split, their ends included; above 0"""
    remarks: tuple[str, ...]
    """what to say of them when training starts"""

    @property
    def tokenizer(self) -> Tokenizer:
        """That of the targets."""
        return self.dataset.tokenizer

    @property
    def source_tokenizer(self) -> Tokenizer:
        """That of the sources; the same object if both sides have one vocabulary."""
        return self.dataset.source_tokenizer

    @property
    def source_vocab_size(self) -> int:
        """Ids of the sources in a new model; 0 if both sides have one vocabulary."""
        own = self.source_tokenizer is not self.tokenizer
        return self.source_tokenizer.padded_size if own else 0

    @property
    def prompt_options(self) -> list[str]:
        """Options of sample.py that a first try needs: a source, the first for validation."""
        source = self.source_tokenizer.decode(self.val.pair(0)[0])
        return [f"--start={source}", *(["--each_line=False"] if "\n" in source else [])]

    @property
    def size(self) -> tuple[int, str]:
        """How much there is to train on: a number, and what is counted."""
        return len(self.train), "pairs"

    @property
    def measured(self) -> str:
        """What the validation loss is a mean over."""
        return "over the targets of the whole validation split"

    def __str__(self) -> str:
        """What it is, for people."""
        different = f"{self.tokenizer.vocab_size} different tokens"
        if self.source_tokenizer is not self.tokenizer:
            different = f"{self.source_tokenizer.vocab_size} and {different}"
        return f"{len(self.train):,} pairs of {self.dataset.title}, {different}"

    def batches(self, settings: TrainSettings, ranks: Ranks, step: int) -> Iterator[Batch]:
        """The micro-batches of this rank in a step."""
        count, seed = settings.step_windows, settings.seed
        each, _ = ranks.micro_batches(count, settings.batch_size)
        for number in range(ranks.rank * each, (ranks.rank + 1) * each):
            yield pair_batch(self.train, seed, step, count, number, ranks.world_size * each)

    def step_size(self, settings: TrainSettings) -> int:
        """How much of `size` a step reads."""
        return settings.step_windows

    def step_tokens(self, settings: TrainSettings) -> int:
        """Tokens that a step reads, on average: those of both sides, and the end of the target."""
        return round((len(self.train.tokens) / self.train.all_pairs + 1) * settings.step_windows)

    def estimate_batches(self, settings: TrainSettings) -> Iterator[Batch]:
        """A few fixed, evenly spaced pairs of the validation split."""
        return spaced_pairs(self.val, settings.batch_size, settings.eval_iters)

    def whole_batches(self, settings: TrainSettings) -> Iterator[Batch]:
        """The whole validation split."""
        return all_pairs(self.val, settings.batch_size)

    def trivial_losses(self) -> tuple[float, float]:
        """Losses to compare with: of guessing uniformly, and by token frequencies."""
        train = self.train if len(self.train) else self.val
        return trivial_losses(targets(train), targets(self.val), self.tokenizer.vocab_size)


def pair_data(dataset: PairDataset, settings: TrainSettings) -> PairData:
    """The splits of a dataset of pairs. Raises UserError if none of them fits into a block."""
    if settings.architecture != "encoder_decoder":
        raise UserError(
            f"{dataset.title} has pairs, which an encoder-decoder learns from: add "
            f"--architecture=encoder_decoder"
        )
    val = dataset.open_split("val", settings.block_size)
    splits = {"val": val}
    if dataset.train_pairs:
        splits = {"train": dataset.open_split("train", settings.block_size), "val": val}
    train = splits.get("train", val)
    left_out = [left_out_remark(pairs, name, settings.block_size) for name, pairs in splits.items()]
    remarks = (dataset.remark, *left_out)
    begun = dataset.tokenizer.characters_begun()
    per_token = max(float(begun[targets(val)].mean()), 1e-9)
    return PairData(
        dataset, train, val, fingerprint(train.tokens), per_token, tuple(filter(None, remarks))
    )


def targets(pairs: PairSplit) -> np.ndarray:
    """Target ids of pairs that are spread evenly over a split, with their ends, (ids,) int64."""
    batches = islice(spaced_pairs(pairs, COUNTED_PAIRS, COUNTED_BATCHES), COUNTED_BATCHES)
    counted = ((batch.targets, batch.weights) for batch in batches)
    return np.concatenate(
        [ids[weights > 0].numpy() for ids, weights in counted if weights is not None]
    )
