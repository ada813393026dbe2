"""Write text with a trained model, as it is generated: an encoder fills in blanks, an
encoder-decoder translates.

python sample.py --out_dir=out --start="ROMEO:"
python sample.py --num_samples=5 --temperature=0.7 --top_p=0.9
python sample.py --interactive
python sample.py --out_dir=out-encoder --start="To be, or n_t to b_"
python sample.py --out_dir=out-g2p --start=colonel --beam_size=5
"""

import os
import signal

if __name__ == "__main__":
    # There is nothing to save: Ctrl-C ends the process at once, also while torch is imported.
    signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))

import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from kqv.errors import UserError, run_script
from kqv.generation.prompts import default_prompt, text_of
from kqv.options.checks import check_architecture, check_sampling, check_translating
from kqv.options.command_line import read_settings
from kqv.options.settings import SampleSettings
from kqv.training.remarks import checkpoint_remarks, filling_remark


def main(arguments: list[str]) -> int:
    """Read the options and the checkpoint, then write. Returns the exit status."""
    settings, given = read_settings(SampleSettings, arguments, "start")
    check_sampling(settings)
    if settings.compile is True:
        print("compile=True is for train.py: sampling is not compiled", file=sys.stderr)

    # torch takes a second to import, so this waits until the options are known to be good.
    from kqv.checkpoints.loading import load_model
    from kqv.exchange.huggingface import locate
    from kqv.generation.filled import write_filled
    from kqv.generation.translated import write_translations
    from kqv.generation.writing import write_samples
    from kqv.machine.device import choose_machine

    named = settings.init_from != "resume"
    where = locate(settings.init_from) if named else settings.out_dir
    loaded = load_model(where)
    model, tokenizer, checkpoint, path = loaded
    for remark in checkpoint_remarks(checkpoint, path, where):
        print(remark, file=sys.stderr)
    architecture = model.config.architecture
    check_architecture(given, architecture)
    from_nothing = architecture == "encoder" and not settings.interactive and "start" not in given
    if from_nothing and (remark := filling_remark(checkpoint.get("config", {}).get("mask_rate"))):
        print(remark, file=sys.stderr)
    check_translating(settings, given, architecture)
    translate = partial(write_translations, source_tokenizer=loaded.source_tokenizer)
    writers = {"decoder": write_samples, "encoder": write_filled, "encoder_decoder": translate}
    write: Any = writers[architecture]
    machine = choose_machine(settings)
    if checkpoint.get("nanogpt"):  # it writes what it wrote there: sliding, and in float32 on a CPU
        if settings.past_block == "auto":
            settings.past_block = "slide"
        if settings.dtype == "auto" and machine.device.type == "cpu":
            machine = choose_machine(replace(settings, dtype="float32"))
    model.to(machine.device).eval()
    if "start" not in given:
        settings.start = default_prompt(tokenizer) if architecture == "decoder" else ""
    ends = architecture == "decoder" and tokenizer.knows("\n")
    for prompt in prompts(settings, newline="\n" if ends else ""):
        try:
            write(model, tokenizer, prompt=prompt, settings=settings, dtype=machine.dtype)
        except UserError as error:
            if not settings.interactive:
                raise
            print(error, file=sys.stderr)  # a mistyped prompt does not end the conversation
    return 0


def prompts(settings: SampleSettings, newline: str) -> Iterator[str]:
    """The prompts: that of --start, or with --interactive each line typed, with `newline` at its
    end."""
    if settings.interactive:
        while True:
            try:
                yield input("> " if sys.stdin.isatty() else "") + newline
            except EOFError:
                return
    yield text_of(settings.start)


if __name__ == "__main__":
    run_script(main)
