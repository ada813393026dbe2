"""The text of a run: its dataset, opened as token files, and the batches of a step."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from kqv.errors import UserError
from kqv.machine.ranks import Ranks
from kqv.options.settings import TrainSettings
from kqv.text.batches import Batch, all_windows, spaced_windows, training_batch
from kqv.text.datasets import Dataset, open_dataset, open_texts
from kqv.text.masking import Masking
from kqv.text.token_files import Ids, fingerprint, open_tokens
from kqv.text.tokenizer import MASK, Tokenizer
from kqv.training.request import Request

SEARCHED_TOKENS = 1 << 24  # of a text, at a time


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
    def measured(self) -> str:
        """What the validation loss is a mean over."""
        if not self.masking:
            return "over the whole validation split"
        if self.masking.rate == "uniform":
            return "an upper bound, over a fixed set of masks of the whole validation split"
        return "over the masked ones of the whole validation split, whose masks are fixed"

    def step_tokens(self, settings: TrainSettings) -> int:
        """Tokens that a step reads."""
        return settings.step_windows * settings.block_size

    def estimate_batches(self, settings: TrainSettings) -> Iterator[Batch]:
        """A few fixed, evenly spaced windows of the validation split."""
        size = settings.batch_size, settings.block_size
        return self._evaluated(spaced_windows(self.val, *size, settings.eval_iters))

    def whole_batches(self, settings: TrainSettings) -> Iterator[Batch]:
        """The whole validation split: every token but the first predicted once or, by an encoder,
        those that a fixed set of masks hides."""
        return self._evaluated(all_windows(self.val, settings.batch_size, settings.block_size))

    def _evaluated(self, windows: Iterable[tuple]) -> Iterator[Batch]:
        first = 0
        for x, y in windows:
            yield self.masking.batch(x, 0, 0, first) if self.masking else Batch(x, y)
            first += len(x)


def open_text(
    request: Request, tokenizer: Tokenizer | None, sources: list[str], ranks: Ranks
) -> TextData:
    """The text that a run trains on, prepared first if it is not yet.

    `tokenizer` is the one of the checkpoint that the run starts from, None if it has none;
    `sources` are the texts of that run, to say how its dataset is made again. Raises UserError.
    """
    settings, given = request.settings, request.given
    again = ranks.launch.command("train.py", *sources, *request.arguments)

    def open_it() -> Dataset:
        if request.texts:
            kind = tokenizer or settings.tokenizer
            reading = (settings.encoding, kind, settings.text_field, settings.endings)
            return open_texts(request.texts, *reading)
        return open_dataset(
            settings.dataset, tokenizer or given.get("tokenizer", ""), sources, again
        )

    dataset = ranks.local_main_first(open_it)
    size, block_size = dataset.tokenizer.vocab_size, settings.block_size
    train, val = (
        open_tokens(dataset.folder / name, size, block_size) for name in ("train.bin", "val.bin")
    )
    per_token = max(characters_per_token(val, dataset.tokenizer), 1e-9)
    tokenizer, masking = dataset.tokenizer, None
    if settings.architecture == "encoder":
        tokenizer = tokenizer.with_markers(MASK)
        masking = Masking(settings.mask_rate, tokenizer.marker_id(MASK), size)
        if has_token(train, masking.mask) or has_token(val, masking.mask):
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
