"""What somebody may have meant by a name that is no option: what other programs call ours, an
option of another script, a misspelling.
"""

import difflib
import os
import sys
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from kqv.errors import UserError
from kqv.options.option_types import LONGEST_QUOTE, option_types, quoted
from kqv.options.settings import SETTINGS
from kqv.project import DATA

SYNONYMS = {"defaults": "like"}  # in a config file `defaults = "nanogpt"` reads better
DASHES = "-\N{EN DASH}\N{EM DASH}\N{MINUS SIGN}"  # the last three: pasted from a document

# What other programs call our options.
ALSO_CALLED = {
    "start": "prompt text prefix",
    "max_new_tokens": "length max_length max_len max_tokens num_tokens n_tokens n_predict tokens "
    "chars",
    "num_samples": "samples n_samples num_return_sequences n count",
    "temperature": "temp",
    "repetition_penalty": "repeat_penalty penalty",
    "text": "prompt start sentence",
    "to": "output output_dir output_path outfile out o",
    "out_dir": "model model_path model_dir checkpoint checkpoint_path ckpt output output_dir "
    "save_dir run m o",
    "max_iters": "epochs epoch num_epochs n_epochs steps max_steps num_steps n_steps train_steps "
    "iterations iters",
    "learning_rate": "lr max_lr",
    "muon_learning_rate": "muon_lr",
    "lr_schedule": "schedule scheduler lr_scheduler lr_scheduler_type",
    "warmup_iters": "warmup warmup_steps",
    "weight_decay": "wd l2",
    "grad_clip": "clip clip_grad max_grad_norm gradient_clip",
    "optimizer": "optim opt",
    "batch_size": "batch bs micro_batch_size per_device_train_batch_size",
    "gradient_accumulation_steps": "accumulation grad_accum grad_accum_steps accumulate",
    "block_size": "context context_length context_size ctx ctx_size n_ctx seq_len seq_length "
    "sequence_length max_seq_len",
    "n_layer": "layers layer num_layers n_layers depth num_hidden_layers",
    "n_head": "heads num_heads n_heads nhead num_attention_heads",
    "n_embd": "width dim d_model hidden_size hidden emb embd n_embed n_emb embed_dim embedding_dim",
    "position": "pos positional positions",
    "mlp": "activation act hidden_act",
    "norm": "normalization normalisation",
    "tie_weights": "tie tied tie_word_embeddings weight_tying",
    "eval_interval": "eval_every eval_steps save_interval save_every save_steps",
    "log_interval": "log_every logging_steps print_every",
    "activation_checkpointing": "gradient_checkpointing checkpointing",
    "tokenizer": "tok vocab",
    "target_tokenizer": "tgt_tokenizer decoder_tokenizer",
    "source_field": "src_field source_column src_column",
    "target_field": "tgt_field target_column tgt_column",
    "val_text": "val validation val_file val_data valid_file validation_file dev_file eval_file",
    "init_from": "pretrained finetune",
    "dtype": "precision float16 bfloat16 half amp quantize",
    "wandb_log": "wandb",
}
# What other programs have as an option, and here is the value of one.
WRITTEN_AS = {
    "resume": "--init_from=resume",
    "cuda": "--device=cuda",
    "gpu": "--device=cuda",
    "cpu": "--device=cpu",
    "mps": "--device=mps",
    "fp16": "--dtype=float16",
    "bf16": "--dtype=bfloat16",
}
# What other programs call the text to train on.
TEXT_NAMES = (
    "data", "data_dir", "data_path", "data_file", "input", "input_file",
    "file", "train_file", "train_data", "corpus",
)  # fmt: skip
CONFIG_NAMES = ("config", "config_file", "cfg", "c")


def script_name() -> str:
    """The script that is running, for error messages."""
    return Path(sys.argv[0]).name


def check_name(settings_class: type, name: str, where: str, more: str = "") -> None:
    """Raises UserError if there is no option `name`.

    The message begins with `where`, says what may have been meant, and ends with `more`.
    """
    if name not in option_types(settings_class):
        default = "--help lists them all; a config's own names start with _"
        hint = suggestion(settings_class, name) or default
        raise UserError(f"{where}: there is no option {quoted(name)}; {hint}{more}")


def suggestion(settings_class: type, name: str) -> str:
    """What somebody may have meant by a name that is no option; "" if nothing comes close.

    >>> suggestion(TrainSettings, "epochs")
    'did you mean max_iters?'
    """
    options = [field.name for field in fields(settings_class)]
    called = name.lower()
    if "dataset" in options and called in TEXT_NAMES:
        return (
            "a text is named alone, as in train.py novel.txt; "
            "--dataset=NAME is a folder under data/"
        )
    if called in CONFIG_NAMES:
        return f"a config file is named alone, as in {script_name()} config/mine.py"
    if called.startswith("no_") and called[3:] in options:
        return f"write --{called[3:]}=False"
    if called in WRITTEN_AS and WRITTEN_AS[called][2:].partition("=")[0] in options:
        return f"write {WRITTEN_AS[called]}"
    if called in options:
        return f"did you mean {called}?"
    if ours := _option_also_called(options, called):
        return f"did you mean {ours}?"
    if other := _option_of_another_script(called):
        return other
    near = difflib.get_close_matches(called[:LONGEST_QUOTE], option_types(settings_class), n=1)
    return f"did you mean {near[0]}?" if near else ""


def _option_also_called(options: Iterable[str], name: str) -> str:
    for option, names in ALSO_CALLED.items():
        if option in options and name in names.split():
            return option
    return ""


def _option_of_another_script(name: str) -> str:
    for script, settings_class in SETTINGS.items():
        options = [field.name for field in fields(settings_class)]
        if found := name if name in options else _option_also_called(options, name):
            return f"{found} is an option of {script}"
    return ""


def meant_option(settings_class: type, word: str) -> str:
    """The option that a word without -- was meant to be, as it should be written; "" if none.

    >>> meant_option(TrainSettings, "-n_layer=3"), meant_option(TrainSettings, "resume")
    ('--n_layer=3', '--init_from=resume')
    """
    options, name = option_types(settings_class), word.lstrip(DASHES)
    if name != word:
        return f"--{quoted(name)}"
    if word in options:
        return f"--{word}=VALUE"
    if word in ("help", "version"):
        return f"--{word}"
    if word in WRITTEN_AS and "init_from" in options:
        return WRITTEN_AS[word]
    if word and "dataset" in options and os.path.exists(DATA / word / "prepare.py"):
        return f"--dataset={word}"
    return ""
