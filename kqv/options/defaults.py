"""The defaults of a training run: kqv's own, or with --like=nanogpt those of nanoGPT.

nanoGPT's config files rely on nanoGPT's defaults, so such a file is recognised by what it sets.
"""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from kqv.options.command_line import split_configs
from kqv.options.config_files import assigned_names
from kqv.options.model_options import ModelOptions
from kqv.options.settings import TrainSettings

# nanoGPT's options and their defaults, from its train.py of 2025. Only the last line differs: it is
# cuda, bfloat16, True and nccl there. `auto` takes these on such a machine, elsewhere what works.
NANOGPT_DEFAULTS: dict[str, Any] = dict(
    out_dir="out", eval_interval=2000, log_interval=1, eval_iters=200, eval_only=False,
    always_save_checkpoint=True, init_from="scratch",
    wandb_log=False, wandb_project="owt", wandb_run_name="gpt2",
    dataset="openwebtext", gradient_accumulation_steps=5 * 8, batch_size=12, block_size=1024,
    n_layer=12, n_head=12, n_embd=768, dropout=0.0, bias=False,
    learning_rate=6e-4, max_iters=600_000, weight_decay=0.1, beta1=0.9, beta2=0.95, grad_clip=1.0,
    decay_lr=True, warmup_iters=2000, lr_decay_iters=600_000, min_lr=6e-5,
    device="auto", dtype="auto", compile="auto", backend="auto",
)  # fmt: skip

# What is fixed in nanoGPT, and an option here. (The model's part is GPT2 in model.py.)
NANOGPT_FIXED: dict[str, Any] = dict(
    position="learned", norm="layernorm", mlp="gelu", qk_norm=False, tie_weights=True,
    weight_init="gpt2", optimizer="adamw", lr_schedule="cosine",
)  # fmt: skip

# A config file that sets two of these, and nothing that nanoGPT lacks, is taken for nanoGPT's: its
# files set them (each sets wandb_log), and config files for kqv seldom do.
NANOGPT_SIGNS = (
    "wandb_log", "eval_only", "always_save_checkpoint", "decay_lr", "lr_decay_iters", "min_lr"
)  # fmt: skip

# Options of the model and the optimizer that nanoGPT lacks: where one is set, kqv is meant.
KQV_OPTIONS = (
    *(field.name for field in fields(ModelOptions) if field.name not in NANOGPT_DEFAULTS),
    *("optimizer", "lr_schedule", "muon_learning_rate", "muon_momentum", "cooldown"),
)


def training_settings(given: dict[str, Any]) -> TrainSettings:
    """The settings of a run: what was given, over the defaults that `like` names."""
    defaults = {**NANOGPT_DEFAULTS, **NANOGPT_FIXED} if given.get("like") == "nanogpt" else {}
    return TrainSettings(**{**defaults, **given})


def take_nanogpt_defaults(arguments: Sequence[str], given: dict[str, Any]) -> str:
    """Add like=nanogpt to `given` if a config file among the arguments is nanoGPT's, which relies
    on nanoGPT's defaults. Returns the line that says so, or "".

    Not where `like` was given, nor where another file or option sets a model or optimizer that
    nanoGPT lacks. A resumed run takes all settings from its checkpoint.
    """
    files, _ = split_configs(TrainSettings, arguments)
    signs = {file: _nanogpt_signs(Path(file)) for file in files}
    path = next((file for file in files if signs[file]), None)
    if path is None or "like" in given or given.get("init_from") == "resume":
        return ""
    reason = (
        f"{path} is a config file of nanoGPT's (it sets {', '.join(signs[path])}, "
        f"and nothing that nanoGPT lacks)"
    )
    if ours := [name for name in given if name in KQV_OPTIONS]:
        return (
            f"{reason}, but {ours[0]} is an option of kqv's: kqv's defaults are taken; "
            f"for nanoGPT's add --like=nanogpt"
        )
    given["like"] = "nanogpt"
    return f"{reason}: nanoGPT's defaults are taken; for kqv's add --like=kqv"


def _nanogpt_signs(path: Path) -> list[str]:
    """The signs that a config file is nanoGPT's; none if it sets anything that nanoGPT lacks."""
    assigned = assigned_names(path)
    signs = [name for name in NANOGPT_SIGNS if name in assigned]
    return signs if len(signs) > 1 and assigned <= NANOGPT_DEFAULTS.keys() else []
