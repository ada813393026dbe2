"""Does model.py compute what GPT-2, Qwen3, BERT and T5 do? Known logits of small models tell.

A user may change model.py. Weights trained with another formula would load elsewhere without a
complaint, and compute something else. So a small model of each kind, with fixed weights, must give
the logits that Hugging Face's class gives (tests/exchange/test_known_logits.py compares them).
"""

from typing import Any

import torch
from torch import Tensor

from kqv.options.config import BERT, GPT2, T5
from model import GPT, GPTConfig

TOLERANCE = 2e-5  # logits are around 1; GELU's two formulas differ by 1e-4
SHAPE: dict[str, Any] = dict(vocab_size=13, block_size=8, n_layer=2, n_head=2, n_embd=8)
IDS = [3, 1, 4, 1, 5, 9, 2, 6]
SOURCE = [2, 7, 1, 8, 2]  # what a T5 translates

# (family, mlp, bias, tie_weights) to the first logits of the last position; of BERT, whose
# BertModel has no head, to the first of its hidden states.
Kind = tuple[str, str, bool, bool]
KNOWN_LOGITS: dict[Kind, tuple[float, float, float]] = {
    ("gpt2", "gelu", True, True): (-1.18738, 0.76591, 0.96450),
    ("gpt2", "gelu", True, False): (1.90343, 1.14779, -0.13340),
    ("gpt2", "gelu", False, True): (-1.74137, -1.41635, 2.15353),
    ("gpt2", "gelu", False, False): (-2.33970, 2.20035, -1.95374),
    ("gpt2", "gelu_tanh", True, True): (-1.18749, 0.76586, 0.96463),
    ("gpt2", "gelu_tanh", True, False): (1.90316, 1.14767, -0.13332),
    ("gpt2", "gelu_tanh", False, True): (-1.74165, -1.41690, 2.15397),
    ("gpt2", "gelu_tanh", False, False): (-2.34076, 2.20134, -1.95461),
    ("qwen3", "swiglu", False, False): (-0.28325, -0.80719, -0.50325),
    ("qwen3", "swiglu", False, True): (-2.24050, -0.52706, 2.39387),
    ("bert", "gelu", True, False): (-0.33569, 0.16898, 0.17775),
    ("bert", "gelu", False, False): (0.39759, 1.39782, -0.53264),
    ("bert", "gelu_tanh", True, False): (-0.33559, 0.16879, 0.17742),
    ("bert", "gelu_tanh", False, False): (0.39755, 1.39769, -0.53252),
    ("bert", "relu", True, False): (-0.02478, 0.17580, 0.17514),
    ("bert", "relu", False, False): (0.43533, 1.47507, -0.66089),
    ("t5", "geglu", False, False): (-1.14309, 0.76481, 1.08222),
}
FAMILIES: dict[str, dict[str, Any]] = {"gpt2": GPT2, "qwen3": {}, "bert": BERT, "t5": T5}


def kind_of(family: str, config: GPTConfig) -> Kind:
    """The key of KNOWN_LOGITS for a model of a family."""
    return (family, config.mlp, config.bias, config.tie_weights and family != "bert")


def small_model(kind: Kind) -> GPT:
    """A model of a kind whose weights are sines: waves of another length for each tensor."""
    family, mlp, bias, tie_weights = kind
    options: dict[str, Any] = {
        **FAMILIES[family],
        "mlp": mlp,
        "bias": bias,
        "tie_weights": tie_weights,
    }
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they are
        model = GPT(GPTConfig(**SHAPE, **options)).eval()
    for number, (name, weight) in enumerate(model.named_parameters(), start=1):
        angles = number * torch.arange(1, weight.numel() + 1, dtype=torch.float64)
        waves = angles.sin().float().view(weight.shape) / 2
        gain = "norm" in name and name.endswith("weight")
        weight.data = 1 + waves if gain else waves
    if tie_weights:
        model.head.weight = model.embedding.weight
    return model


@torch.inference_mode()
@torch.autocast("cpu", enabled=False)
def logits_of(model: GPT) -> Tensor:
    """The first logits (of BERT, hidden states) of the last position, (3,)."""
    ids = torch.tensor([IDS])
    if model.config.architecture == "encoder":
        return model.run(ids)[0, -1, :3]
    source = torch.tensor([SOURCE]) if model.config.has_cross_attention else None
    return model(ids, source=source)[0, -1, :3]


def difference(family: str, config: GPTConfig) -> str:
    """How far a small model of this kind is from the known logits, in words; "" if not at all."""
    kind = kind_of(family, config)
    try:
        apart = float((logits_of(small_model(kind)) - torch.tensor(KNOWN_LOGITS[kind])).abs().max())
    except Exception as error:  # a changed model can raise anything
        return f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
    return "" if apart <= TOLERANCE else f"logits differ by {apart:.2g}"
