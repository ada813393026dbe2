"""The README.md of an exported model: what it is, how it was trained, how to use it.

Its wording is part of the exported files and stays as it is.
"""

import math
from typing import Any

from kqv.exchange.families import TITLES, family
from kqv.exchange.tokenizer_json import unused_id
from kqv.generation.prompts import default_prompt
from kqv.text.characters import CharTokenizer
from kqv.text.source_names import known_sources, title_of
from kqv.text.tokenizer import Tokenizer
from model import GPT, GPTConfig

TASKS = {
    "decoder": "text-generation",
    "encoder": "feature-extraction",
    "encoder_decoder": "text2text-generation",
}
# Settings of a run that are not part of its recipe.
NOT_IN_RECIPE = (
    *("out_dir", "init_from", "dataset", "val_text"),
    *("wandb_log", "wandb_project", "wandb_run_name"),
)


def model_card(model: GPT, tokenizer: Tokenizer, checkpoint: dict[str, Any], padding: int) -> str:
    """The Markdown text, with the metadata that Hugging Face reads.

    `padding` is the id that pads a batch in transformers.
    """
    config, recipe = model.config, checkpoint.get("config", {})
    lines = [
        *("---", "library_name: transformers", f"pipeline_tag: {TASKS[config.architecture]}"),
        *("tags: [kqv]", "---"),
        "",
        f"# A small language model of the shape of {TITLES[family(config)]}",
        "",
        f"{model.parameter_count():,} parameters: {config.n_layer} layers of {config.n_embd} with "
        f"{config.n_head} heads, which {_reach(config)}. "
        f"Its {tokenizer.vocab_size} tokens are of the kind `{tokenizer.name}`. "
        f"Trained with kqv, and written by its export.py.",
        "",
        *(f"- {name}: {value}" for name, value in _facts(checkpoint).items()),
    ]
    settings = {name: value for name, value in recipe.items() if name not in NOT_IN_RECIPE}
    if settings:
        assignments = [f"{name} = {value!r}" for name, value in settings.items()]
        lines += ["", "## Recipe", "", "```python", *assignments, "```"]
    lines += _usage(model, tokenizer)
    lines += _limits(model, tokenizer, padding)
    lines += ["", "It has seen one text only: do not take for a fact what it writes.", ""]
    return "\n".join(lines)


def _facts(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What is known of the training, by its name."""
    loss = checkpoint.get("best_val_loss", math.inf)
    text = title_of(known_sources(checkpoint.get("sources")))
    facts = {
        "training steps": checkpoint.get("iter_num"),
        "validation loss, an estimate": (
            f"{loss:.4f} nats per token" if math.isfinite(loss) else None
        ),
        "text": text or checkpoint.get("config", {}).get("dataset"),
        "SHA-256 of the training tokens": checkpoint.get("text"),
    }
    return {name: value for name, value in facts.items() if value is not None}


def _reach(config: GPTConfig) -> str:
    """What its heads see, in words."""
    if config.architecture == "encoder":
        return f"look both ways over {config.block_size} tokens"
    if config.has_cross_attention:
        return (
            f"read a source of up to {config.block_size} tokens with {config.encoder.n_layer} "
            f"layers, and write a target of as many"
        )
    return f"look back over {config.block_size} tokens"


def _usage(model: GPT, tokenizer: Tokenizer) -> list[str]:
    """An example that runs as it stands, in the folder of the card."""
    example = {"decoder": _continuing, "encoder": _reading, "encoder_decoder": _translating}
    return [
        "",
        "## Use",
        "",
        "```python",
        *example[model.config.architecture](model, tokenizer),
        "```",
        "",
    ]


def _loading(name: str, options: str = "") -> list[str]:
    """The lines that load the tokenizer, and the model with this class of transformers."""
    return [
        f"from transformers import {name}, AutoTokenizer",
        "",
        'folder = "."  # where this card is',
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        f"model = {name}.from_pretrained(folder{options})",
    ]


def _continuing(model: GPT, tokenizer: Tokenizer) -> list[str]:
    prompt = default_prompt(tokenizer)
    room = model.config.block_size - len(tokenizer.encode(prompt))
    length = max(1, min(200, room))
    return [
        *_loading("AutoModelForCausalLM"),
        f'prompt = tokenizer({prompt!r}, return_tensors="pt")',
        f"options = dict(max_new_tokens={length}, do_sample=True, temperature=0.8, top_k=0)",
        "print(tokenizer.decode(model.generate(**prompt, **options)[0]))",
    ]


def _reading(model: GPT, tokenizer: Tokenizer) -> list[str]:
    text = _some_text(model, tokenizer)
    return [
        *_loading("AutoModel", ", add_pooling_layer=False"),
        f'text = tokenizer({text!r}, return_tensors="pt")',
        "print(model(**text).last_hidden_state.shape)  # (texts, tokens, width)",
    ]


def _translating(model: GPT, tokenizer: Tokenizer) -> list[str]:
    source, most = _some_text(model, tokenizer), model.config.block_size
    return [
        *_loading("AutoModelForSeq2SeqLM"),
        f'source = tokenizer({source!r}, return_tensors="pt")',
        f"answer = model.generate(**source, max_new_tokens={most})[0]",
        "print(tokenizer.decode(answer, skip_special_tokens=True))",
    ]


def _some_text(model: GPT, tokenizer: Tokenizer) -> str:
    """A short text that the model knows."""
    letters = [letter for letter in "abcdefgh" if tokenizer.knows(letter)]
    text = "".join(letters) or tokenizer.decode([0])
    return text[: model.config.block_size]


def _limits(model: GPT, tokenizer: Tokenizer, padding: int) -> list[str]:
    """What a user of transformers has to know: context length, padding, unknown characters."""
    config = model.config
    why = "it was not trained beyond that"
    if config.position == "learned":
        why = "it has no positions beyond that"
    what = {"encoder": "a text", "encoder_decoder": "source and answer each"}
    parts = what.get(config.architecture, "prompt and answer")
    lines = [f"- Keep {parts} within {config.block_size} tokens: {why}."]
    if config.architecture == "encoder":
        lines += [
            "- Its head, one matrix from hidden states to tokens, is not BERT's: BertForMaskedLM "
            "does not have it. kqv fills in blanks with it: `sample.py --init_from=FOLDER`."
        ]
    if config.architecture != "decoder":
        return lines + _unknown(tokenizer)
    token = f"`{tokenizer.decode([padding])!r}`"
    if padding == unused_id(tokenizer):
        if tokenizer.token_bytes(padding) == b"\xff":
            token = "the byte 0xFF"
        lines += [f"- `padding=True` pads a batch on the left with {token}, which no text has."]
    else:
        lines += [
            f"- `padding=True` pads a batch on the left with {token}, the character that the model "
            "expects least: it has no id to spare, and the attention mask hides it. "
            "`skip_special_tokens=True`, and so `pipeline`, leaves this character out, as any "
            "padding."
        ]
    return lines + _unknown(tokenizer)


def _unknown(tokenizer: Tokenizer) -> list[str]:
    if not isinstance(tokenizer, CharTokenizer):
        return []
    return [
        f"- A character that is none of its {tokenizer.vocab_size} raises "
        '"Missing [UNK] token". `set(text) - set(tokenizer.get_vocab())` names those of a text.'
    ]
