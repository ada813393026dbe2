"""Models and inputs for tests."""

from typing import Any

import torch

from model import GPT, GPTConfig

SHAPE: dict[str, Any] = {  # of a model that is small, and has several of everything
    "vocab_size": 11,
    "block_size": 16,
    "n_layer": 3,
    "n_head": 2,
    "n_embd": 16,
}


def randomised(config: GPTConfig, seed: int = 0, kind: type[GPT] = GPT, spread: float = 0.2) -> GPT:
    """A model whose weights are all random, norms and zero projections too: nothing is hidden."""
    model = kind(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            mean = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(mean + spread * torch.randn(parameter.shape, generator=generator))
    return model


def random_ids(config: GPTConfig, batch: int = 2, time: int | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(config.vocab_size, (batch, time or config.block_size), generator=generator)
