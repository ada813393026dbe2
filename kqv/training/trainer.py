"""One training step: gradients of the global batch, clipping, the update."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, get_total_norm

from kqv.machine.device import Machine
from kqv.machine.ranks import Ranks
from kqv.machine.wrapping import no_sync_until, replicate, sharding, whole
from kqv.options.settings import TrainSettings
from kqv.text.batches import Batch
from kqv.training.optimizers import make_optimizers
from model import GPT, Stack

# Distance between the random seeds of two ranks: a CPU's generator takes 32 bits of a seed.
RANK_SEED = 0x9E3779B9


class Trainer:
    """A model with its optimizers and gradient scaler on this machine, wrapped for its ranks."""

    def __init__(self, model: GPT, settings: TrainSettings, machine: Machine, ranks: Ranks) -> None:
        """Raises UserError if there are too few windows in a step for the ranks."""
        self.model, self.settings, self.machine, self.ranks = model, settings, machine, ranks
        self.micro_batches, _ = ranks.micro_batches(settings.step_windows, settings.batch_size)
        """micro-batches of this rank in a step"""
        for module in model.modules():
            if isinstance(module, Stack):  # the encoder is one, too
                module.activation_checkpointing = settings.activation_checkpointing
        if settings.fsdp:
            sharding().shard(model, machine, ranks)
        forward = machine.prepare(model)
        self.optimizers = make_optimizers(
            model, settings, machine.muon_dtype, ranks.rank, ranks.world_size
        )
        self.forward = forward if settings.fsdp else replicate(forward, machine, ranks)
        self.scaler = torch.amp.GradScaler(
            machine.device.type, enabled=machine.dtype == torch.float16
        )

    @property
    def scale_may_fall(self) -> bool:
        """Whether a step that is not finite may come from a scale of float16 gradients that is too
        high still; the scaler halves it then."""
        return self.scaler.get_scale() > 1

    def forward_backward(self, batches: Iterable[Batch], step: int) -> Tensor:
        """Accumulate the gradient of this rank's micro-batches. Returns this rank's share of the
        loss of the global batch."""
        settings, device = self.settings, self.machine.device
        self.model.train()
        if settings.dropout:
            # Dropout, like the batches, depends on seed, step and rank alone: a resumed run draws
            # what it would have drawn.
            torch.manual_seed(settings.seed + step + self.ranks.rank * RANK_SEED)
        loss = torch.zeros((), device=device)
        for number, batch in enumerate(batches, start=1):
            ids, targets, weights, source, part = batch.to(device)
            with no_sync_until(number == self.micro_batches, self.forward):
                with self.machine.autocast():
                    mean = self.forward(ids, targets=targets, weights=weights, source=source)
                    share = mean * part
                # The loss is divided by the global batch, and DDP and FSDP average gradients over
                # the ranks, which divides once more: undo one of the two.
                self.scaler.scale(share * self.ranks.world_size).backward()
            loss += share.detach()
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)  # type: ignore[arg-type]  # needs param_groups only
        return loss

    def clip_gradients(self) -> Tensor:
        """Clip the gradient's norm to grad_clip. Returns the norm before."""
        return whole(clip_grad_norm_(self.model.parameters(), self.settings.grad_clip or math.inf))

    def update(self, finite: bool, keep_gradients: bool = False) -> None:
        """Let each optimizer take its step, or skip it if a number in it is not finite; then drop
        the gradients. (`keep_gradients` leaves them in memory, as DDP's buckets stay there.)"""
        for optimizer in self.optimizers:
            if finite:
                self.scaler.step(optimizer)  # type: ignore[arg-type]  # needs param_groups and step
            if not keep_gradients:
                optimizer.zero_grad()
        self.scaler.update()

    def layer_gradient_norms(self) -> list[float]:
        """The norm of each block's gradient, of an encoder-decoder those of its decoder."""
        return [
            float(whole(get_total_norm([w.grad for w in block.parameters() if w.grad is not None])))
            for block in self.model.blocks
        ]
