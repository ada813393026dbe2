"""The validation loss, and what else an evaluation looks at.

The loss is the mean cross-entropy in nats per token. Over the whole split: consecutive windows of
block_size, every token predicted once. As an estimate: a few fixed, evenly spaced windows. An
encoder predicts those that a fixed set of masks hides. All are deterministic.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice

import torch

from kqv.generation.filling import fill_ids
from kqv.generation.prompts import default_prompt
from kqv.generation.sampling import generate_text
from kqv.generation.scores import describe, score
from kqv.generation.translating import Translator
from kqv.inside.figures import layer_figures
from kqv.inside.trace import Trace, record
from kqv.machine.device import Machine
from kqv.machine.ranks import Ranks
from kqv.machine.wrapping import sharding
from kqv.options.settings import SampleSettings, TrainSettings
from kqv.progress import say_once
from kqv.text.batches import Batch
from kqv.training.data import RunData
from kqv.training.pair_data import PairData
from model import GPT

TRACED = 4  # windows or pairs, over which the figures of the layers are means
BLANK_EVERY = 7  # characters of a sample, which an encoder fills in: about 15 %


class Evaluator:
    """Evaluates the model of a run on its validation split; all ranks call its methods together."""

    def __init__(
        self,
        model: GPT,
        data: RunData,
        settings: TrainSettings,
        machine: Machine,
        ranks: Ranks,
    ) -> None:
        self.model, self.data = model, data
        self.settings, self.machine, self.ranks = settings, machine, ranks

    def estimated_loss(self) -> float:
        """Mean loss over a few batches of the validation split, nats per token."""
        return self._mean_loss(self.data.estimate_batches(self.settings))

    def whole_loss(self) -> float:
        """Mean loss over the whole validation split, nats per token."""
        return self._mean_loss(self.data.whole_batches(self.settings))

    def _mean_loss(self, batches: Iterator[Batch]) -> float:
        return mean_loss(self.model, batches, self.machine, self.ranks)

    def look(self, sample: bool) -> tuple[dict[str, list[float]], str]:
        """On rank 0, figures of each layer if --inner_figures asks for them, and a sample if
        `sample`; elsewhere, and where not asked for, nothing."""
        settings = self.settings
        if not settings.inner_figures and not sample:
            return {}, ""
        whole = self._whole_model()
        if not self.ranks.is_main:
            return {}, ""
        figures, text = {}, ""
        if settings.inner_figures and settings.linformer_rank:
            say_once("inner_figures: none of a Linformer's layers, whose weights mix positions")
        elif settings.inner_figures:
            few = replace(settings, batch_size=1, eval_iters=TRACED)
            examples = self.data.estimate_batches(few)
            figures = layer_figures([trace_of(whole, each) for each in examples])
        if sample:
            text = self._sample(whole.eval())
        return figures, text

    def _whole_model(self) -> GPT:
        """On rank 0 the model with all its weights. All ranks call this together."""
        return sharding().gather(self.model, self.ranks) if self.settings.fsdp else self.model

    def scores(self) -> list[str]:
        """How good the translations of the validation sources are, in lines for people, on rank 0;
        elsewhere, and of a text, nothing. All ranks call this together."""
        data, settings = self.data, self.settings
        if not isinstance(data, PairData):
            return []
        model = self._whole_model()
        if not self.ranks.is_main:
            return []
        sources, targets = zip(*map(data.val.pair, range(len(data.val))), strict=True)
        options = SampleSettings(
            beam_size=settings.beam_size, length_penalty=settings.length_penalty, seed=settings.seed
        )
        translator = self._translator(model.eval(), options)
        answers = [found[0].text for found in translator.translate(sources)]
        references = [data.tokenizer.decode(target) for target in targets]
        symbols = data.tokenizer.kind == "symbols"
        return describe(score(answers, references, symbols), symbols)

    def _translator(self, model: GPT, options: SampleSettings) -> Translator:
        """Translates by beam search or greedily."""
        options = replace(options, temperature=0.0)
        return Translator(model, self.data.tokenizer, options, self.machine.dtype)

    def _sample(self, model: GPT) -> str:
        """What the model writes: a text; a text with its blanks filled; or a translation."""
        data, settings = self.data, self.settings
        sampling = SampleSettings(max_new_tokens=settings.sample_chars, seed=settings.seed)
        if isinstance(data, PairData):
            source, _ = data.val.pair(0)
            return self._translator(model, sampling).show(data.source_tokenizer, [source])
        if data.masking is None:
            return generate_text(model, data.tokenizer, default_prompt(data.tokenizer), sampling)
        ids = data.val[: settings.sample_chars + 1][: settings.block_size].tolist()
        every = BLANK_EVERY if data.masking.rate != "uniform" else 1
        ids[::every] = [data.masking.mask] * len(ids[::every])
        return fill_ids(model, data.tokenizer, ids, sampling)


def trace_of(model: GPT, example: Batch) -> Trace:
    """What a model computes on a batch of one."""
    source = () if example.source is None else example.source[0].tolist()
    return record(model, example.ids[0].tolist(), source=source)


@torch.no_grad()
def mean_loss(
    model: GPT, batches: Iterable[Batch], machine: Machine, ranks: Ranks | None = None
) -> float:
    """Mean loss over batches, which the ranks share; nats per token."""
    model.eval()
    ranks = ranks or Ranks()
    total, count, remaining = 0.0, 0.0, iter(batches)
    # Each rank takes one batch of a round. In the last round some have none left: they compute one
    # that does not count, because sharded weights are gathered by all ranks together.
    while a_round := list(islice(remaining, ranks.world_size)):
        batch = a_round[min(ranks.rank, len(a_round) - 1)]
        ids, targets, weights, source, _ = batch.to(machine.device)
        with machine.autocast():
            loss = float(model(ids, targets=targets, weights=weights, source=source))
        if ranks.rank < len(a_round):
            total += loss * batch.total_weight
            count += batch.total_weight
    total, count = ranks.all_reduce(total, count)
    return total / count
