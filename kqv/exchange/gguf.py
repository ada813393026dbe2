"""A checkpoint as the GGUF file that llama.cpp reads.

llama.cpp has the graphs of both families. GPT-2's needs every bias, zeros where there are none, and computes GELU by its
tanh formula; 1/√d_k is built in. Its tokenizers:

- characters and bytes: the one made for RWKV takes the longest token that fits at each place, which for single characters
  is that character. It has no default for the ids that begin and end a text, so that none of ours is taken for one; its
  tokens need no merges, and a character that has none raises.
- byte pairs: GPT-2's, with their merges. There <|endoftext|> ends a text or, in a vocabulary that is learnt from one text
  and has no such token, the byte 0xFF, which no text has; else llama.cpp would stop at whatever token has the id 11.
"""

from pathlib import Path
from typing import Any

import numpy as np

from kqv.exchange.families import TITLES, check_formula, family, places, to_theirs
from kqv.exchange.tokenizer_json import to_tokenizer_json, unused_id
from kqv.files import replacing
from kqv.text.tokenizer import Tokenizer
from model import GPT, RMSNORM_EPSILON

NORMAL, CONTROL = 1, 3  # llama.cpp's kinds of tokens


def to_gguf(model: GPT, tokenizer: Tokenizer, dtype: str, path: Path) -> list[str]:
    """Write the file; `dtype` (f32, f16, q8_0) is that of the matrices. Returns the names of those that q8_0 cannot have,
    whose rows are no multiple of 32 numbers, and which are in f16."""
    import gguf

    config, name = model.config, family(model.config)
    check_formula(model)
    with replacing(path) as file:
        writer = gguf.GGUFWriter(Path(file.name), name)
        writer.add_name(f"a {TITLES[name]} trained with kqv")
        writer.add_context_length(config.block_size)
        writer.add_embedding_length(config.n_embd)
        writer.add_block_count(config.n_layer)
        writer.add_feed_forward_length(config.hidden)
        writer.add_head_count(config.n_head)
        if name == "gpt2":
            writer.add_layer_norm_eps(1e-5)
        else:
            writer.add_head_count_kv(config.n_head)
            writer.add_key_length(config.d_k)
            writer.add_value_length(config.d_k)
            writer.add_layer_norm_rms_eps(RMSNORM_EPSILON)
            writer.add_rope_freq_base(config.rope_base)
        writer.add_file_type({"f32": 0, "f16": 1, "q8_0": 7}[dtype])
        _add_tokenizer(writer, tokenizer, config.vocab_size)

        kinds = {kind.name.lower(): kind for kind in gguf.GGMLQuantizationType}
        too_narrow = []
        for theirs, weight in to_theirs(model.state_dict(), places(config, "gguf")).items():
            numbers, kind = weight.float().numpy(), dtype
            if numbers.ndim == 1 or theirs.startswith(
                "position"
            ):  # few numbers; llama.cpp adds these in float32
                kind = "f32"
            elif dtype == "q8_0" and numbers.shape[1] % 32:
                kind = "f16"
                too_narrow.append(theirs)
            data = gguf.quants.quantize(numbers, kinds[kind])
            writer.add_tensor(theirs, np.ascontiguousarray(data), raw_dtype=kinds[kind])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return too_narrow


def _add_tokenizer(writer: Any, tokenizer: Tokenizer, vocab_size: int) -> None:
    writer.add_add_bos_token(False)
    if tokenizer.kind in ("char", "bytes"):
        writer.add_tokenizer_model("rwkv")
        writer.add_token_list(
            [_escaped(tokenizer.token_bytes(token)) for token in range(vocab_size)]
        )
        writer.add_token_types([NORMAL] * vocab_size)
        return
    data, end = to_tokenizer_json(tokenizer), unused_id(tokenizer)
    special = {token["content"] for token in data["added_tokens"]}
    names = [
        f"[unused {token}]" for token in range(vocab_size)
    ]  # a model may have more rows than there are tokens
    for text, token in data["model"]["vocab"].items():
        names[token] = text
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(names)
    writer.add_token_types(
        [CONTROL if name in special or name.startswith("[unused ") else NORMAL for name in names]
    )
    writer.add_token_merges([" ".join(pair) for pair in data["model"]["merges"]])
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)


def _escaped(token: bytes) -> str:
    r"""Bytes as the file of RWKV's vocabulary writes them.

    >>> print(_escaped("\n".encode()), _escaped(b"a"), _escaped("é".encode()))
    \x0a a \xc3\xa9
    """
    return "".join(
        chr(byte) if chr(byte).isascii() and chr(byte).isalnum() else f"\\x{byte:02x}"
        for byte in token
    )
