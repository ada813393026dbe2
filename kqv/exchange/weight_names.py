"""What Hugging Face and llama.cpp (GGUF) call the modules of each family.

nanoGPT's names are Hugging Face's.
"""

from typing import NamedTuple


class Name(NamedTuple):
    """A module of ours, and what others call it; "" where llama.cpp's server does not run it."""

    ours: str
    huggingface: str
    gguf: str = ""


class Blocks(NamedTuple):
    """Where the blocks of a stack are, and the modules of each."""

    ours: str
    huggingface: str
    gguf: str
    inside: list[Name]


GPT2_BLOCK = [
    Name("attention_norm", "ln_1", "attn_norm"),
    Name("attention.query attention.key attention.value", "attn.c_attn", "attn_qkv"),
    Name("attention.output", "attn.c_proj", "attn_output"),
    Name("mlp_norm", "ln_2", "ffn_norm"),
    Name("mlp.up", "mlp.c_fc", "ffn_up"),
    Name("mlp.down", "mlp.c_proj", "ffn_down"),
]
QWEN3_BLOCK = [
    Name("attention_norm", "input_layernorm", "attn_norm"),
    Name("attention.query", "self_attn.q_proj", "attn_q"),
    Name("attention.key", "self_attn.k_proj", "attn_k"),
    Name("attention.value", "self_attn.v_proj", "attn_v"),
    Name("attention.output", "self_attn.o_proj", "attn_output"),
    Name("attention.query_norm", "self_attn.q_norm", "attn_q_norm"),
    Name("attention.key_norm", "self_attn.k_norm", "attn_k_norm"),
    Name("mlp_norm", "post_attention_layernorm", "ffn_norm"),
    Name("mlp.gate", "mlp.gate_proj", "ffn_gate"),
    Name("mlp.up", "mlp.up_proj", "ffn_up"),
    Name("mlp.down", "mlp.down_proj", "ffn_down"),
]
BERT_BLOCK = [
    Name("attention.query", "attention.self.query"),
    Name("attention.key", "attention.self.key"),
    Name("attention.value", "attention.self.value"),
    Name("attention.output", "attention.output.dense"),
    Name("attention_norm", "attention.output.LayerNorm"),
    Name("mlp.up", "intermediate.dense"),
    Name("mlp.down", "output.dense"),
    Name("mlp_norm", "output.LayerNorm"),
]


def _t5_attention(ours: str, norm: str, layer: str, theirs: str) -> list[Name]:
    """An attention of T5, and the norm before it."""
    names = [("query", "q"), ("key", "k"), ("value", "v"), ("output", "o")]
    return [
        *(Name(f"{ours}.{name}", f"{layer}.{theirs}.{short}") for name, short in names),
        Name(norm, f"{layer}.layer_norm"),
    ]


def _t5_mlp(layer: str) -> list[Name]:
    return [
        Name("mlp.gate", f"{layer}.DenseReluDense.wi_0"),
        Name("mlp.up", f"{layer}.DenseReluDense.wi_1"),
        Name("mlp.down", f"{layer}.DenseReluDense.wo"),
        Name("mlp_norm", f"{layer}.layer_norm"),
    ]


T5_SELF = _t5_attention("attention", "attention_norm", "layer.0", "SelfAttention")
T5_CROSS = _t5_attention("cross_attention", "cross_norm", "layer.1", "EncDecAttention")
T5_BIAS = "block.0.layer.0.SelfAttention.relative_attention_bias"  # of positions; once per stack

# The modules of a model, in the order of theirs.
MODULES: dict[str, list[Name | Blocks]] = {
    "gpt2": [
        Name("embedding", "transformer.wte", "token_embd"),
        Name("positions", "transformer.wpe", "position_embd"),
        Blocks("blocks", "transformer.h", "blk", GPT2_BLOCK),
        Name("norm", "transformer.ln_f", "output_norm"),
        Name("head", "lm_head", "output"),
    ],
    "qwen3": [
        Name("embedding", "model.embed_tokens", "token_embd"),
        Blocks("blocks", "model.layers", "blk", QWEN3_BLOCK),
        Name("norm", "model.norm", "output_norm"),
        Name("head", "lm_head", "output"),
    ],
    # BertModel has no head; that of BertForMaskedLM is another formula, and has other names.
    "bert": [
        Name("embedding", "bert.embeddings.word_embeddings"),
        Name("positions", "bert.embeddings.position_embeddings"),
        Name("embedding_norm", "bert.embeddings.LayerNorm"),
        Blocks("blocks", "bert.encoder.layer", "", BERT_BLOCK),
        Name("head", "lm_head"),
    ],
    "t5": [
        Name("embedding", "shared"),
        Name("encoder.relative.bias", f"encoder.{T5_BIAS}"),
        Blocks("encoder.blocks", "encoder.block", "", T5_SELF + _t5_mlp("layer.1")),
        Name("encoder.norm", "encoder.final_layer_norm"),
        Name("relative.bias", f"decoder.{T5_BIAS}"),
        Blocks("blocks", "decoder.block", "", T5_SELF + T5_CROSS + _t5_mlp("layer.2")),
        Name("norm", "decoder.final_layer_norm"),
        Name("head", "lm_head"),
    ],
}
