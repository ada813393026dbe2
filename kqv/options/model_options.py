"""The options of the model, declared once: `GPTConfig` in model.py and the options of train.py
both extend `ModelOptions`. The text below a field is its help.

torch is not imported here, because `--help` and mistakes are answered without waiting for it.
"""

import ast
import functools
from dataclasses import dataclass
from typing import Literal

from kqv.project import ROOT

MODEL = ROOT / "model.py"


@functools.cache
def _model_source() -> ast.Module:
    return ast.parse(MODEL.read_bytes())


def keys_of(table: str) -> tuple[str, ...]:
    """The keys of a table in model.py, in its order: the choices of an option.

    They are read from its source, because importing it would import torch.

    >>> keys_of("SCALES")
    ('sqrt', 'dim', 'none')
    """
    for node in _model_source().body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if ast.unparse(target) == table:
                return tuple(ast.literal_eval(key) for key in node.value.keys if key is not None)
    raise LookupError(
        f"{MODEL} has no {table} = {{...}} whose keys could be the choices of an option"
    )


@dataclass
class ModelOptions:
    """What a person can choose of a model. The defaults are Qwen3's family.

    A checkpoint that lacks an option is loaded with its default, so the default of a new option
    must compute what was computed without it.
    """

    block_size: int = 64
    """context length: tokens (characters) in a window of text, or on either side of a pair"""
    n_layer: int = 3
    """blocks of attention and MLP"""
    n_head: int = 4
    """attention heads in a block"""
    n_embd: int = 128
    """width of the residual stream; each head has d_k = n_embd / n_head"""
    architecture: Literal["decoder", "encoder", "encoder_decoder"] = "decoder"
    """decoder (GPT) predicts the next token; encoder (BERT) reads both ways and fills in blanks;
    encoder_decoder (the 2017 Transformer, T5) translates pairs"""
    encoder_layers: int = 0
    """encoder_decoder: blocks of the encoder; 0: as many as n_layer"""
    dropout: float = 0.0
    """fraction of activations dropped during training"""
    label_smoothing: float = 0.0
    """share of the target probability that training spreads evenly over all tokens"""
    bias: bool = False
    """biases in linear layers and LayerNorm"""
    position: Literal["rope", "learned", "sinusoidal", "relative", "none"] = "rope"
    """position encoding; relative adds T5's learned bias of the distance to the scores"""
    rope_base: float = 10_000.0
    """rope: base of the angular frequencies; larger for longer contexts"""
    norm: Literal[keys_of("NORMS")] = "rmsnorm"  # type: ignore[valid-type]
    """normalization before attention, before the MLP and before the output head"""
    norm_first: bool = True
    """normalize what a part of a block reads; False: its sum with the residual stream (post-norm),
    as in 2017 and in BERT, without a norm before the head"""
    norm_epsilon: float = 0.0
    """added to the variance in norms; 0: 1e-6 for rmsnorm, 1e-5 for layernorm"""
    embedding_norm: bool = False
    """normalize the embedding, too, as BERT does"""
    scale_embedding: bool = False
    """multiply the embedding by sqrt(n_embd), as in 2017"""
    mlp: Literal[keys_of("ACTIVATIONS")] = "swiglu"  # type: ignore[valid-type]
    """activation of the MLP; swiglu and geglu are gated"""
    mlp_width: int = 0
    """hidden width of the MLP; 0: 4 n_embd, or if it is gated 8/3 n_embd rounded up to 32"""
    qk_norm: bool = True
    """RMSNorm on each query and key"""
    attention_scale: Literal[keys_of("SCALES")] | float = "sqrt"  # type: ignore[valid-type]
    """factor of the scores: sqrt is 1/sqrt(d_k), dim is 1/d_k, none is 1, or a number"""
    attention_score: Literal[keys_of("SCORES")] = "dot"  # type: ignore[valid-type]
    """q.k, its square, or without softmax and scale phi(q).phi(k): linear attention, and performer,
    whose random features phi estimate a softmax of q.k/sqrt(d_k)"""
    mask: Literal[keys_of("MASKS")] = "causal"  # type: ignore[valid-type]
    """what a position may attend to: itself and the past, everything, or itself and the future; an
    encoder has none"""
    window: int = 0
    """sliding window of attention in tokens, the token itself included; 0 for no limit"""
    global_tokens: int = 0
    """beside a sliding window, the first tokens that all others see, and that see all others
    (Longformer)"""
    linformer_rank: int = 0
    """encoder: project keys and values along time to so many mixtures of positions (Linformer); 0:
    leave them as they are"""
    tie_weights: bool = False
    """share one matrix between the embedding and the output head"""
    weight_init: Literal["zero_residual", "gpt2"] = "zero_residual"
    """initial weights: N(0, 1/inputs) with zeros where a block writes into the residual stream,
    or GPT-2's N(0, 0.02^2), divided by sqrt(2 n_layer) there"""
