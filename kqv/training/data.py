"""The text of a run: its dataset, opened as token files, and the batches of a step."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from kqv.machine.ranks import Ranks
from kqv.options.settings import TrainSettings
from kqv.text.batches import training_batch
from kqv.text.datasets import Dataset, open_dataset, open_texts
from kqv.text.token_files import Ids, fingerprint, open_tokens
from kqv.text.tokenizer import Tokenizer
from kqv.training.request import Request


@dataclass(frozen=True)
class RunData:
    """A dataset, and its two splits as arrays of token ids."""

    dataset: Dataset
    train: Ids
    val: Ids
    fingerprint: str
    """what tells the training split from any other text"""
    characters_per_token: float
    """mean over the validation split; above 0, because losses are divided by it"""

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the ids."""
        return self.dataset.tokenizer

    def batches(
        self, settings: TrainSettings, ranks: Ranks, step: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The micro-batches (x, y) of this rank in a step, each (windows, block_size) int64."""
        windows = settings.step_windows
        each, _ = ranks.micro_batches(windows, settings.batch_size)
        for number in range(ranks.rank * each, (ranks.rank + 1) * each):
            yield training_batch(
                self.train, settings.seed, step, windows, settings.block_size,
                part=number, parts=ranks.world_size * each, order=settings.order,
            )  # fmt: skip


def open_data(
    request: Request, tokenizer: Tokenizer | None, sources: list[str], ranks: Ranks
) -> RunData:
    """The text that a run trains on, prepared first if it is not yet.

    `tokenizer` is the one of the checkpoint that the run starts from, None if it has none;
    `sources` are the texts of that run, to say how its dataset is made again. Raises UserError.
    """
    settings, given = request.settings, request.given
    again = ranks.launch.command("train.py", *sources, *request.arguments)

    def open_text() -> Dataset:
        if request.texts:
            kind = tokenizer or settings.tokenizer
            reading = (settings.encoding, kind, settings.text_field, settings.endings)
            return open_texts(request.texts, *reading)
        return open_dataset(
            settings.dataset, tokenizer or given.get("tokenizer", ""), sources, again
        )

    dataset = ranks.local_main_first(open_text)
    size, block_size = dataset.tokenizer.vocab_size, settings.block_size
    train, val = (
        open_tokens(dataset.folder / name, size, block_size) for name in ("train.bin", "val.bin")
    )
    per_token = max(characters_per_token(val, dataset.tokenizer), 1e-9)
    return RunData(dataset, train, val, fingerprint(train), per_token)


def characters_per_token(tokens: Ids, tokenizer: Tokenizer) -> float:
    """Mean number of characters that a token stands for, over the split but its first token, which
    is not predicted. It turns a loss per token into a loss per character, which can be compared
    between vocabularies."""
    if tokenizer.kind == "char":
        return 1.0
    begun, piece = tokenizer.characters_begun(), 1 << 20
    pieces = (begun[tokens[first : first + piece]] for first in range(1, len(tokens), piece))
    return sum(int(characters.sum()) for characters in pieces) / (len(tokens) - 1)
