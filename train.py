"""Train a GPT on text.

    python train.py                                     tiny Shakespeare, the best for this machine
    python train.py novel.txt                           a text of your own
    python train.py novel.txt config/x.py --n_layer=8   options, later ones win
    python train.py --init_from=resume                  go on after a stop
"""

import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from kqv.arguments import check_types, read_arguments, shell_command
from kqv.errors import MachineError, UserError, run_script
from kqv.files import BEST, CURVE, EARLIER, LATEST, NANOGPT, TO_RESUME
from kqv.folder import make_room, occupy
from kqv.settings import SampleSettings, TrainSettings, check_training
from kqv.vocabularies import check_name

GPU_RECIPE = Path(__file__).parent / "config" / "gpu.py"
WATCHED = 4  # windows of the validation split that the figures of the layers are means over
PATIENCE = 10  # steps in a row whose numbers are not finite; then the run ends


def main(arguments: list[str]) -> int:
    """From text to checkpoint. Returns the exit status."""
    given, words = read_arguments(TrainSettings, arguments, "[TEXT ...] [CONFIG.py ...]")
    settings = TrainSettings(**given)
    check_training(settings)
    if settings.init_from == "scratch":  # a checkpoint brings its own
        check_name(settings.tokenizer)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not settings.dry_run:
        raise UserError("training is in one process so far: start it without torchrun")

    # torch takes a second to import, so this waits until the options are known to be good.
    import torch

    from kqv.batches import fingerprint, open_tokens, spaced_windows, training_batch
    from kqv.checkpoint import (
        find_checkpoint,
        load_any,
        load_checkpoint,
        load_latest,
        model_state,
        restore_model,
        save_checkpoint,
    )
    from kqv.corpus import open_dataset, open_texts
    from kqv.decoding import default_prompt, generate_text
    from kqv.evaluation import characters_per_token, describe_loss, estimated_loss, whole_loss
    from kqv.explaining import layer_figures
    from kqv.hardware import check_memory, choose_machine
    from kqv.importing import located
    from kqv.optim import make_optimizers, rate_factor, restore_optimizers, set_rates
    from kqv.runlog import RunLog, draw_curve
    from model import GPT, GPTConfig

    # The defaults are a recipe for a CPU: a GPU has its own, unless one is named.
    recipe_named = any(word.endswith(".py") for word in arguments)
    if settings.init_from == "scratch" and not recipe_named and choose_machine(settings).device.type == "cuda":
        given = {**read_arguments(TrainSettings, [str(GPU_RECIPE)])[0], **given}
        settings = TrainSettings(**given)
        check_training(settings)

    # What to start from: nothing, the run in out_dir, or the weights of another checkpoint.
    resuming = settings.init_from == "resume"
    model = tokenizer = checkpoint = lock = None
    if resuming:
        find_checkpoint(settings.out_dir, TO_RESUME)  # a mistake makes no folder
        lock = None if settings.eval_only or settings.dry_run else occupy(Path(settings.out_dir))
        checkpoint, path = load_latest(settings.out_dir)
    elif settings.init_from != "scratch":
        checkpoint, path = load_any(located(settings.init_from))
    if checkpoint:
        # A shorter block is the one thing that a model can change when another run begins with it.
        model, tokenizer = restore_model(checkpoint, path, None if resuming else given.get("block_size"))
        checkpoint["model_args"]["block_size"] = model.config.block_size
        settings = follow_checkpoint(settings, given, checkpoint, path, tokenizer.name)
        model.config.dropout = settings.dropout

    def shape(vocab_size: int) -> GPTConfig:
        options = {field.name: getattr(settings, field.name) for field in fields(GPTConfig) if field.name != "vocab_size"}
        return GPTConfig(vocab_size=vocab_size, **options)

    if settings.dry_run:
        from kqv.planning import print_plan, vocabulary_size

        if model:
            print_plan(settings, model.config, f"those of {path}")
        else:
            size, source = vocabulary_size(settings.dataset, given.get("tokenizer", ""), words)
            print_plan(settings, shape(size), source)
        return 0

    # The text, as token ids.
    if words:
        dataset = open_texts(words, settings.encoding, tokenizer or settings.tokenizer)
    else:
        dataset = open_dataset(settings.dataset, tokenizer or given.get("tokenizer", ""))
    if tokenizer and tokenizer != dataset.tokenizer:
        things = "characters" if tokenizer.kind == dataset.tokenizer.kind == "char" else "tokens"
        raise UserError(f"{path} was trained on other {things} than dataset {settings.dataset} has: name a text file instead")
    tokenizer = dataset.tokenizer
    settings.dataset, settings.tokenizer = dataset.name, tokenizer.name
    train_tokens = open_tokens(dataset.folder / "train.bin", tokenizer.vocab_size, settings.block_size)
    val_tokens = open_tokens(dataset.folder / "val.bin", tokenizer.vocab_size, settings.block_size)
    text, characters = fingerprint(train_tokens), characters_per_token(val_tokens, tokenizer)
    if checkpoint and resuming and not settings.eval_only and checkpoint.get("text", text) != text:
        raise UserError(
            f"{dataset.name} is not the text that the run in {settings.out_dir} reads: resume with that one, or start a new run "
            f"from its weights with --init_from={settings.out_dir} and another --out_dir="
        )

    # The machine, the model and its optimizers.
    machine = choose_machine(settings)
    check_memory(settings, tokenizer.padded_size, machine)
    torch.manual_seed(settings.seed)
    if model is None:
        model = GPT(shape(tokenizer.padded_size))
    model.activation_checkpointing = settings.activation_checkpointing
    forward = machine.prepare(model)
    if settings.eval_only:
        print("validation loss", describe_loss(whole_loss(model, val_tokens, settings, machine), characters))
        return 0
    optimizers = make_optimizers(model, settings, torch.bfloat16 if machine.fast_bfloat16 else torch.float32)
    scaler = torch.amp.GradScaler(machine.device.type, enabled=machine.dtype == torch.float16)
    step, best_val_loss, skipped, skipped_in_a_row = 0, math.inf, 0, 0
    if checkpoint and resuming:
        step, best_val_loss = checkpoint["iter_num"], checkpoint["best_val_loss"]
        skipped, skipped_in_a_row = checkpoint.get("skipped", 0), checkpoint.get("skipped_in_a_row", 0)
        restore_optimizers(optimizers, checkpoint["optimizer"])
        if checkpoint["scaler"]:  # there is none in a run that was not in float16 before
            scaler.load_state_dict(checkpoint["scaler"])
    from_nanogpt = bool(checkpoint and checkpoint.get("nanogpt"))
    del checkpoint

    # The folder of the run, ours alone while `lock` lives, and what a checkpoint in it holds.
    out_dir = Path(settings.out_dir)
    lock = lock or occupy(out_dir)
    make_room(out_dir, model.parameter_count(), path if resuming else None)
    if resuming and from_nanogpt:
        shutil.copy2(path, out_dir / NANOGPT)
        print(f"{path} is nanoGPT's and will give way to ours: {out_dir / NANOGPT} is a copy", file=sys.stderr)

    def save(name: str, keep: Path | None = None) -> None:
        state = model_state(model, tokenizer)
        state |= {"optimizer": [optimizer.state_dict() for optimizer in optimizers], "scaler": scaler.state_dict()}
        state |= {"iter_num": step, "best_val_loss": best_val_loss, "config": asdict(settings), "text": text}
        state |= {"skipped": skipped, "skipped_in_a_row": skipped_in_a_row}
        save_checkpoint(out_dir / name, state, keep)

    def save_latest() -> None:
        save(LATEST, keep=out_dir / EARLIER)

    stop = catch_stop_signals()
    with RunLog(settings, step) as log:

        def written(write: Callable[..., object], *what: Any, **more: Any) -> bool:
            """Whether writing succeeds. If it does not, the run ends, or says so and goes on, as --on_write_error has it."""
            try:
                write(*what, **more)
            except (MachineError, OSError) as error:
                if settings.on_write_error == "stop":
                    raise
                log.say(f"{error}; training goes on")
                return False
            return True

        log.say(
            f"{model.parameter_count():,} parameters; {len(train_tokens):,} tokens of {dataset.name}, "
            f"{tokenizer.vocab_size} different; {machine}"
        )
        metrics = log.unfinished
        tokens_per_step = settings.batch_size * settings.block_size * settings.gradient_accumulation_steps
        steps, seconds = 0, 0.0  # since the last report
        saved_at = time.perf_counter()

        while True:
            # Evaluate and show; when asked to stop, only keep.
            last = step >= settings.max_iters
            evaluate = (step % settings.eval_interval == 0 or last) and "val_loss" not in metrics and not stop
            if evaluate:
                metrics["val_loss"] = estimated_loss(model, val_tokens, settings, machine)
                log.say(f"step {step}: validation loss {metrics['val_loss']:.4f} (estimate)")
                if settings.inner_figures:
                    windows, _ = next(spaced_windows(val_tokens, WATCHED, settings.block_size, 1))
                    metrics |= layer_figures(model, windows)
                if settings.sample_chars and math.isfinite(metrics["val_loss"]):
                    sampling = SampleSettings(max_new_tokens=settings.sample_chars, seed=settings.seed)
                    log.sample(step, generate_text(model.eval(), tokenizer, default_prompt(tokenizer), sampling))
            if last and not stop:
                metrics["val_loss_full"] = whole_loss(model, val_tokens, settings, machine)
                if tokenizer.kind != "char":
                    metrics["val_loss_per_character"] = metrics["val_loss_full"] / max(characters, 1e-9)

            # Keep. The metrics come first: a run that is killed in between goes on from an earlier step and writes them again.
            if metrics:
                written(log.write, step, **metrics)
            if evaluate and (metrics["val_loss"] < best_val_loss or settings.always_save_checkpoint):
                before, best_val_loss = best_val_loss, min(best_val_loss, metrics["val_loss"])
                untrained = step == 0 and settings.init_from == "scratch"  # nobody wants to sample from that
                if not untrained and not written(save, BEST):
                    best_val_loss = before
            overdue = settings.checkpoint_minutes and time.perf_counter() - saved_at > 60 * settings.checkpoint_minutes
            good = not skipped_in_a_row and math.isfinite(metrics.get("val_loss", 0.0))
            if stop or (last and good):
                save_latest()  # there is no later try: that it cannot be written is the end, whatever --on_write_error says
            elif (evaluate or overdue) and good:
                written(save_latest)
                saved_at = time.perf_counter()
            if stop or last:
                written(draw_curve, out_dir)
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
                    part_loss = forward(x.to(machine.device), targets=y.to(machine.device)) / parts
                scaler.scale(part_loss).backward()
                loss += part_loss.detach()
            for optimizer in optimizers:
                scaler.unscale_(optimizer)  # type: ignore[arg-type]  # needs param_groups and step only
            if settings.inner_figures and ((step + 1) % settings.eval_interval == 0 or step + 1 >= settings.max_iters):
                gradients = ([w.grad for w in block.parameters() if w.grad is not None] for block in model.blocks)
                metrics["grad_norm_layers"] = [float(torch.nn.utils.get_total_norm(of_block)) for of_block in gradients]
            grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip or math.inf)
            finite = math.isfinite(float(loss) + float(grad_norm))
            for optimizer in optimizers:
                if finite:
                    scaler.step(optimizer)  # type: ignore[arg-type]
                optimizer.zero_grad()
            scaler.update()
            step += 1
            skipped, skipped_in_a_row = skipped + (not finite), 0 if finite else skipped_in_a_row + 1
            if not finite:
                log.say(f"step {step}: the {'gradient' if math.isfinite(loss) else 'loss'} is not finite, so nothing was learnt")
            if skipped_in_a_row >= PATIENCE and scaler.get_scale() <= 1:  # in float16 the scale of the gradients falls first
                written(log.write, step, skipped=skipped)
                raise MachineError(
                    f"nothing finite in {PATIENCE} steps: the run has diverged; {out_dir / LATEST} is from before that; go on "
                    f"from there with --init_from=resume and lower --learning_rate= and --muon_learning_rate=, or start again "
                    f"with a longer --warmup_iters=, --grad_clip=1 or --dtype=float32"
                )
            steps, seconds = steps + 1, seconds + time.perf_counter() - began

            # Report.
            if step % settings.log_interval == 0 or step == settings.max_iters:
                metrics["train_loss"] = float(loss)
                metrics["learning_rate"] = factor * settings.learning_rate
                metrics["grad_norm"] = float(grad_norm)
                if skipped:
                    metrics["skipped"] = skipped
                metrics["tokens_per_second"] = round(steps * tokens_per_step / seconds)
                log.progress(step, metrics["train_loss"], metrics["tokens_per_second"])
                steps, seconds = 0, 0.0

    if stop:
        print(f"stopped after step {step} of {settings.max_iters}, kept in {out_dir / LATEST}; to go on:")
        print(f"  {shell_command('train.py', '--init_from=resume', f'--out_dir={out_dir}')}")
        return 128 + stop[0]

    # The checkpoint that sampling takes is the best by the estimate: measure it too, if it is not the last one.
    final_loss = metrics["val_loss_full"]
    path = find_checkpoint(settings.out_dir)
    best = load_checkpoint(path)
    if best["iter_num"] != step:
        print(f"last step        {describe_loss(final_loss, characters)}")
        model.load_state_dict(best["model"])
        final_loss = whole_loss(model, val_tokens, settings, machine)
    print(f"validation loss  {describe_loss(final_loss, characters)}, over the whole validation split")
    print(f"checkpoint       {path} (step {best['iter_num']})")
    print(f"curve            {out_dir / CURVE}")
    print(f"to sample        {shell_command('sample.py', f'--out_dir={out_dir}')}")
    return 0


def follow_checkpoint(
    settings: TrainSettings, given: dict[str, Any], checkpoint: dict[str, Any], path: Path, tokenizer: str
) -> TrainSettings:
    """The settings for going on from a checkpoint: the shape, the tokenizer and the text of its model, unless another text is
    named, and when resuming all else too.

    Raises UserError if a named option contradicts the shape that the weights have, or the tokenizer.
    """
    known = {field.name for field in fields(TrainSettings)}
    before = {name: value for name, value in checkpoint.get("config", {}).items() if name in known}
    check_types(TrainSettings, before, path)
    if settings.init_from == "resume":
        before |= {"out_dir": settings.out_dir, "eval_only": False}  # these belong to the command, not to the run
        settings = TrainSettings(**{**before, **given})
    elif "dataset" not in given:
        settings = replace(settings, dataset=before.get("dataset", settings.dataset))
    shape = {name: value for name, value in checkpoint["model_args"].items() if name not in ("vocab_size", "dropout")}
    shape["tokenizer"] = tokenizer
    for name, value in shape.items():
        if name in given and given[name] != value:
            raise UserError(f"{path} has {name}={value}, which cannot become {given[name]}: leave it out, or train from scratch")
    settings = replace(settings, **shape)
    check_training(settings)
    return settings


def catch_stop_signals() -> list[int]:
    """A list that receives the signal when Ctrl-C is pressed or SIGTERM comes. A second one ends the process at once."""
    received: list[int] = []

    def remember(number: int, _: object) -> None:
        received.append(number)
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, remember)
    return received


if __name__ == "__main__":
    run_script(main)
