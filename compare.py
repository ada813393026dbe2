"""Train several configurations side by side, on the same batches, and draw the difference.

    python compare.py config/experiments/scale_dk8.py               one question, all its variants
    python compare.py config/experiments/*.py --seeds=3             all questions, three seeds each
    python compare.py mine.py other.py novel.txt --max_iters=200    your own configurations and text
    python compare.py mine.py other.py --text=program.py            a text whose name ends in .py

A config file is one configuration, or has several as its `variants`. Options of the command line
override those of every configuration. Each configuration is trained with each seed by a process of
train.py, one after the other, so that their times can be compared. A run has a folder named by what
is trained, out_dir/runs/DIGEST: a finished run is taken as it is, a stopped one is resumed. At the
end out_dir/report.html and report.md show the configurations side by side.
"""

import signal

if __name__ == "__main__":
    # Ctrl-C during imports ends the process, without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kqv.browser import show
from kqv.comparison.configurations import COMPARISON_OPTIONS, read_configurations, run_of
from kqv.comparison.tables import loss_table
from kqv.errors import MachineError, UserError, run_script
from kqv.options.checks import check_comparing, check_endings
from kqv.options.command_line import read_arguments, split_configs
from kqv.options.settings import CompareSettings
from kqv.project import shell_command
from kqv.signals import end_by_exception, stop_signals
from kqv.training.run_folder import occupy

# The answer to the first Ctrl-C.
STOPPING = "stopping after this step of this run; Ctrl-C again ends it now"


def main(arguments: list[str]) -> int:
    """Check all options, train all configurations, report. Returns the exit status."""
    paths, others = split_configs(CompareSettings, arguments)
    given, words = read_arguments(CompareSettings, others, "CONFIG.py ... [TEXT ...]")
    settings = CompareSettings(**given)
    check_comparing(settings)
    check_endings(settings.endings, words)
    if not paths:
        raise UserError(
            "name the configurations to compare, for example config/experiments/scale_dk8.py"
        )
    overrides = {name: value for name, value in given.items() if name not in COMPARISON_OPTIONS}
    # All are read before the first run: a mistake in the last one costs nothing.
    configurations = read_configurations(paths, overrides, words)

    # torch takes a second to import, so this waits until the options are known to be good.
    from kqv.comparison import processes, report, texts

    end_by_exception()
    dataset = texts.prepare_texts(configurations, overrides, words)
    out_dir = Path(settings.out_dir)
    with occupy(out_dir):
        for each in configurations:
            seeds = range(settings.seed, settings.seed + settings.seeds)
            each.runs = [run_of(each.settings, seed, out_dir) for seed in seeds]
        with stop_signals(STOPPING, second_after=None) as stop:
            failures = processes.train_all(configurations, stop)
        if stop:
            print("stopped; what is done is kept; to go on:")
            print(f"  {resume_command(paths, words, given, dataset.name)}")
            return 128 + stop[0]
        page, markdown = report.write_report(configurations, out_dir, " ".join(typed(overrides)))
    print(page, markdown, loss_table(configurations), sep="\n")
    show(page, settings.open)
    if failures:
        more = f" (and {len(failures) - 1} more failed)" if len(failures) > 1 else ""
        raise MachineError(failures[0] + more)
    return 0


def resume_command(
    paths: Sequence[str], words: Sequence[str], given: dict[str, Any], dataset: str
) -> str:
    """The command that continues a stopped comparison of `dataset`."""
    options = dict(given)
    if "-" in words:  # standard input is consumed, but the dataset made of it is there
        options["dataset"] = dataset
        options.pop("val_text", None)
        words = []
    texts = [f"--text={word}" if word.endswith(".py") else word for word in words]
    return shell_command("compare.py", *dict.fromkeys(paths), *texts, *typed(options))


def typed(options: dict[str, Any]) -> list[str]:
    """Options as they are typed: one that collects values, once for each.

    >>> typed({"n_layer": 2, "val_text": ("a.tsv", "b.tsv")})
    ['--n_layer=2', '--val_text=a.tsv', '--val_text=b.tsv']
    """
    return [
        f"--{name}={each}"
        for name, value in options.items()
        for each in (value if isinstance(value, tuple) else (value,))
    ]


if __name__ == "__main__":
    run_script(main)
