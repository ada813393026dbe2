"""What a run starts from: nothing, its checkpoint in out_dir, or the weights of another model."""

import functools
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from kqv.checkpoints.loading import (
    find_checkpoint,
    is_of_launch,
    load_any,
    load_for_rank,
    load_latest,
)
from kqv.checkpoints.restoring import restore_model, restore_source_tokenizer
from kqv.checkpoints.sharded import holds_shapes, restore_shards
from kqv.errors import UserError
from kqv.exchange.huggingface import locate
from kqv.exchange.nanogpt import data_remark
from kqv.generation.checks import attend_as_written
from kqv.machine.device import check_memory, choose_machine
from kqv.machine.ranks import Ranks
from kqv.options.checks import check_architecture, check_training
from kqv.options.option_types import check_types
from kqv.options.settings import TrainSettings
from kqv.run_files import TO_RESUME
from kqv.text.source_names import known_sources
from kqv.text.tokenizer import Tokenizer
from kqv.training.data import RunData, open_data
from kqv.training.evaluation import Evaluator
from kqv.training.optimizers import restore_optimizers
from kqv.training.request import Request
from kqv.training.run import Run
from kqv.training.run_folder import occupy
from kqv.training.trainer import Trainer
from model import GPT, GPTConfig


@dataclass
class Start:
    """The checkpoint that a run starts from, and the model in it; empty for a new model."""

    checkpoint: dict[str, Any] = field(default_factory=dict)
    path: Path = Path()
    model: GPT | None = None
    tokenizer: Tokenizer | None = None
    resuming: bool = False
    """whether the run goes on, rather than a new one starting from its weights"""

    @functools.cached_property
    def source_tokenizer(self) -> Tokenizer | None:
        """That of an encoder-decoder's sources."""
        if self.tokenizer is None:
            return None
        return restore_source_tokenizer(self.checkpoint, self.tokenizer)

    @property
    def from_nanogpt(self) -> bool:
        """Whether nanoGPT wrote the checkpoint."""
        return bool(self.checkpoint.get("nanogpt"))

    def sources(self, request: Request) -> list[str]:
        """The texts of the run that wrote the checkpoint, if this one reads the same dataset."""
        return known_sources(None if "dataset" in request.given else self.checkpoint.get("sources"))

    def check_data(self, data: RunData, settings: TrainSettings) -> None:
        """Raises UserError if a text has other tokens than the model, or a resumed run is to read
        another text than before."""
        title, theirs = data.dataset.title, data.tokenizer
        before = (self.source_tokenizer, self.tokenizer)
        if self.tokenizer and before != (data.source_tokenizer, theirs):
            things = "characters" if self.tokenizer.kind == theirs.kind == "char" else "tokens"
            raise UserError(
                f"{self.path} was trained on other {things} than {title} has: name a text file "
                f"instead"
            )
        text = self.checkpoint.get("text", data.fingerprint)
        if self.resuming and not settings.eval_only and text != data.fingerprint:
            raise UserError(
                f"{title} is not the text that the run in {settings.out_dir} reads: resume with "
                f"that one, or start a new run from its weights with "
                f"--init_from={settings.out_dir} and another --out_dir="
            )

    def restore(self, run: Run) -> float:
        """Give a run the state of the one that it resumes. Returns the lowest validation loss.

        Raises UserError if the optimizers are others.
        """
        state, trainer = self.checkpoint, run.trainer
        large = ("model", "optimizer")  # what the run has taken over need not stay in memory
        self.checkpoint = {name: part for name, part in state.items() if name not in large}
        if not self.resuming:
            return float("inf")
        optimizers = [] if run.settings.eval_only else trainer.optimizers
        if holds_shapes(state):
            restore_shards(self.path, trainer.model, optimizers)
        elif optimizers:
            restore_optimizers(optimizers, state["optimizer"])
        if state["scaler"]:  # none in a run that was not in float16 before
            trainer.scaler.load_state_dict(state["scaler"])
        run.step = state["iter_num"]
        run.skipped = state.get("skipped", 0)
        run.skipped_in_a_row = state.get("skipped_in_a_row", 0)
        return state["best_val_loss"]


def find_start(request: Request, ranks: Ranks, stack: ExitStack) -> tuple[Start, Request]:
    """Read what the run starts from, on rank 0 for all ranks; and the request with the settings
    that follow from it. A resumed run locks its folder until `stack` closes.

    Raises UserError if there is no such checkpoint, or an option contradicts it.
    """
    if request.takes_gpu_recipe() and choose_machine(request.settings).device.type == "cuda":
        request = request.with_gpu_recipe()
    launch, out_dir = ranks.launch, request.settings.out_dir
    # After a torchrun restart, resume the same run.
    begun = ranks.is_main and launch.restarts and is_of_launch(launch.id, out_dir)
    if ranks.broadcast(begun):
        request = request.given_too(init_from="resume")
    settings, resuming = request.settings, request.settings.init_from == "resume"
    if settings.init_from == "scratch":
        return Start(), request
    state, path = ranks.broadcast(_read(request, stack) if ranks.is_main else ({}, Path()))
    # A shorter block_size is the one change of shape that a fine-tuned model can have.
    block_size = None if resuming else request.given.get("block_size")
    model, tokenizer = restore_model(state, path, block_size)
    state["model_args"]["block_size"] = model.config.block_size
    start = Start(state, path, model, tokenizer, resuming)
    request = replace(request, settings=_settings_of(start, request))
    settings = request.settings
    model.config.dropout = settings.dropout
    model.config.label_smoothing = settings.label_smoothing
    text_named = request.texts or "dataset" in request.given
    if start.from_nanogpt and ranks.is_main and not text_named and not settings.dry_run:
        print(data_remark(state, path, settings.dataset), file=sys.stderr)
    return start, request


def start_run(start: Start, request: Request, ranks: Ranks) -> tuple[Run, float]:
    """The run: the text as token ids, the model with its optimizers on this machine, restored if it
    resumes; and its lowest validation loss.

    Raises UserError if the machine cannot hold the model, or the text does not fit it.
    """
    settings = request.settings
    machine = choose_machine(settings, ranks.local_rank if ranks.world_size > 1 else None)
    # A model that the machine cannot hold is refused before a text is prepared for it.
    least = start.tokenizer.padded_size if start.tokenizer else 1
    check_memory(settings, least, machine, ranks)
    tokenizers = start.tokenizer, start.source_tokenizer
    data = open_data(request, *tokenizers, start.sources(request), ranks)
    start.check_data(data, settings)
    settings.dataset, settings.tokenizer = data.dataset.name, data.source_tokenizer.name
    if data.source_tokenizer is not data.tokenizer:
        settings.target_tokenizer = data.tokenizer.name
    vocab_size = data.tokenizer.padded_size
    check_memory(settings, vocab_size, machine, ranks)

    torch.manual_seed(settings.seed)
    model = start.model or GPT(GPTConfig.of(settings, vocab_size, data.source_vocab_size))
    trainer = Trainer(model, settings, machine, ranks)
    attend_as_written(model)
    run = Run(settings, ranks, data, trainer, Evaluator(model, data, settings, machine, ranks))
    return run, start.restore(run)


def _read(request: Request, stack: ExitStack) -> tuple[dict[str, Any], Path]:
    """The checkpoint that --init_from names, and where it is."""
    settings = request.settings
    if settings.init_from != "resume":
        return load_any(locate(settings.init_from))
    folder = Path(settings.out_dir)
    if not folder.is_dir():
        find_checkpoint(settings.out_dir, TO_RESUME)  # its error, before the lock makes a folder
    if not settings.eval_only and not settings.dry_run:
        stack.enter_context(occupy(folder))
    read = functools.partial(load_for_rank, fsdp=request.given.get("fsdp"))
    return load_latest(settings.out_dir, read)


def _check_objective(
    before: Mapping[str, Any], given: Mapping[str, Any], settings: TrainSettings
) -> None:
    """Refuse to go on with another mask_rate than the run had: its lowest loss, which the best
    checkpoint is chosen by, is the mean over other masks. Raises UserError."""
    masked = before.get("mask_rate", settings.mask_rate)
    if not settings.eval_only and given.get("mask_rate", masked) != masked:
        raise UserError(
            f"the run in {settings.out_dir} learns with mask_rate={masked}, and its losses are no "
            f"measure of another: leave out --mask_rate=, or start a new run from its weights with "
            f"--init_from={settings.out_dir} and another --out_dir="
        )


def _settings_of(start: Start, request: Request) -> TrainSettings:
    """The settings of a run that starts from a checkpoint: the shape, tokenizer and dataset of its
    model, unless another text is named; and all others when resuming, below those given.

    Raises UserError if a given option contradicts the shape of the weights or the tokenizer.
    """
    settings, given, path = request.settings, request.given, start.path
    known = {option.name for option in fields(TrainSettings)}
    config = start.checkpoint.get("config", {})
    before: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value  # the JSON of a sharded one
        for name, value in config.items()
        if name in known
    }
    check_types(TrainSettings, before, path)
    if start.checkpoint.get("data"):  # nanoGPT's, beside its checkpoint
        before["dataset"] = start.checkpoint["data"]
    if start.resuming:
        _check_objective(before, given, settings)
        # these two belong to the command, not to the run
        before |= {"out_dir": settings.out_dir, "eval_only": False}
        settings = TrainSettings(**{**before, **given})
    elif "dataset" not in given:
        settings = replace(settings, dataset=before.get("dataset", settings.dataset))
    fixed = dict(start.checkpoint["model_args"])
    for free in ("vocab_size", "source_vocab_size", "dropout", "label_smoothing"):
        fixed.pop(free, None)
    if start.tokenizer and start.source_tokenizer:
        fixed["tokenizer"] = start.source_tokenizer.name
        if start.source_tokenizer is not start.tokenizer:
            fixed["target_tokenizer"] = start.tokenizer.name
    for name, value in fixed.items():
        if name in given and given[name] != value:
            raise UserError(
                f"{path} has {name}={value}, which cannot become {given[name]}: leave it out, or "
                f"train from scratch"
            )
    settings = replace(settings, **fixed)
    check_architecture(given, settings.architecture)
    check_training(settings)
    return settings
