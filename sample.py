"""Write text with a trained model, as it is generated.

python sample.py --out_dir=out --start="ROMEO:"
python sample.py --num_samples=5 --temperature=0.7 --top_p=0.9
python sample.py --interactive
"""

import os
import signal

if (
    __name__ == "__main__"
):  # there is nothing to save: Ctrl-C ends it at once, while torch is imported as well
    signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kqv.errors import UserError, run_script
from kqv.generation.prompts import text_of
from kqv.options.checks import check_sampling
from kqv.options.command_line import read_settings
from kqv.options.settings import SampleSettings
from kqv.training.remarks import checkpoint_remarks

if TYPE_CHECKING:
    import torch

    from kqv.text.tokenizer import Tokenizer
    from model import GPT

SEPARATOR = "---------------"


def main(arguments: list[str]) -> int:
    """Read the options and the checkpoint, then write. Returns the exit status."""
    settings, given = read_settings(SampleSettings, arguments, "start")
    check_sampling(settings)
    if settings.compile is True:
        print("compile=True is for train.py: sampling is not compiled", file=sys.stderr)

    # torch takes a second to import, so this waits until the options are known to be good.
    import torch

    from kqv.checkpoints.loading import load_model
    from kqv.exchange.huggingface import locate
    from kqv.generation.prompts import default_prompt
    from kqv.machine.device import choose_machine

    named = settings.init_from != "resume"
    where = locate(settings.init_from) if named else settings.out_dir
    model, tokenizer, checkpoint, path = load_model(where)
    for remark in checkpoint_remarks(checkpoint, path, where):
        print(remark, file=sys.stderr)
    machine = choose_machine(settings)
    if checkpoint.get(
        "nanogpt"
    ):  # it writes what it wrote there: with a block that slides and, on a CPU, in float32
        settings.past_block = "slide" if settings.past_block == "auto" else settings.past_block
        if settings.dtype == "auto" and machine.device.type == "cpu":
            machine.dtype = torch.float32
    model.to(machine.device).eval()
    if "start" not in given:
        settings.start = default_prompt(tokenizer)
    for prompt in prompts(settings, newline="\n" if tokenizer.knows("\n") else ""):
        try:
            write_samples(model, tokenizer, prompt, settings, machine.dtype)
        except UserError as error:
            if not settings.interactive:
                raise
            print(error, file=sys.stderr)  # a mistyped prompt does not end the conversation
    return 0


def prompts(settings: SampleSettings, newline: str) -> Iterator[str]:
    """The texts to continue: the one of --start, or with --interactive each line typed, ended with `newline`."""
    if settings.interactive:
        while True:
            try:
                yield input("> " if sys.stdin.isatty() else "") + newline
            except EOFError:
                return
    yield text_of(settings.start)


def write_samples(
    model: "GPT",
    tokenizer: "Tokenizer",
    prompt: str,
    settings: SampleSettings,
    dtype: "torch.dtype",
) -> None:
    """Generate num_samples continuations at once; show the first as it grows and the others when all are done."""
    from kqv.generation.continuation import Continuation
    from kqv.generation.sampling import generate

    if settings.unknown == "skip":
        ids, skipped = tokenizer.encode_known(prompt)
        if skipped:
            print(
                f"left out of the prompt, unknown to the model: {' '.join(map(repr, skipped))}",
                file=sys.stderr,
            )
            prompt = tokenizer.decode(ids)
    else:
        ids = tokenizer.encode_prompt(prompt)
    if not ids:
        raise UserError(
            "the prompt is empty: give at least one character the model knows with --start="
        )

    streaming = settings.output == "text"
    samples = [Continuation(tokenizer, settings.stop) for _ in range(settings.num_samples)]
    if streaming:
        show(prompt)
    for tokens, log_probabilities in generate(model, ids, settings, dtype, tokenizer.vocab_size):
        for sample, token, log_probability in zip(samples, tokens, log_probabilities, strict=True):
            fresh = sample.add(token, log_probability)
            if streaming and sample is samples[0]:
                show(fresh)
        if all(sample.stopped for sample in samples):
            break
    for k, sample in enumerate(samples):
        rest = sample.finish()
        if streaming:
            show((rest if k == 0 else prompt + sample.text) + "\n")
            if settings.num_samples > 1:
                show(SEPARATOR + "\n")
        else:
            show(json.dumps({"sample": k, "prompt": prompt, **sample.to_dict()}) + "\n")


def show(text: str) -> None:
    """Put text on standard output now, not when a line is full."""
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    run_script(main)
