"""The text of a run: its dataset, opened as token files, and the batches of a step.

Pairs have the same methods: kqv/training/pair_data.py.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kqv.errors import UserError
from kqv.machine.ranks import Ranks
from kqv.options.settings import TrainSettings
from kqv.text.batches import Batch, all_windows, spaced_windows, training_batch
from kqv.text.dataset_folders import Dataset, PairDataset
from kqv.text.datasets import open_dataset, open_texts
from kqv.text.masking import Masking
from kqv.text.pair_datasets import open_pairs
from kqv.text.token_files import Ids, fingerprint, open_tokens
from kqv.text.tokenizer import MASK, Tokenizer
from kqv.training.frequencies import sample_of, trivial_losses
from kqv.training.pair_data import PairData, pair_data
from kqv.training.request import Request

SEARCHED_TOKENS = 1 << 24  # of a text, at a time
LEARNS_FROM_PAIRS = (
    "learns from pairs: name a file of them, such as pairs.tsv with a source, a tab and a target "
    "in each line"
)


@dataclass(frozen=True)
class TextData:
    """A dataset, and its two splits as arrays of token ids."""

    dataset: Dataset
    tokenizer: Tokenizer
    """of the model: that of the dataset, for an encoder with the mask"""
    train: Ids
    val: Ids
    fingerprint: str
    """what tells the training split from any other text"""
    characters_per_token: float
    """mean over the validation split; above 0, because losses are divided by it"""
    masking: Masking | None
    """how an encoder's windows are masked"""

    def batches(self, settings: TrainSettings, ranks: Ranks, step: int) -> Iterator[Batch]:
        """The micro-batches of this rank in a step, each (windows, block_size)."""
        windows, block_size, seed = settings.step_windows, settings.block_size, settings.seed
        each, _ = ranks.micro_batches(windows, settings.batch_size)
        parts = ranks.world_size * each
        for number in range(ranks.rank * each, (ranks.rank + 1) * each):
            x, y = training_batch(
                self.train, seed, step, windows, block_size,
                part=number, parts=parts, order=settings.order,
            )  # fmt: skip
            share = len(x) / windows
            if self.masking:
                first = number * windows // parts
                yield self.masking.batch(x, seed, step, first, share)
            else:
                yield Batch(x, y, share=share)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What to say of it when training starts: nothing."""
        return ()

    @property
    def source_tokenizer(self) -> Tokenizer:
        """The same tokenizer: only pairs have a source."""
        return self.tokenizer

    @property
    def source_vocab_size(self) -> int:
        """0: only pairs have a source."""
        return 0

    @property
    def prompt_options(self) -> list[str]:
        """Options of sample.py that a first try needs: none."""
        return []

    @property
    def size(self) -> tuple[int, str]:
        """How much there is to train on: a number, and what is counted."""
        return len(self.train), "characters" if self.tokenizer.kind == "char" else "tokens"

    def __str__(self) -> str:
        """What it is, for people."""
        different = f"{self.dataset.vocab_size} different"
        return f"{len(self.train):,} tokens of {self.dataset.title}, {different}"

    @property
    def measured(self) -> str:
        """What the validation loss is a mean over."""
        if not self.masking:
            return "over the whole validation split"
        if self.masking.rate == "uniform":
            return "an upper bound, over a fixed set of masks of the whole validation split"
        return "over the masked ones of the whole validation split, whose masks are fixed"

    def step_size(self, settings: TrainSettings) -> int:
        """How much of `size` a step reads."""
        return settings.step_windows * settings.block_size

    def step_tokens(self, settings: TrainSettings) -> int:
        """Tokens that a step reads."""
        return self.step_size(settings)

    def estimate_batches(self, settings: TrainSettings) -> Iterator[Batch]:
        """A few fixed, evenly spaced windows of the validation split."""
        size = settings.batch_size, settings.block_size
        return self._evaluated(spaced_windows(self.val, *size, settings.eval_iters))

    def whole_batches(self, settings: TrainSettings) -> Iterator[Batch]:
        """The whole validation split: every token but the first predicted once or, by an encoder,
        those that a fixed set of masks hides."""
        return self._evaluated(all_windows(self.val, settings.batch_size, settings.block_size))

    def trivial_losses(self) -> tuple[float, float]:
        """Losses to compare with: of guessing uniformly, and by token frequencies."""
        size = self.masking.vocab_size if self.masking else self.dataset.vocab_size
        return trivial_losses(sample_of(self.train), sample_of(self.val), size)

    def _evaluated(self, windows: Iterable[tuple]) -> Iterator[Batch]:
        first = 0
        for x, y in windows:
            yield self.masking.batch(x, 0, 0, first) if self.masking else Batch(x, y)
            first += len(x)


RunData = TextData | PairData


def open_data(
    request: Request,
    tokenizer: Tokenizer | None,
    source_tokenizer: Tokenizer | None,
    sources: list[str],
    ranks: Ranks,
) -> RunData:
    """The text or the pairs that a run trains on, prepared first if they are not yet.

    The tokenizers are those of the checkpoint that the run starts from, None if it has none;
    `sources` are the texts of that run, to say how its dataset is made again. Raises UserError.
    """
    settings, given = request.settings, request.given
    again = ranks.launch.command("train.py", *sources, *request.arguments)
    tokenizers = (tokenizer, source_tokenizer)
    dataset = ranks.local_main_first(
        lambda: open_named(request.texts, settings, given, tokenizers, sources, again)
    )
    if isinstance(dataset, PairDataset):
        return pair_data(dataset, settings)
    return text_data(dataset, settings)


def open_named(
    words: Sequence[str],
    settings: TrainSettings,
    given: Mapping[str, Any],
    tokenizers: tuple[Tokenizer | None, Tokenizer | None] = (None, None),
    sources: Sequence[str] = (),
    again: str = "",
) -> Dataset:
    """The texts or pairs that words of a command line name, or else the dataset that is named.

    `given` are the options that were given. The tokenizers, of the model and of an
    encoder-decoder's sources, are those of a checkpoint, None if there is none; `sources` and
    `again` are those of `open_dataset`. Raises UserError.
    """
    tokenizer, source_tokenizer = tokenizers
    val_text = given.get("val_text", ())
    if val_text and not words and not settings.eval_only:
        raise UserError("--val_text= names what to validate on: name what to train on, too")
    target = tokenizer or settings.target_tokenizer
    if not words and not val_text:  # a dataset has its own tokenizer, unless one is asked for
        if settings.architecture == "encoder_decoder" and settings.dataset == TrainSettings.dataset:
            raise UserError(f"an encoder-decoder {LEARNS_FROM_PAIRS}")
        kind = source_tokenizer or given.get("tokenizer", "")
        return open_dataset(settings.dataset, kind, sources, again, target)
    if settings.architecture == "encoder_decoder":
        one = tokenizer is not None and source_tokenizer is tokenizer
        return open_pairs(
            words, val_text, settings.encoding, source_tokenizer or settings.tokenizer,
            "" if one else target, settings.source_field, settings.target_field, settings.endings,
        )  # fmt: skip
    kind = tokenizer or settings.tokenizer
    reading = (settings.encoding, kind, settings.text_field, settings.endings)
    return open_texts(words, *reading, val_text)


def text_data(dataset: Dataset, settings: TrainSettings) -> TextData:
    """The splits of a text. Raises UserError if they do not fit the model."""
    if settings.architecture == "encoder_decoder":
        raise UserError(f"{dataset.title} is a text, and an encoder-decoder {LEARNS_FROM_PAIRS}")
    size, block_size = dataset.tokenizer.vocab_size, settings.block_size
    train, val = (
        open_tokens(dataset.folder / name, size, block_size) for name in ("train.bin", "val.bin")
    )
    per_token = max(characters_per_token(val, dataset.tokenizer), 1e-9)
    tokenizer, masking = dataset.tokenizer, None
    if settings.architecture == "encoder":
        tokenizer = tokenizer.with_markers(MASK)
        mask = tokenizer.marker_id(MASK)
        # A mask that stands behind the characters is none of them, whether or not the text was
        # prepared for a checkpoint that brings it: both draw the same masks.
        characters = mask if mask == tokenizer.vocab_size - 1 else tokenizer.vocab_size
        masking = Masking(settings.mask_rate, mask, characters)
        can_have_it = dataset.tokenizer.knows(MASK)
        if can_have_it and any(has_token(split, masking.mask) for split in (train, val)):
            raise UserError(
                f"{dataset.title} has the character U+{ord(MASK):04X}, which stands for a blank in "
                f"an encoder: take it out of the text"
            )
    return TextData(dataset, tokenizer, train, val, fingerprint(train), per_token, masking)


def has_token(tokens: Ids, token: int) -> bool:
    """Whether a token occurs."""
    pieces = (
        tokens[first : first + SEARCHED_TOKENS] for first in range(0, len(tokens), SEARCHED_TOKENS)
    )
    return any(bool(np.any(piece == token)) for piece in pieces)


def characters_per_token(tokens: Ids, tokenizer: Tokenizer) -> float:
    """Mean number of characters that a token stands for, over the split but its first token, which
    is not predicted. It turns a loss per token into a loss per character, which can be compared
    between vocabularies."""
    if tokenizer.kind == "char":
        return 1.0
    begun, piece = tokenizer.characters_begun(), 1 << 20
    pieces = (begun[tokens[first : first + piece]] for first in range(1, len(tokens), piece))
    return sum(int(characters.sum()) for characters in pieces) / (len(tokens) - 1)
