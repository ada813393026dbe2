"""Train a GPT on text.

    python train.py                                     tiny Shakespeare, the best for this machine
    python train.py novel.txt                           a text of your own
    python train.py novel.txt config/x.py --n_layer=8   options, later ones win
    python train.py --init_from=resume                  go on after a stop
"""

import math
import os
import shlex
import shutil
import signal
import sys
import time
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from kqv.arguments import read_arguments
from kqv.errors import UserError, run_script
from kqv.files import BEST, CURVE, LATEST, METRICS
from kqv.settings import SampleSettings, TrainSettings, check_training

GPU_RECIPE = Path(__file__).parent / "config" / "gpu.py"


def main(arguments: list[str]) -> int:
    """From text to checkpoint. Returns the exit status."""
    given, words = read_arguments(TrainSettings, arguments, "[TEXT ...] [CONFIG.py ...]")
    settings = TrainSettings(**given)
    check_training(settings)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("training is in one process so far: start it without torchrun")

    # torch takes a second to import, so this waits until the options are known to be good.
    import torch

    from kqv.batches import open_tokens, training_batch
    from kqv.checkpoint import find_checkpoint, load_checkpoint, model_state, restore_model, save_checkpoint
    from kqv.corpus import open_dataset, open_texts
    from kqv.decoding import default_prompt, generate_text
    from kqv.evaluation import describe_loss, estimated_loss, whole_loss
    from kqv.hardware import choose_machine
    from kqv.optim import make_optimizers, rate_factor, restore_optimizers, set_rates
    from kqv.runlog import RunLog, draw_curve
    from kqv.tokenizer import token_dtype
    from model import GPT, GPTConfig, cross_entropy

    # The defaults are a recipe for a CPU: a GPU has its own, unless one is named.
    recipe_named = any(word.endswith(".py") for word in arguments)
    if settings.init_from == "scratch" and not recipe_named and choose_machine(settings).device.type == "cuda":
        given = {**read_arguments(TrainSettings, [str(GPU_RECIPE)])[0], **given}
        settings = TrainSettings(**given)
        check_training(settings)

    # What to start from: nothing, the run in out_dir, or the weights of another checkpoint.
    resuming = settings.init_from == "resume"
    model = tokenizer = checkpoint = None
    if settings.init_from != "scratch":
        path = find_checkpoint(settings.out_dir, LATEST, BEST) if resuming else find_checkpoint(settings.init_from, BEST, LATEST)
        checkpoint = load_checkpoint(path)
        settings = follow_checkpoint(settings, given, checkpoint, path)
        model, tokenizer = restore_model(checkpoint, path, settings.dropout)

    # The text, as token ids.
    dataset = open_texts(words, settings.encoding, tokenizer) if words else open_dataset(settings.dataset)
    if tokenizer and tokenizer.characters != dataset.tokenizer.characters:
        raise UserError(f"{path} was trained on other characters than dataset {settings.dataset} has: name a text file instead")
    tokenizer = dataset.tokenizer
    settings.dataset = dataset.name
    dtype = token_dtype(tokenizer.vocab_size)
    train_tokens = open_tokens(dataset.folder / "train.bin", dtype, settings.block_size)
    val_tokens = open_tokens(dataset.folder / "val.bin", dtype, settings.block_size)

    # The machine, the model and its optimizers.
    machine = choose_machine(settings)
    torch.manual_seed(settings.seed)
    if model is None:
        shape = {field.name: getattr(settings, field.name) for field in fields(GPTConfig) if field.name != "vocab_size"}
        model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, **shape))
    forward = machine.prepare(model)
    if settings.eval_only:
        print("validation loss", describe_loss(whole_loss(model, val_tokens, settings, machine)))
        return 0
    optimizers = make_optimizers(model, settings, torch.bfloat16 if machine.fast_bfloat16 else torch.float32)
    scaler = torch.amp.GradScaler(machine.device.type, enabled=machine.dtype == torch.float16)
    step, best_val_loss = 0, math.inf
    if checkpoint and resuming:
        step, best_val_loss = checkpoint["iter_num"], checkpoint["best_val_loss"]
        restore_optimizers(optimizers, checkpoint["optimizer"])
        scaler.load_state_dict(checkpoint["scaler"])
    del checkpoint

    # The folder of the run, and what a checkpoint in it holds.
    out_dir = Path(settings.out_dir)
    make_room(out_dir, model.parameter_count(), resuming)

    def save(name: str) -> None:
        state = model_state(model, tokenizer)
        state |= {"optimizer": [optimizer.state_dict() for optimizer in optimizers], "scaler": scaler.state_dict()}
        state |= {"iter_num": step, "best_val_loss": best_val_loss, "config": asdict(settings)}
        save_checkpoint(out_dir / name, state)

    stop = catch_stop_signals()
    with RunLog(settings, step) as log:
        log.say(
            f"{model.parameter_count():,} parameters; {len(train_tokens):,} tokens of {dataset.name}, "
            f"{tokenizer.vocab_size} different; {machine}"
        )
        metrics = log.unfinished
        tokens_per_step = settings.batch_size * settings.block_size * settings.gradient_accumulation_steps
        steps, seconds = 0, 0.0  # since the last report

        while True:
            # Evaluate, keep, show; when asked to stop, only keep.
            last = step >= settings.max_iters
            if (step % settings.eval_interval == 0 or last) and "val_loss" not in metrics and not stop:
                val_loss = metrics["val_loss"] = estimated_loss(model, val_tokens, settings, machine)
                improved, best_val_loss = val_loss < best_val_loss, min(val_loss, best_val_loss)
                untrained = step == 0 and settings.init_from == "scratch"  # nobody wants to sample from that
                if (improved or settings.always_save_checkpoint) and not untrained:
                    save(BEST)
                save(LATEST)
                log.say(f"step {step}: validation loss {val_loss:.4f} (estimate)")
                if settings.sample_chars:
                    sampling = SampleSettings(max_new_tokens=settings.sample_chars, seed=settings.seed)
                    log.say(generate_text(model.eval(), tokenizer, default_prompt(tokenizer), sampling) + "\n")
            if last and not stop:
                metrics["val_loss_full"] = whole_loss(model, val_tokens, settings, machine)
            if metrics:
                log.write(step, **metrics)
            if stop:
                save(LATEST)
                break
            if last:
                break
            metrics = {}

            # One step: the gradient of the whole batch, clipped, then the update.
            began = time.perf_counter()
            model.train()
            if settings.dropout:
                torch.manual_seed(settings.seed + step)  # dropout, like the batch, depends on seed and step alone
            factor = rate_factor(settings, step)
            set_rates(optimizers, factor)
            loss = torch.zeros((), device=machine.device)
            parts = settings.gradient_accumulation_steps
            for part in range(parts):
                x, y = training_batch(train_tokens, settings.seed, step, settings.batch_size, settings.block_size, part, parts)
                with machine.autocast():
                    part_loss = cross_entropy(forward(x.to(machine.device)), y.to(machine.device)) / parts
                scaler.scale(part_loss).backward()
                loss += part_loss.detach()
            for optimizer in optimizers:
                scaler.unscale_(optimizer)  # type: ignore[arg-type]  # needs param_groups and step only
            grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip or math.inf)
            for optimizer in optimizers:
                scaler.step(optimizer)  # type: ignore[arg-type]
                optimizer.zero_grad()
            scaler.update()
            step += 1
            steps, seconds = steps + 1, seconds + time.perf_counter() - began

            # Report.
            if step % settings.log_interval == 0 or step == settings.max_iters:
                metrics["train_loss"] = float(loss)
                metrics["learning_rate"] = factor * settings.learning_rate
                metrics["grad_norm"] = float(grad_norm)
                metrics["tokens_per_second"] = round(steps * tokens_per_step / seconds)
                log.progress(step, metrics["train_loss"], metrics["tokens_per_second"])
                steps, seconds = 0, 0.0

    curve = draw_curve(out_dir)
    if stop:
        print(f"stopped after step {step} of {settings.max_iters}, kept in {out_dir / LATEST}; to go on:")
        print(f"  {shell_command('train.py', '--init_from=resume', f'--out_dir={out_dir}')}")
        return 128 + stop[0]

    # The checkpoint that sampling takes is the best by the estimate: measure it too, if it is not the last one.
    final_loss = metrics["val_loss_full"]
    path = find_checkpoint(settings.out_dir, BEST, LATEST)
    best = load_checkpoint(path)
    if best["iter_num"] != step:
        print(f"last step        {describe_loss(final_loss)}")
        model.load_state_dict(best["model"])
        final_loss = whole_loss(model, val_tokens, settings, machine)
    print(f"validation loss  {describe_loss(final_loss)}, over the whole validation split")
    print(f"checkpoint       {path} (step {best['iter_num']})")
    print(f"curve            {curve}")
    print(f"to sample        {shell_command('sample.py', f'--out_dir={out_dir}')}")
    return 0


def follow_checkpoint(settings: TrainSettings, given: dict[str, Any], checkpoint: dict[str, Any], path: Path) -> TrainSettings:
    """The settings for going on from a checkpoint: the shape and the text of its model, unless others are named, and
    when resuming all else too.

    Raises UserError if a named option contradicts the shape that the weights have.
    """
    if settings.init_from == "resume":
        known = {field.name for field in fields(TrainSettings)}
        config = {name: value for name, value in checkpoint["config"].items() if name in known}
        config |= {"out_dir": settings.out_dir, "eval_only": False}  # these belong to the command, not to the run
        settings = TrainSettings(**{**config, **given})
    elif "dataset" not in given:
        settings = replace(settings, dataset=checkpoint["config"]["dataset"])
    shape = {name: value for name, value in checkpoint["model_args"].items() if name not in ("vocab_size", "dropout")}
    for name, value in shape.items():
        if name in given and given[name] != value:
            raise UserError(f"{path} has {name}={value}, which cannot become {given[name]}: leave it out, or train from scratch")
    settings = replace(settings, **shape)
    check_training(settings)
    return settings


def make_room(out_dir: Path, parameters: int, resuming: bool) -> None:
    """Make the folder of the run, move an earlier run's files in it to `previous/`, see that the checkpoints will fit.

    Raises UserError if it cannot be made or the disk is too full.
    """
    files = [out_dir / name for name in (BEST, LATEST, METRICS, CURVE)]
    previous = out_dir / "previous"
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        for file in files:
            for unfinished in out_dir.glob(f".{file.name}.*.tmp"):  # what a killed process was writing
                unfinished.unlink()
        if any(file.exists() for file in files[:2]) and not resuming:
            previous.mkdir(exist_ok=True)
            for file in files:
                (previous / file.name).unlink(missing_ok=True)
                if file.exists():
                    file.rename(previous / file.name)
            print(f"{out_dir} held a run: it is in {previous} now", file=sys.stderr)
    except OSError as error:
        raise UserError(f"out_dir={out_dir} cannot be used: {error.strerror}; name another --out_dir=") from None
    needed = 2 * 3 * 4 * parameters  # two checkpoints of the weights and two moments in float32
    free = shutil.disk_usage(out_dir).free
    if free < needed:
        raise UserError(
            f"no space for the checkpoints in {out_dir}: they take {needed / 1e6:.0f} MB and {free / 1e6:.0f} MB are free; "
            f"free some, or name another --out_dir="
        )


def catch_stop_signals() -> list[int]:
    """A list that receives the signal when Ctrl-C is pressed or SIGTERM comes. A second one ends the process at once."""
    received: list[int] = []

    def remember(number: int, _: object) -> None:
        received.append(number)
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, remember)
    return received


def shell_command(script: str, *options: str) -> str:
    """A command line that works where this one did: the same Python, the same folder."""
    python = "python" if shutil.which("python") == sys.executable else sys.executable
    here = os.getcwd() + os.sep
    return shlex.join([python.removeprefix(here), str(Path(__file__).with_name(script)).removeprefix(here), *options])


if __name__ == "__main__":
    run_script(main)
