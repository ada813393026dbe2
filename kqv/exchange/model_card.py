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
from model import GPT

# Settings of a run that are not part of its recipe.
NOT_IN_RECIPE = (
    *("out_dir", "init_from", "dataset"),
    *("wandb_log", "wandb_project", "wandb_run_name"),
)


def model_card(model: GPT, tokenizer: Tokenizer, checkpoint: dict[str, Any], padding: int) -> str:
    """The Markdown text, with the metadata that Hugging Face reads.

    `padding` is the id that pads a batch in transformers.
    """
    config, recipe = model.config, checkpoint.get("config", {})
    lines = [
        *("---", "library_name: transformers", "pipeline_tag: text-generation", "tags: [kqv]"),
        "---",
        "",
        f"# A small language model of the shape of {TITLES[family(config)]}",
        "",
        f"{model.parameter_count():,} parameters: {config.n_layer} layers of {config.n_embd} with "
        f"{config.n_head} heads, which look back over {config.block_size} tokens. "
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


def _usage(model: GPT, tokenizer: Tokenizer) -> list[str]:
    """An example that runs as it stands, in the folder of the card."""
    prompt = default_prompt(tokenizer)
    room = model.config.block_size - len(tokenizer.encode(prompt))
    length = max(1, min(200, room))
    return [
        "",
        "## Use",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'folder = "."  # where this card is',
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        "model = AutoModelForCausalLM.from_pretrained(folder)",
        f'prompt = tokenizer({prompt!r}, return_tensors="pt")',
        f"options = dict(max_new_tokens={length}, do_sample=True, temperature=0.8, top_k=0)",
        "print(tokenizer.decode(model.generate(**prompt, **options)[0]))",
        "```",
        "",
    ]


def _limits(model: GPT, tokenizer: Tokenizer, padding: int) -> list[str]:
    """What a user of transformers has to know: context length, padding, unknown characters."""
    why = "it was not trained beyond that"
    if family(model.config) == "gpt2":
        why = "it has no positions beyond that"
    lines = [f"- Keep prompt and answer within {model.config.block_size} tokens: {why}."]
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
    if isinstance(tokenizer, CharTokenizer):
        lines += [
            f"- A character that is none of its {tokenizer.vocab_size} raises "
            '"Missing [UNK] token". `set(text) - set(tokenizer.get_vocab())` names those of a text.'
        ]
    return lines
