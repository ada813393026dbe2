"""Train a GPT on text.

    python train.py                                     tiny Shakespeare, the best for this machine
    python train.py novel.txt                           a text of your own
    python train.py --text=mycode.py                    a text that looks like a config file
    python train.py novel.txt config/x.py --n_layer=8   options; later ones win
    python train.py --init_from=resume                  resume a run that was stopped
    torchrun --standalone --nproc_per_node=4 train.py   four ranks share each step: the same run

`train` sets a run up, `fit` is the loop, `report` ends it. One step is kqv/training/trainer.py.
"""

import signal
import sys

if __name__ == "__main__":
    # Ctrl-C during imports ends the process, without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import contextlib
import math
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from kqv.errors import MachineError, run_script
from kqv.machine.launching import Launch, lost_ranks, one_error
from kqv.options.settings import TrainSettings
from kqv.project import shell_command
from kqv.run_files import BEST, CURVE, LATEST
from kqv.signals import end_by_exception, stop_signals
from kqv.training.log import RunLog, SilentLog, open_log
from kqv.training.remarks import describe_loss, describe_trivial_losses, no_best_remark
from kqv.training.request import Request, read_request
from kqv.training.run_folder import enter_folder
from kqv.training.schedule import rate_factor, set_rates

if TYPE_CHECKING:
    from kqv.checkpoints.saver import Saver
    from kqv.training.run import Run

MOST_SKIPPED = 10  # steps in a row that may be skipped; then the run has diverged
PASSED_ON = 2.0  # seconds in which torchrun passes on a signal that its ranks have received, too


def main(arguments: list[str]) -> int:
    """Train as one process, or as a rank that torchrun started. Returns the exit status."""
    launch = Launch.from_environment()
    with one_error(launch), lost_ranks("start it again"), ExitStack() as stack:
        return train(read_request(arguments, launch), launch, stack)


def train(request: Request, launch: Launch, stack: ExitStack) -> int:
    """From the request to a trained model. Returns the exit status. A lock on out_dir is held until
    `stack` closes."""
    # torch takes a second to import, so this waits until the options are known to be good.
    from kqv.checkpoints.saver import Saver, recovery_hint
    from kqv.checkpoints.starting import find_start, start_run
    from kqv.machine.ranks import Ranks
    from kqv.training.plan import plan_run

    end_by_exception()
    ranks = Ranks(launch)
    ranks.join(request.settings.backend)
    start, request = find_start(request, ranks, stack)
    settings = request.settings
    if settings.dry_run:
        plan_run(request, start.model.config if start.model else None, start.path, launch)
        return 0
    run, best_val_loss = start_run(start, request, ranks)
    if settings.eval_only:
        loss = run.evaluator.whole_loss()
        scores = run.evaluator.scores()
        if ranks.is_main:
            for remark in run.data.remarks:
                print(remark, file=sys.stderr)
            per_token = run.data.characters_per_token
            measured = f"{describe_loss(loss, per_token)}, {run.data.measured}"
            print(f"validation loss {measured}", *scores, sep="\n")
        return 0

    resume = launch.command("train.py", "--init_from=resume", f"--out_dir={settings.out_dir}")
    if ranks.is_main:
        resumed_from = start.path if start.resuming else None
        stack.enter_context(enter_folder(run, resumed_from, start.from_nanogpt))
    answer = "stopping after this step; Ctrl-C again ends now" if ranks.is_main else ""
    with (
        lost_ranks(recovery_hint(run, resume)),
        stop_signals(answer, PASSED_ON if ranks.world_size > 1 else 0) as run.signals,
        open_log(run, resume) as log,
    ):
        saver = Saver(run, log, best_val_loss, resume)
        metrics = fit(run, log, saver)
    return report(run, log, saver, metrics)


def fit(run: "Run", log: RunLog | SilentLog, saver: "Saver") -> dict[str, Any]:
    """The training loop: evaluate, save, one step, report. Returns the metrics of the last
    evaluation.

    Raises MachineError if training diverges, or a write fails that must not.
    """
    settings, ranks, trainer = run.settings, run.ranks, run.trainer
    step_tokens = run.data.step_tokens(settings)
    metrics = ranks.broadcast(log.unfinished)  # the line that a stopped run had begun
    steps, seconds = 0, 0.0  # since the last report
    due = False  # whether last.pt is, by the clock
    while True:
        last = run.step >= settings.max_iters
        evaluated = evaluates_at(run.step, settings) and not run.stop and "val_loss" not in metrics
        if evaluated:
            metrics |= evaluate(run, log)
        if last and not run.stop:
            metrics["val_loss_full"] = run.evaluator.whole_loss()
            if run.data.tokenizer.kind != "char":
                per_character = metrics["val_loss_full"] / run.data.characters_per_token
                metrics["val_loss_per_character"] = per_character
        saver.save(metrics, evaluated, due, last)
        if run.stop or last:
            log.curve()
            return metrics
        metrics = {}

        began = time.perf_counter()
        factor = rate_factor(settings, run.step)
        set_rates(trainer.optimizers, factor)
        own_loss = trainer.forward_backward(run.data.batches(settings, ranks, run.step), run.step)
        if settings.inner_figures and evaluates_at(run.step + 1, settings):
            metrics["grad_norm_layers"] = trainer.layer_gradient_norms()
        grad_norm = float(trainer.clip_gradients())
        loss, signals, overdue = ranks.all_reduce(float(own_loss), len(run.signals), saver.is_due())
        run.stop, due = signals > 0, overdue > 0
        finite = math.isfinite(loss + grad_norm)
        trainer.update(finite)
        run.step += 1
        count_skipped(run, log, saver, finite, loss)
        steps, seconds = steps + 1, seconds + time.perf_counter() - began

        if run.step % settings.log_interval == 0 or run.step == settings.max_iters:
            speed = round(steps * step_tokens / seconds)
            rate = factor * settings.learning_rate
            metrics |= {"train_loss": loss, "learning_rate": rate, "grad_norm": grad_norm}
            if run.skipped:
                metrics["skipped"] = run.skipped
            metrics["tokens_per_second"] = speed
            log.progress(run.step, loss, speed)
            steps, seconds = 0, 0.0


def evaluates_at(step: int, settings: TrainSettings) -> bool:
    """Whether the model is evaluated after this many steps."""
    return step % settings.eval_interval == 0 or step >= settings.max_iters


def evaluate(run: "Run", log: RunLog | SilentLog) -> dict[str, Any]:
    """Estimate the validation loss, trace the layers if asked to, and show a sample."""
    loss = run.evaluator.estimated_loss()
    log.say(f"step {run.step}: validation loss {loss:.4f} (estimate)")
    wants_sample = run.settings.sample_chars > 0 and math.isfinite(loss)
    figures, sample = run.evaluator.look(wants_sample)
    if sample:
        log.sample(run.step, sample)
    return {"val_loss": loss, **figures}


def count_skipped(
    run: "Run", log: RunLog | SilentLog, saver: "Saver", finite: bool, loss: float
) -> None:
    """Count a step that was skipped. Raises MachineError after MOST_SKIPPED of them in a row."""
    if finite:
        run.skipped_in_a_row = 0
        return
    run.skipped += 1
    run.skipped_in_a_row += 1
    what = "gradient" if math.isfinite(loss) else "loss"
    log.say(f"step {run.step}: the {what} is not finite, so the update is skipped")
    if run.skipped_in_a_row >= MOST_SKIPPED and not run.trainer.scale_may_fall:
        saver.attempt(log.write, run.step, skipped=run.skipped)
        raise MachineError(
            f"nothing finite in {MOST_SKIPPED} steps: the run has diverged; "
            f"{saver.folder / LATEST} is from before that; go on from there with "
            f"--init_from=resume and lower --learning_rate= and --muon_learning_rate=, or start "
            f"again with a longer --warmup_iters=, --grad_clip=1 or --dtype=float32"
        )


def report(run: "Run", log: RunLog | SilentLog, saver: "Saver", metrics: dict[str, Any]) -> int:
    """Say how the run ended and what comes next. Returns the exit status."""
    settings, ranks, folder = run.settings, run.ranks, saver.folder
    per_token = run.data.characters_per_token
    if run.stop:
        ranks.broadcast(None)  # torchrun ends all ranks when one has ended: rank 0 writes first
        if ranks.is_main:
            with contextlib.suppress(OSError):  # a terminal that has closed
                if not (folder / BEST).exists():
                    print(no_best_remark(LATEST))
                print(
                    f"stopped after step {run.step} of {settings.max_iters}, saved in "
                    f"{folder / LATEST}; to go on:\n  {saver.resume}"
                )
        # a rank that torchrun has not passed the signal on to ends as if it had
        return 128 + (run.signals[0] if run.signals else signal.SIGTERM)

    # Sampling takes the checkpoint that was best by the estimate: measure that one, too.
    loss = metrics["val_loss_full"]
    path, best_step = saver.load_best(run.trainer.model)
    if best_step != run.step:
        if ranks.is_main:
            print(f"last step        {describe_loss(loss, per_token)}")
        loss = run.evaluator.whole_loss()
    if ranks.is_main:
        print(f"validation loss  {describe_loss(loss, per_token)}, {run.data.measured}")
        trivial = run.data.trivial_losses()
        print(f"for comparison   {describe_trivial_losses(*trivial, per_token)}")
        if log.remark:
            print(f"overfitting      {log.remark}")
        why = "" if path.name == BEST else f"; {no_best_remark(path.name)}"
        print(f"checkpoint       {path} (step {best_step}){why}")
        if (folder / CURVE).exists():
            print(f"curve            {folder / CURVE}")
        sample = shell_command("sample.py", f"--out_dir={folder}", *run.data.prompt_options)
        print(f"to sample        {sample}")
    return 0


if __name__ == "__main__":
    run_script(main)
