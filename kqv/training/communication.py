"""What several processes have to send each other, and what that costs: the arithmetic behind docs/scaling.md.

seconds a step = computing / processes + sending that does not hide behind it
"""

from dataclasses import dataclass

from model import GPT


@dataclass
class Sizes:
    """How many numbers a model has."""

    weights: int
    in_blocks: int
    """those inside the blocks, which FSDP gathers twice a step"""
    in_matrices: int
    """those that Muon orthogonalises"""

    @classmethod
    def of(cls, model: GPT, muon: bool = True) -> "Sizes":
        """The sizes of a model, on any device."""
        matrices = sum(
            weights.numel() for weights in model.blocks.parameters() if weights.ndim == 2
        )
        in_blocks = sum(weights.numel() for weights in model.blocks.parameters())
        return cls(model.parameter_count(), in_blocks, matrices if muon else 0)


def sent_bytes(
    sizes: Sizes,
    processes: int,
    fsdp: bool,
    micro_batches: int = 1,
    block_bytes: int = 4,
    muon_bytes: int = 2,
    gloo: bool = False,
) -> float:
    """Bytes that each process sends in a training step.

    A ring passes (n-1)/n of what is gathered or scattered through each process, and an all-reduce is both (Patarasu & Yuan
    2009, section 3). Gradients travel in float32, and weights too, but for those of blocks, which take `block_bytes` a
    number; what Muon made of the matrices takes `muon_bytes`.
    `gloo` reduces for all what each needs a part of, which is twice as much (counted by `bench.py scale`).
    """
    ring = (processes - 1) / processes
    if not fsdp:
        return ring * (2 * 4 * sizes.weights + muon_bytes * sizes.in_matrices)
    # Each micro-batch: weights to compute with, those of the blocks once more for the backward pass, gradients to add up.
    gathered = 4 * (sizes.weights - sizes.in_blocks) + 2 * block_bytes * sizes.in_blocks
    scattered = (2 if gloo else 1) * 4 * sizes.weights
    # Rows of all matrices to whole matrices, and back: each process has an n-th of them.
    exchanged = 2 * muon_bytes * sizes.in_matrices / processes
    return ring * ((gathered + scattered) * micro_batches + exchanged)


def step_seconds(
    alone: float, processes: int, sent: float, bandwidth: float, hidden: float = 0.0
) -> float:
    """Seconds of a step that takes one process `alone` seconds, shared by several that send `sent` bytes each at `bandwidth`
    bytes/s. Up to the share `hidden` of computing, sending goes on beside it: DistributedDataParallel sends the gradients of
    a layer while those of the layers before it are computed (Li et al. 2020, section 3.2.3)."""
    computing = alone / processes
    return computing + max(0.0, sent / bandwidth - hidden * computing)
