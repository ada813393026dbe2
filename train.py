"""Train a GPT on text.

python train.py                                     tiny Shakespeare, the best for this machine
python train.py novel.txt                           a text of your own
python train.py --text=mycode.py                    the same for a text that looks like a config file
python train.py novel.txt config/x.py --n_layer=8   options, later ones win
python train.py --init_from=resume                  go on after a stop
torchrun --standalone --nproc_per_node=4 train.py   four processes that share the work, the result is the same
"""

import signal

if __name__ == "__main__":
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # Ctrl-C during imports ends the process, without a traceback

import contextlib
import math
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from kqv.errors import MachineError, UserError, run_script
from kqv.machine.launching import Launch, lost_ranks, one_error
from kqv.machine.load import sleep_where_crowded
from kqv.options.checks import check_endings, check_training
from kqv.options.command_line import read_arguments, split_configs
from kqv.options.defaults import take_nanogpt_defaults, training_settings
from kqv.options.model_options import ModelOptions
from kqv.options.option_types import check_types
from kqv.options.settings import SampleSettings, TrainSettings
from kqv.project import CONFIGS, shell_command
from kqv.run_files import BEST, CURVE, EARLIER, LATEST, NANOGPT, TO_RESUME
from kqv.signals import end_by_exception, stop_signals
from kqv.text.registry import check_name
from kqv.training.remarks import Pace, finished_remark, no_best_remark, passes_remark

GPU_RECIPE = CONFIGS / "gpu.py"
WATCHED = 4  # windows of the validation split that the figures of the layers are means over
PATIENCE = 10  # steps in a row whose numbers are not finite; then the run ends
RANKS_APART = (
    0x9E3779B9  # between the seeds of two processes: a CPU's generator takes 32 bits of them
)
PASSED_ON = 2.0  # seconds within which torchrun passes on a signal that its processes have received themselves


def main(arguments: list[str]) -> int:
    """Train as one process, or as one of several that torchrun started. Returns the exit status."""
    launch = Launch.from_environment()
    with one_error(launch), lost_ranks("start it again"):
        return train(arguments, launch)


def train(arguments: list[str], launch: Launch) -> int:
    """From text to checkpoint. Returns the exit status."""
    given, words = read_arguments(
        TrainSettings, arguments, "[TEXT ...] [CONFIG.py ...]", "to train on it write --text={}"
    )
    if (remark := take_nanogpt_defaults(arguments, given)) and launch.is_main:
        print(remark, file=sys.stderr)
    settings = training_settings(given)
    check_training(settings)
    if settings.init_from == "scratch":  # a checkpoint brings its own
        check_name(settings.tokenizer)
    check_endings(given.get("endings", ""), words)
    if launch.world_size > 1 and "-" in words:
        raise UserError(
            "standard input can be read by one process only: write the text to a file, and name that"
        )

    if (crowded := sleep_where_crowded(settings.device)) and launch.is_main:
        print(crowded, file=sys.stderr)

    # torch takes a second to import, so this waits until the options are known to be good.
    import torch

    from kqv.checkpoints.sharded import holds_shapes, restore_shards, restore_weights, save_sharded
    from kqv.checkpoints.single import (
        find_checkpoint,
        is_of_launch,
        load_any,
        load_latest,
        load_share,
        model_state,
        restore_model,
        save_checkpoint,
    )
    from kqv.exchange.importing import located
    from kqv.generation.decoder import attend_as_written
    from kqv.generation.prompts import default_prompt
    from kqv.generation.sampling import generate_text
    from kqv.inside.trace import layer_figures
    from kqv.machine.device import check_memory, choose_machine
    from kqv.machine.ranks import Ranks
    from kqv.machine.wrapping import as_number, gather, no_sync_until, replicate, shard
    from kqv.text.batches import spaced_windows, training_batch
    from kqv.text.datasets import Dataset, known_sources, open_dataset, open_texts
    from kqv.text.token_files import fingerprint, open_tokens
    from kqv.training.evaluation import (
        characters_per_token,
        describe_loss,
        describe_trivial_losses,
        estimated_loss,
        trivial_losses,
        whole_loss,
    )
    from kqv.training.log import RunLog, SilentLog
    from kqv.training.optimizers import make_optimizers, rate_factor, restore_optimizers, set_rates
    from kqv.training.run_folder import make_room, occupy, write_config
    from model import GPT, GPTConfig

    end_by_exception()
    ranks = Ranks(launch)
    ranks.join(settings.backend)

    # The defaults are a recipe for a CPU: a GPU has its own, unless a recipe or nanoGPT is named.
    recipe_named = settings.like == "nanogpt" or split_configs(TrainSettings, arguments)[0]
    if (
        settings.init_from == "scratch"
        and not recipe_named
        and choose_machine(settings).device.type == "cuda"
    ):
        given = {**read_arguments(TrainSettings, [str(GPU_RECIPE)])[0], **given}
        settings = training_settings(given)
        check_training(settings)

    # What to start from: nothing, the run in out_dir, or the weights of another checkpoint. The first process reads it for all.
    # When a process has died torchrun starts all anew: they go on with the run that they had begun.
    read = partial(load_share, fsdp=given.get("fsdp"))
    if ranks.broadcast(
        ranks.is_main and launch.restarts and is_of_launch(launch.id, settings.out_dir)
    ):
        settings.init_from = given["init_from"] = "resume"
    resuming = settings.init_from == "resume"
    model = tokenizer = checkpoint = lock = None
    path = Path(settings.out_dir)
    if resuming and ranks.is_main:
        if not path.is_dir():
            find_checkpoint(settings.out_dir, TO_RESUME)  # a mistake makes no folder
        lock = None if settings.eval_only or settings.dry_run else occupy(path)
        checkpoint, path = load_latest(settings.out_dir, read)
    elif settings.init_from != "scratch" and ranks.is_main:
        checkpoint, path = load_any(located(settings.init_from))
    checkpoint, path = ranks.broadcast((checkpoint, path))
    if checkpoint:
        # A shorter block is the one thing that a model can change when another run begins with it.
        model, tokenizer = restore_model(
            checkpoint, path, None if resuming else given.get("block_size")
        )
        checkpoint["model_args"]["block_size"] = model.config.block_size
        settings = follow_checkpoint(settings, given, checkpoint, path, tokenizer.name)
        model.config.dropout = settings.dropout

    def shape(vocab_size: int) -> GPTConfig:
        options = {field.name: getattr(settings, field.name) for field in fields(ModelOptions)}
        return GPTConfig(vocab_size=vocab_size, **options)

    if settings.dry_run:
        from kqv.training.plan import print_plan, vocabulary_size

        size, source = vocabulary_size(settings.dataset, given.get("tokenizer", ""), words)
        if ranks.is_main:
            print_plan(
                settings,
                model.config if model else shape(size),
                f"those of {path}" if model else source,
                launch,
            )
        return 0

    # The machine. A model that it cannot hold is refused before a text is prepared for it.
    machine = choose_machine(settings, ranks.local_rank if ranks.world_size > 1 else None)
    windows = (
        settings.batch_size * settings.gradient_accumulation_steps
    )  # of a step, which all processes share
    own_parts, at_once = ranks.micro_batches(windows, settings.batch_size)
    enough_memory = partial(
        check_memory,
        settings,
        machine=machine,
        windows=at_once,
        shares=ranks.world_size if settings.fsdp else 1,
    )
    enough_memory(tokenizer.padded_size if tokenizer else 1)

    # The text, as token ids. If the prepared ids are gone, the same command with the text helps.
    own_text = checkpoint if checkpoint and "dataset" not in given else {}
    sources = known_sources(own_text.get("sources"))
    again = launch.command("train.py", *sources, *arguments)
    if checkpoint and checkpoint.get("nanogpt") and not words and "dataset" not in given:
        name = settings.dataset
        remark = f"{path} was trained on {name}: its train.bin and val.bin are used"
        if not checkpoint["data"]:
            remark = (
                f"no train.bin and val.bin in nanoGPT's data/{name} beside {path}: "
                f"kqv's data/{name} is used"
            )
        if ranks.is_main:
            print(remark, file=sys.stderr)

    def open_text() -> Dataset:
        if words:
            kind = tokenizer or settings.tokenizer
            how = (settings.encoding, kind, settings.text_field, settings.endings)
            return open_texts(words, *how)
        kind = tokenizer or given.get("tokenizer", "")
        return open_dataset(settings.dataset, kind, sources, again)

    dataset = ranks.local_main_first(open_text)
    if tokenizer and tokenizer != dataset.tokenizer:
        things = "characters" if tokenizer.kind == dataset.tokenizer.kind == "char" else "tokens"
        raise UserError(
            f"{path} was trained on other {things} than {dataset.title} has: name a text file instead"
        )
    tokenizer = dataset.tokenizer
    settings.dataset, settings.tokenizer = dataset.name, tokenizer.name
    train_tokens = open_tokens(
        dataset.folder / "train.bin", tokenizer.vocab_size, settings.block_size
    )
    val_tokens = open_tokens(dataset.folder / "val.bin", tokenizer.vocab_size, settings.block_size)
    text, characters = fingerprint(train_tokens), characters_per_token(val_tokens, tokenizer)
    if checkpoint and resuming and not settings.eval_only and checkpoint.get("text", text) != text:
        raise UserError(
            f"{dataset.title} is not the text that the run in {settings.out_dir} reads: resume with that one, or start a new run "
            f"from its weights with --init_from={settings.out_dir} and another --out_dir="
        )

    # The model and its optimizers.
    enough_memory(tokenizer.padded_size)
    torch.manual_seed(settings.seed)
    if model is None:
        model = GPT(shape(tokenizer.padded_size))
    model.activation_checkpointing = settings.activation_checkpointing
    if settings.fsdp:
        shard(model, machine, ranks)
    forward = machine.prepare(model)
    attend_as_written(model)
    optimizers = make_optimizers(model, settings, machine.muon_dtype, ranks.rank, ranks.world_size)
    scaler = torch.amp.GradScaler(machine.device.type, enabled=machine.dtype == torch.float16)
    step, best_val_loss, skipped, skipped_in_a_row = 0, math.inf, 0, 0
    if resuming and holds_shapes(checkpoint):
        restore_shards(path, model, [] if settings.eval_only else optimizers)
    if settings.eval_only:
        measured = whole_loss(model, val_tokens, settings, machine, ranks)
        if ranks.is_main:
            print("validation loss", describe_loss(measured, characters))
        return 0
    if checkpoint and resuming:
        step, best_val_loss = checkpoint["iter_num"], checkpoint["best_val_loss"]
        skipped, skipped_in_a_row = (
            checkpoint.get("skipped", 0),
            checkpoint.get("skipped_in_a_row", 0),
        )
        if not holds_shapes(checkpoint):
            restore_optimizers(optimizers, checkpoint["optimizer"])
        if checkpoint["scaler"]:  # there is none in a run that was not in float16 before
            scaler.load_state_dict(checkpoint["scaler"])
    if not settings.fsdp:
        forward = replicate(forward, machine, ranks)
    from_nanogpt = bool(checkpoint and checkpoint.get("nanogpt"))
    del checkpoint

    # The folder of the run, ours alone while `lock` lives, and what a checkpoint in it holds.
    out_dir = Path(settings.out_dir)
    if ranks.is_main:
        lock = lock or occupy(out_dir)
        make_room(out_dir, model.parameter_count(), path if resuming else None)
        write_config(out_dir, settings, dataset.title, model.parameter_count())
        if resuming and from_nanogpt:
            shutil.copy2(path, out_dir / NANOGPT)
            print(
                f"{path} is nanoGPT's and will give way to ours: {out_dir / NANOGPT} is a copy",
                file=sys.stderr,
            )
    go_on = launch.command("train.py", "--init_from=resume", f"--out_dir={out_dir}")
    recovery = f"what was saved in {out_dir} is whole: go on with {go_on}"
    if launch.nodes > 1:
        recovery += ", and on the other machines with their --node_rank"

    def save(name: str, keep: Path | None = None) -> None:
        state = model_state(model, tokenizer)
        state |= {
            "optimizer": [optimizer.state_dict() for optimizer in optimizers],
            "scaler": scaler.state_dict(),
        }
        state |= {
            "iter_num": step,
            "best_val_loss": best_val_loss,
            "config": asdict(settings),
            "text": text,
        }
        state |= {"skipped": skipped, "skipped_in_a_row": skipped_in_a_row, "launch": launch.id}
        state["sources"] = list(dataset.sources)
        if settings.fsdp:
            save_sharded(out_dir / name, state, ranks, keep)
        elif ranks.is_main:
            save_checkpoint(out_dir / name, state, keep)

    def save_latest() -> None:
        save(LATEST, keep=out_dir / EARLIER)

    on_cpu = machine.device.type == "cpu"
    pace = Pace(torch.get_num_threads(), go_on) if on_cpu and ranks.world_size == 1 else None
    answer = "stopping after this step; Ctrl-C again ends now" if ranks.is_main else ""
    with (
        lost_ranks(recovery),
        stop_signals(answer, PASSED_ON if ranks.world_size > 1 else 0) as signals,
        RunLog(settings, step, pace) if ranks.is_main else SilentLog() as log,
    ):

        def written(write: Callable[..., object], *what: Any, **more: Any) -> bool:
            """Whether writing succeeds. If it does not, the run ends, or says so and goes on, as --on_write_error has it."""
            try:
                write(*what, **more)
            except (MachineError, OSError) as error:
                if settings.on_write_error == "continue":
                    log.say(f"{error}; training goes on")
                    return False
                if isinstance(error, OSError):
                    hint = recovery if (out_dir / LATEST).exists() else "then start again"
                    raise MachineError(
                        f"{out_dir} takes no more ({error.strerror}): free some space; {hint}"
                    ) from None
                raise
            return True

        log.say(
            f"{model.parameter_count():,} parameters; {len(train_tokens):,} tokens of {dataset.title}, "
            f"{tokenizer.vocab_size} different; {ranks}{machine}"
        )
        if step < settings.max_iters:
            thing = "characters" if tokenizer.kind == "char" else "tokens"
            can_grow = on_cpu and settings.init_from == "scratch"
            size, of_a_step = model.parameter_count(), windows * settings.block_size
            log.say(passes_remark(settings, len(train_tokens), thing, size, of_a_step, can_grow))
        elif resuming and not launch.restarts:
            log.say(finished_remark(step, settings.max_iters, settings.out_dir, go_on))
        metrics = ranks.broadcast(log.unfinished)
        steps, seconds = 0, 0.0  # since the last report
        saved_at, overdue, stop = time.perf_counter(), False, False

        while True:
            # Evaluate and show; when asked to stop, only keep.
            last = step >= settings.max_iters
            evaluate = (
                (step % settings.eval_interval == 0 or last)
                and "val_loss" not in metrics
                and not stop
            )
            if evaluate:
                metrics["val_loss"] = estimated_loss(model, val_tokens, settings, machine, ranks)
                log.say(f"step {step}: validation loss {metrics['val_loss']:.4f} (estimate)")
                write_sample = settings.sample_chars and math.isfinite(metrics["val_loss"])
                whole = (
                    gather(model, ranks)
                    if settings.fsdp and (settings.inner_figures or write_sample)
                    else model
                )
                if settings.inner_figures and ranks.is_main:
                    watched, _ = next(spaced_windows(val_tokens, WATCHED, settings.block_size, 1))
                    metrics |= layer_figures(whole, watched)
                if write_sample and ranks.is_main:
                    sampling = SampleSettings(
                        max_new_tokens=settings.sample_chars, seed=settings.seed
                    )
                    log.sample(
                        step,
                        generate_text(whole.eval(), tokenizer, default_prompt(tokenizer), sampling),
                    )
            if last and not stop:
                metrics["val_loss_full"] = whole_loss(model, val_tokens, settings, machine, ranks)
                if tokenizer.kind != "char":
                    metrics["val_loss_per_character"] = metrics["val_loss_full"] / max(
                        characters, 1e-9
                    )

            # Keep. The metrics come first: a run that is killed in between goes on from an earlier step and writes them again.
            if metrics:
                written(log.write, step, **metrics)
            if (
                evaluate or overdue or stop or last
            ):  # a power cut must not leave a checkpoint beyond the metrics
                written(log.flush)
            if evaluate and (
                metrics["val_loss"] < best_val_loss or settings.always_save_checkpoint
            ):
                before, best_val_loss = best_val_loss, min(best_val_loss, metrics["val_loss"])
                untrained = (
                    step == 0 and settings.init_from == "scratch"
                )  # nobody wants to sample from that
                if not untrained and not written(save, BEST):
                    best_val_loss = before
            # In float16 steps are skipped now and then while the scale of the gradients is tried.
            good = (not skipped_in_a_row or scaler.get_scale() > 1) and math.isfinite(
                metrics.get("val_loss", 0.0)
            )
            if stop or (last and good):
                save_latest()  # there is no later try: that it cannot be written is the end, whatever --on_write_error says
            elif (evaluate or overdue) and good:
                written(save_latest)
                saved_at = time.perf_counter()
            if stop or last:
                log.curve()
                break
            metrics = {}

            # One step: the gradient of the whole batch, clipped, then the update.
            began = time.perf_counter()
            model.train()
            if settings.dropout:
                # dropout, like the batch, depends on seed and step alone, and on the part of the batch that is this process's
                torch.manual_seed(settings.seed + step + ranks.rank * RANKS_APART)
            factor = rate_factor(settings, step)
            set_rates(optimizers, factor)
            loss = torch.zeros((), device=machine.device)
            for part in range(own_parts):
                place, places = ranks.rank * own_parts + part, ranks.world_size * own_parts
                batch = (step, windows, settings.block_size, place, places, settings.order)
                x, y = training_batch(train_tokens, settings.seed, *batch)
                with no_sync_until(part == own_parts - 1, forward):
                    with machine.autocast():
                        part_loss = forward(x.to(machine.device), targets=y.to(machine.device)) * (
                            len(x) / windows
                        )
                    scaler.scale(
                        part_loss * ranks.world_size
                    ).backward()  # gradients are averaged, and losses are shares
                loss += part_loss.detach()
            for optimizer in optimizers:
                scaler.unscale_(optimizer)  # type: ignore[arg-type]  # needs param_groups and step only
            if settings.inner_figures and (
                (step + 1) % settings.eval_interval == 0 or step + 1 >= settings.max_iters
            ):
                gradients = (
                    [w.grad for w in block.parameters() if w.grad is not None]
                    for block in model.blocks
                )
                metrics["grad_norm_layers"] = [
                    as_number(torch.nn.utils.get_total_norm(of_block)) for of_block in gradients
                ]
            grad_norm = as_number(
                torch.nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip or math.inf)
            )
            overdue = (
                bool(settings.checkpoint_minutes)
                and time.perf_counter() - saved_at > 60 * settings.checkpoint_minutes
            )
            train_loss, signalled, late = ranks.all_reduce(
                float(loss), len(signals), ranks.is_main and overdue
            )
            stop, overdue = signalled > 0, late > 0
            finite = math.isfinite(train_loss + grad_norm)
            for optimizer in optimizers:
                if finite:
                    scaler.step(optimizer)  # type: ignore[arg-type]
                optimizer.zero_grad()
            scaler.update()
            step += 1
            skipped, skipped_in_a_row = (
                skipped + (not finite),
                0 if finite else skipped_in_a_row + 1,
            )
            if not finite:
                what = "gradient" if math.isfinite(train_loss) else "loss"
                log.say(f"step {step}: the {what} is not finite, so nothing was learnt")
            if (
                skipped_in_a_row >= PATIENCE and scaler.get_scale() <= 1
            ):  # in float16 the scale of the gradients falls first
                written(log.write, step, skipped=skipped)
                raise MachineError(
                    f"nothing finite in {PATIENCE} steps: the run has diverged; {out_dir / LATEST} is from before that; go on "
                    f"from there with --init_from=resume and lower --learning_rate= and --muon_learning_rate=, or start again "
                    f"with a longer --warmup_iters=, --grad_clip=1 or --dtype=float32"
                )
            steps, seconds = steps + 1, seconds + time.perf_counter() - began

            # Report.
            if step % settings.log_interval == 0 or step == settings.max_iters:
                metrics["train_loss"] = train_loss
                metrics["learning_rate"] = factor * settings.learning_rate
                metrics["grad_norm"] = grad_norm
                if skipped:
                    metrics["skipped"] = skipped
                metrics["tokens_per_second"] = round(
                    steps * windows * settings.block_size / seconds
                )
                log.progress(step, metrics["train_loss"], metrics["tokens_per_second"])
                steps, seconds = 0, 0.0

    if stop:
        ranks.broadcast(None)  # torchrun ends all when one has ended: the first one has written
        if ranks.is_main:
            with contextlib.suppress(OSError):  # a terminal that has closed
                if not (out_dir / BEST).exists():
                    print(no_best_remark(LATEST))
                print(
                    f"stopped after step {step} of {settings.max_iters}, kept in {out_dir / LATEST}; to go on:\n  {go_on}"
                )
        return 128 + (signals or [signal.SIGTERM])[0]

    # The checkpoint that sampling takes is the best by the estimate: measure it too, if it is not the last one.
    final_loss = metrics["val_loss_full"]
    ranks.broadcast(None)  # the first has written it
    if ranks.is_main or settings.fsdp:
        path = find_checkpoint(settings.out_dir)
        best = read(path, fsdp=settings.fsdp)
    best_step = ranks.broadcast(best["iter_num"] if ranks.is_main else 0)
    if best_step != step:
        if ranks.is_main:
            print(f"last step        {describe_loss(final_loss, characters)}")
        if not settings.fsdp:
            best = {"model": ranks.broadcast(best["model"] if ranks.is_main else {})}
        restore_weights(best, path, model)
        final_loss = whole_loss(model, val_tokens, settings, machine, ranks)
    if ranks.is_main:
        print(
            f"validation loss  {describe_loss(final_loss, characters)}, over the whole validation split"
        )
        trivial = trivial_losses(train_tokens, val_tokens, tokenizer.vocab_size)
        print(f"for comparison   {describe_trivial_losses(*trivial, characters)}")
        if log.remark:
            print(f"overfitting      {log.remark}")
        why = "" if path.name == BEST else f"; {no_best_remark(path.name)}"
        print(f"checkpoint       {path} (step {best_step}){why}")
        if (out_dir / CURVE).exists():
            print(f"curve            {out_dir / CURVE}")
        print(f"to sample        {shell_command('sample.py', f'--out_dir={out_dir}')}")
    return 0


def follow_checkpoint(
    settings: TrainSettings,
    given: dict[str, Any],
    checkpoint: dict[str, Any],
    path: Path,
    tokenizer: str,
) -> TrainSettings:
    """The settings for going on from a checkpoint: the shape, the tokenizer and the text of its model, unless another text is
    named, and when resuming all else too.

    Raises UserError if a named option contradicts the shape that the weights have, or the tokenizer.
    """
    known = {field.name for field in fields(TrainSettings)}
    before = {name: value for name, value in checkpoint.get("config", {}).items() if name in known}
    check_types(TrainSettings, before, path)
    if checkpoint.get("data"):  # nanoGPT's, beside its checkpoint
        before["dataset"] = checkpoint["data"]
    if settings.init_from == "resume":
        before |= {
            "out_dir": settings.out_dir,
            "eval_only": False,
        }  # these belong to the command, not to the run
        settings = TrainSettings(**{**before, **given})
    elif "dataset" not in given:
        settings = replace(settings, dataset=before.get("dataset", settings.dataset))
    shape = {
        name: value
        for name, value in checkpoint["model_args"].items()
        if name not in ("vocab_size", "dropout")
    }
    shape["tokenizer"] = tokenizer
    for name, value in shape.items():
        if name in given and given[name] != value:
            raise UserError(
                f"{path} has {name}={value}, which cannot become {given[name]}: leave it out, or train from scratch"
            )
    settings = replace(settings, **shape)
    check_training(settings)
    return settings


if __name__ == "__main__":
    run_script(main)
