"""What the ranks send each other: the arithmetic behind docs/scaling.md."""

from dataclasses import dataclass

from kqv.machine.parameters import blocks_of
from model import GPT


@dataclass
class Sizes:
    """Parameters of a model, by how the ranks treat them."""

    weights: int
    in_blocks: int
    """those inside the blocks, which FSDP gathers twice a step"""
    in_matrices: int
    """those that Muon orthogonalizes"""

    @classmethod
    def of(cls, model: GPT, muon: bool = True) -> "Sizes":
        """The sizes of a model, on any device."""
        weights = [weight for block in blocks_of(model) for weight in block.parameters()]
        matrices = sum(weight.numel() for weight in weights if weight.ndim == 2)
        in_blocks = sum(weight.numel() for weight in weights)
        return cls(model.parameter_count(), in_blocks, matrices if muon else 0)


def sent_bytes(
    sizes: Sizes,
    world_size: int,
    fsdp: bool,
    micro_batches: int = 1,
    block_bytes: int = 4,
    muon_bytes: int = 2,
    gloo: bool = False,
) -> float:
    """Bytes that each rank sends in a training step.

    A ring sends (n-1)/n of what is gathered or scattered from each rank, and an all-reduce is both
    (Patarasu & Yuan 2009, section 3). Gradients are sent in float32, and so are weights, except
    those of blocks, which take `block_bytes` each. Muon's results take `muon_bytes` each. `gloo`
    has no reduce-scatter: it all-reduces instead, which is twice as much (counted by
    `python benchmarks/bench.py scale`).
    """
    ring = (world_size - 1) / world_size
    if not fsdp:
        return ring * (2 * 4 * sizes.weights + muon_bytes * sizes.in_matrices)
    # Each micro-batch gathers all weights for the forward pass and those of the blocks again for
    # the backward pass, and reduces the gradients.
    gathered = 4 * (sizes.weights - sizes.in_blocks) + 2 * block_bytes * sizes.in_blocks
    scattered = (2 if gloo else 1) * 4 * sizes.weights
    # Muon's all-to-all, from rows of all matrices to whole matrices and back.
    exchanged = 2 * muon_bytes * sizes.in_matrices / world_size
    return ring * ((gathered + scattered) * micro_batches + exchanged)
