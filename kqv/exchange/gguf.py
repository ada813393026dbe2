"""A checkpoint as the GGUF file that llama.cpp reads. There is no way back.

llama.cpp has the graphs of GPT-2 and Qwen3. (It has T5's, too, but its server, which the tests run,
never calls the encoder and aborts.) GPT-2's needs every bias, zeros where there are none, and
computes GELU by its tanh formula; 1/√d_k is built in. Of its tokenizers these give our ids:

- characters and bytes: RWKV's, which takes the longest token that fits at each place, here a single
  character. It has no default ids for the begin and end of a text, so that it takes none of ours
  for one; it needs no merges; and it raises for an unknown character.
- byte pairs: GPT-2's, with their merges. There <|endoftext|> ends a text or, in a vocabulary
  without this token, the byte 0xFF, which no text has; else llama.cpp would stop at the id 11,
  whatever token that is.
"""

from pathlib import Path
from typing import Any

import numpy as np

from kqv.exchange.families import (
    TITLES,
    check_formula,
    decoder_family,
    family,
    places,
    to_theirs,
)
from kqv.exchange.tokenizer_json import to_tokenizer_json, unused_id
from kqv.files import replacing
from kqv.text.tokenizer import Tokenizer
from model import GPT, GPTConfig

FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7}  # llama.cpp's numbers for dtypes of a file
Q8_BLOCK = 32  # numbers of a row that share one scale in q8_0
NORMAL, CONTROL = 1, 3  # llama.cpp's kinds of tokens


def to_gguf(model: GPT, tokenizer: Tokenizer, dtype: str, path: Path) -> list[str]:
    """Write the file, its matrices in `dtype`: f32, f16 or q8_0.

    Returns the names of the matrices that are in f16 instead of q8_0, because their rows are no
    multiple of 32 numbers.
    """
    import gguf

    name = decoder_family(model.config, "llama.cpp's server")
    check_formula(model)
    weights = to_theirs(model.state_dict(), places(model.config, "gguf"))
    with replacing(path) as file:
        writer = gguf.GGUFWriter(Path(file.name), name)
        _add_config(writer, model.config)
        writer.add_file_type(FILE_TYPES[dtype])
        _add_tokenizer(writer, tokenizer, model.config.vocab_size)
        kinds = {kind.name.lower(): kind for kind in gguf.GGMLQuantizationType}
        too_narrow = []
        for name, weight in weights.items():
            numbers = weight.float().numpy()
            kind = _dtype_of(name, numbers, dtype)
            if kind == "f16" and dtype == "q8_0":
                too_narrow.append(name)
            data = gguf.quants.quantize(numbers, kinds[kind])
            writer.add_tensor(name, np.ascontiguousarray(data), raw_dtype=kinds[kind])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return too_narrow


def _dtype_of(name: str, numbers: np.ndarray, dtype: str) -> str:
    """The dtype to store a weight in, if that of the file is `dtype`."""
    # Vectors and positions are few numbers, and llama.cpp adds them in float32.
    if numbers.ndim == 1 or name.startswith("position"):
        return "f32"
    if dtype == "q8_0" and numbers.shape[1] % Q8_BLOCK:
        return "f16"
    return dtype


def _add_config(writer: Any, config: GPTConfig) -> None:
    name = family(config)
    writer.add_name(f"a {TITLES[name]} trained with kqv")
    writer.add_context_length(config.block_size)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(config.hidden)
    writer.add_head_count(config.n_head)
    if name == "gpt2":
        writer.add_layer_norm_eps(config.epsilon)
    else:
        writer.add_head_count_kv(config.n_head)
        writer.add_key_length(config.d_k)
        writer.add_value_length(config.d_k)
        writer.add_layer_norm_rms_eps(config.epsilon)
        writer.add_rope_freq_base(config.rope_base)


def _add_tokenizer(writer: Any, tokenizer: Tokenizer, vocab_size: int) -> None:
    writer.add_add_bos_token(False)
    if tokenizer.kind in ("char", "bytes"):
        tokens = [_escaped(tokenizer.token_bytes(token)) for token in range(vocab_size)]
        writer.add_tokenizer_model("rwkv")
        writer.add_token_list(tokens)
        writer.add_token_types([NORMAL] * vocab_size)
    else:
        _add_byte_pairs(writer, tokenizer, vocab_size)


def _add_byte_pairs(writer: Any, tokenizer: Tokenizer, vocab_size: int) -> None:
    data, end = to_tokenizer_json(tokenizer), unused_id(tokenizer)
    special = {token["content"] for token in data["added_tokens"]}
    # A model may have more rows than there are tokens.
    names = [f"[unused {token}]" for token in range(vocab_size)]
    for text, token in data["model"]["vocab"].items():
        names[token] = text
    control = [name in special or name.startswith("[unused ") for name in names]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(names)
    writer.add_token_types([CONTROL if each else NORMAL for each in control])
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
