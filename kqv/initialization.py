"""The weights of an untrained model: normal numbers, with a standard deviation for each matrix."""

import math
from typing import Any

import torch
from torch import nn


def std_zero_residual(config: Any, name: str, inputs: int) -> float:
    """1/√inputs for matrices, 0.5 for embeddings.

    Zero for projections into the residual stream (`output`, `down`), so that each block starts as
    the identity, for biases of relative positions, and for the head, so that the first loss is
    log(vocab_size). A tied head cannot be zero, so embeddings have 0.02 then.
    """
    if name.endswith(("embedding", "positions")):
        return 0.02 if config.tie_weights else 0.5
    if name == "head" or name.endswith((".output", ".down", "relative.bias")):
        return 0.0
    return inputs**-0.5


def std_gpt2(config: Any, name: str, inputs: int) -> float:
    """0.02; for projections into the residual stream, where 2·n_layer outputs of a GPT add
    up, 0.02/√(2·n_layer) (Radford et al. 2019, section 2.3). nanoGPT does the same.
    """
    residual = name.endswith((".output", ".down"))
    return 0.02 / math.sqrt(2 * config.n_layer) if residual else 0.02


# By the option weight_init: std(config, name of the module, its number of inputs).
WEIGHT_INITS = {"zero_residual": std_zero_residual, "gpt2": std_gpt2}


@torch.no_grad()
def initialize(model: nn.Module, config: Any) -> None:
    """Draw each matrix of a GPT from N(0, std²). Biases are 0; norms keep their ones."""
    std_of = WEIGHT_INITS[config.weight_init]
    for name, module in model.named_modules():
        tied = name == "head" and config.tie_weights
        if isinstance(module, nn.Linear | nn.Embedding) and not tied:
            if std := std_of(config, name, inputs=module.weight.shape[1]):
                nn.init.normal_(module.weight, std=std)
            else:
                nn.init.zeros_(module.weight)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
