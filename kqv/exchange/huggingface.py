"""A checkpoint in the forms that others read: Hugging Face, nanoGPT, ONNX, safetensors. (kqv/exchange/gguf.py has llama.cpp's.)

Each function writes one form, whole or not at all; a model that a form cannot express is refused before anything is written.
"""

import json
import logging
import math
import pickle
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kqv.errors import MachineError, UserError
from kqv.exchange.families import check_formula, family, nanogpt_only, places, to_theirs
from kqv.exchange.nanogpt import ARGUMENTS
from kqv.exchange.tokenizer_json import to_tokenizer_json, unused_id
from kqv.files import replacing, replacing_folder
from kqv.generation.prompts import default_prompt
from kqv.text.characters import CharTokenizer
from kqv.text.source_names import known_sources, title_of
from kqv.text.tokenizer import Tokenizer
from model import GPT, RMSNORM_EPSILON, GPTConfig, RMSNorm

LARGEST_ONNX = 2**31  # bytes; a larger model would need files beside it


def to_huggingface(
    model: GPT, tokenizer: Tokenizer, checkpoint: dict[str, Any], folder: Path
) -> None:
    """A folder that AutoModelForCausalLM and AutoTokenizer load without code of ours."""
    check_formula(model)
    weights = to_theirs(model.state_dict(), places(model.config, "huggingface"))
    vocabulary, padding = to_tokenizer_json(tokenizer), padding_id(model, tokenizer)
    files = {
        "config.json": _json(huggingface_config(model.config)),
        "generation_config.json": _json({"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}),
        "model.safetensors": _safetensors(weights, {"format": "pt"}),
        "tokenizer.json": _json(vocabulary),
        "tokenizer_config.json": _json(
            {
                "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
                "model_max_length": model.config.block_size,
                "pad_token": next(name for name, number in vocabulary["model"]["vocab"].items() if number == padding),
                "padding_side": "left",  # what is written follows the prompt
                "split_special_tokens": tokenizer.token_bytes(padding) == b"\xff",  # whose name is ÿ, which a text may have
            }
        ),
        "README.md": model_card(model, tokenizer, checkpoint, padding).encode(),
    }  # fmt: skip
    with replacing_folder(folder) as fresh:
        for name, content in files.items():
            (fresh / name).write_bytes(content)


@torch.no_grad()
def padding_id(model: GPT, tokenizer: Tokenizer) -> int:
    """The id that pads prompts of different lengths in transformers, hidden by the attention mask.

    It is one that the model has: a new id would need another row in the embedding and the head, and so another logit. Best is
    one that no text has. Among characters there is none; the one that the model expects least is the least missed where
    transformers leaves special tokens out (`skip_special_tokens=True`).
    """
    unused = unused_id(tokenizer)
    if unused is not None:
        return unused
    every_character = torch.arange(tokenizer.vocab_size)[None, : model.config.block_size]
    return int(model.eval()(every_character)[0].softmax(dim=-1).mean(dim=0).argmin())


def huggingface_config(config: GPTConfig) -> dict[str, Any]:
    """The config.json of a model. No id ends a text: without a word on it, transformers would take GPT-2's 50256."""
    shared = {
        "vocab_size": config.vocab_size, "tie_word_embeddings": config.tie_weights, "bos_token_id": None, "eos_token_id": None,
        "dtype": "float32",
    }  # fmt: skip
    if family(config) == "gpt2":
        return {
            "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", **shared,
            "n_positions": config.block_size, "n_embd": config.n_embd, "n_layer": config.n_layer, "n_head": config.n_head,
            "n_inner": config.hidden, "activation_function": {"gelu": "gelu", "gelu_tanh": "gelu_new"}[config.mlp],
            "layer_norm_epsilon": 1e-5, "attn_pdrop": config.dropout, "embd_pdrop": config.dropout, "resid_pdrop": config.dropout,
        }  # fmt: skip
    return {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", **shared,
        "max_position_embeddings": config.block_size, "hidden_size": config.n_embd, "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head, "num_key_value_heads": config.n_head, "head_dim": config.d_k,
        "intermediate_size": config.hidden, "hidden_act": "silu", "rms_norm_eps": RMSNORM_EPSILON, "attention_bias": False,
        "attention_dropout": config.dropout, "use_sliding_window": False, "rope_theta": config.rope_base,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base},
    }  # fmt: skip


def model_card(model: GPT, tokenizer: Tokenizer, checkpoint: dict[str, Any], padding: int) -> str:
    """The README.md of a model: what it is, how it was trained, on what, how well, how to use it."""
    config, recipe = model.config, checkpoint.get("config", {})
    shape = "GPT-2" if family(config) == "gpt2" else "Qwen3"
    lines = [
        "---", "library_name: transformers", "pipeline_tag: text-generation", "tags: [kqv]", "---", "",
        f"# A small language model of the shape of {shape}", "",
        f"{model.parameter_count():,} parameters: {config.n_layer} layers of {config.n_embd} with {config.n_head} heads, "
        f"which look back over {config.block_size} tokens. Its {tokenizer.vocab_size} tokens are of the kind "
        f"`{tokenizer.name}`. Trained with kqv, and written by its export.py.", "",
    ]  # fmt: skip
    facts = {"training steps": checkpoint.get("iter_num")}
    loss = checkpoint.get("best_val_loss", math.inf)
    if math.isfinite(loss):
        facts["validation loss, an estimate"] = f"{loss:.4f} nats per token"
    text = title_of(known_sources(checkpoint.get("sources"))) or recipe.get("dataset")
    facts |= {"text": text, "SHA-256 of the training tokens": checkpoint.get("text")}
    lines += [f"- {name}: {value}" for name, value in facts.items() if value is not None]
    own = (
        "out_dir",
        "init_from",
        "dataset",
        "wandb_log",
        "wandb_project",
        "wandb_run_name",
    )  # of the run, not the recipe
    settings = {name: value for name, value in recipe.items() if name not in own}
    if settings:
        lines += [
            "",
            "## Recipe",
            "",
            "```python",
            *(f"{name} = {value!r}" for name, value in settings.items()),
            "```",
        ]
    lines += usage(model, tokenizer, padding)
    lines += ["", "It has seen one text only: do not take for a fact what it writes.", ""]
    return "\n".join(lines)


def usage(model: GPT, tokenizer: Tokenizer, padding: int) -> list[str]:
    """The part of the card that says how to use the model. Its example runs as it stands, in the folder of the card."""
    prompt = default_prompt(tokenizer)
    block_size, known = model.config.block_size, len(tokenizer.encode(prompt))
    lines = [
        "", "## Use", "", "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer", "",
        'folder = "."  # where this card is',
        "tokenizer = AutoTokenizer.from_pretrained(folder)", "model = AutoModelForCausalLM.from_pretrained(folder)",
        f'prompt = tokenizer({prompt!r}, return_tensors="pt")',
        f"options = dict(max_new_tokens={max(1, min(200, block_size - known))}, do_sample=True, temperature=0.8, top_k=0)",
        "print(tokenizer.decode(model.generate(**prompt, **options)[0]))", "```", "",
    ]  # fmt: skip
    beyond = (
        "it has no positions beyond that"
        if family(model.config) == "gpt2"
        else "it was not trained beyond that"
    )
    lines += [f"- Keep prompt and answer within {block_size} tokens: {beyond}."]
    if padding == unused_id(tokenizer):
        name = (
            "the byte 0xFF"
            if tokenizer.token_bytes(padding) == b"\xff"
            else f"`{tokenizer.decode([padding])!r}`"
        )
        lines += [f"- `padding=True` pads a batch on the left with {name}, which no text has."]
    else:
        lines += [
            f"- `padding=True` pads a batch on the left with `{tokenizer.decode([padding])!r}`, the character that the model "
            "expects least: it has no id to spare, and the attention mask hides it. `skip_special_tokens=True`, and so "
            "`pipeline`, leaves this character out, as any padding."
        ]
    if isinstance(tokenizer, CharTokenizer):
        lines += [
            f'- A character that is none of its {tokenizer.vocab_size} raises "Missing [UNK] token". '
            "`set(text) - set(tokenizer.get_vocab())` names those of a text."
        ]
    return lines


def to_nanogpt(model: GPT, tokenizer: Tokenizer, checkpoint: dict[str, Any], folder: Path) -> None:
    """A folder with the ckpt.pt and, for characters, the meta.pkl of nanoGPT. Its sample.py looks for the characters in
    data/DATASET/meta.pkl, and takes GPT-2's byte pairs if there is none."""
    nanogpt_only(model.config)
    check_formula(model)
    if not isinstance(tokenizer, CharTokenizer) and tokenizer.name != "gpt2":
        raise UserError(
            f"nanoGPT knows characters and GPT-2's byte pairs, and this model reads {tokenizer.name}"
        )
    weights = to_theirs(model.state_dict(), places(model.config, "nanogpt"))
    weights["lm_head.weight"] = weights["transformer.wte.weight"]
    recipe = checkpoint.get("config", {})
    state = {
        "model": weights,
        "model_args": {name: getattr(model.config, name) for name in ARGUMENTS},
        "iter_num": checkpoint.get("iter_num", 0),
        "best_val_loss": checkpoint.get("best_val_loss", 1e9),
        "config": {**recipe, "dataset": nanogpt_dataset(checkpoint)},
    }
    characters = tokenizer.characters if isinstance(tokenizer, CharTokenizer) else ""
    ids = {character: number for number, character in enumerate(characters)}
    meta = {
        "vocab_size": len(ids),
        "itos": {number: character for character, number in ids.items()},
        "stoi": ids,
    }
    with replacing_folder(folder) as fresh:
        try:
            torch.save(state, fresh / "ckpt.pt")
        except RuntimeError:  # what torch's archive writer makes of a full disk
            raise MachineError(
                f"{folder} could not be written: the disk may be full; free some space and try again"
            ) from None
        if characters:
            (fresh / "meta.pkl").write_bytes(pickle.dumps(meta))


def nanogpt_dataset(checkpoint: dict[str, Any]) -> str:
    """What nanoGPT is to call the data folder of a model."""
    return Path(str(checkpoint.get("config", {}).get("dataset", ""))).name or "kqv"


def to_safetensors(
    model: GPT, tokenizer: Tokenizer, checkpoint: dict[str, Any], path: Path
) -> None:
    """Weights and settings in one file; `sample.py --init_from=FILE` reads it again."""
    weights = {name: weight.contiguous() for name, weight in model.state_dict().items()}
    if model.config.tie_weights:
        del weights["head.weight"]  # it is the embedding
    state = {
        "model_args": asdict(model.config),
        "tokenizer": tokenizer.to_dict(),
        "config": checkpoint.get("config", {}),
    }
    content = _safetensors(weights, {"format": "pt", "kqv": json.dumps(state)})
    with replacing(path) as file:
        file.write(content)


def to_onnx(model: GPT, tokenizer: Tokenizer, path: Path) -> None:
    """ids (batch, time) int64 to logits (batch, time, vocab_size), for any batch and any time up to block_size."""
    if (size := 4 * model.parameter_count()) > LARGEST_ONNX:
        raise UserError(
            f"an ONNX file holds 2 GB, and the model has {size / 1e9:.1f}: take another format"
        )
    if model.config.block_size < 3:
        raise UserError(
            f"block_size={model.config.block_size} leaves no length to vary: ONNX needs 3 or more"
        )
    model = _exportable(model)
    ids = torch.zeros(2, 3, dtype=torch.int64)
    shapes = {
        0: torch.export.Dim("batch"),
        1: torch.export.Dim("time", min=1, max=model.config.block_size),
    }
    logging.getLogger("torch.onnx").setLevel(
        logging.ERROR
    )  # it names each package that it could use and does not find
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own parts
        program = torch.onnx.export(
            model,
            (ids,),
            dynamo=True,
            input_names=["ids"],
            output_names=["logits"],
            dynamic_shapes=(shapes,),
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props["kqv"] = json.dumps(
        {"model_args": asdict(model.config), "tokenizer": tokenizer.to_dict()}
    )
    content = program.model_proto.SerializeToString()
    with replacing(path) as file:
        file.write(content)


def _exportable(model: GPT) -> GPT:
    """The same model of operations that ONNX has: our RMSNorm brings its own derivative, which is in the way."""
    copy = GPT(model.config)
    copy.load_state_dict(model.state_dict())
    for name, module in list(copy.named_modules()):
        if isinstance(module, RMSNorm):
            parent, _, child = name.rpartition(".")
            plain = nn.RMSNorm(len(module.weight), eps=RMSNORM_EPSILON)
            plain.weight = module.weight
            setattr(copy.get_submodule(parent), child, plain)
    return copy.eval()


def _safetensors(weights: dict[str, Tensor], notes: dict[str, str]) -> bytes:
    from safetensors.torch import save

    return save(weights, notes)


def _json(data: dict[str, Any]) -> bytes:
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()
