"""Hand a trained model to others.

python export.py                                    out/huggingface, which transformers loads
python export.py --format=gguf --dtype=q8_0         out/model.gguf, which llama.cpp runs
python export.py --format=nanogpt --to=there        there/ckpt.pt and there/meta.pkl, as nanoGPT writes them
python export.py --format=onnx                      out/model.onnx
python export.py --format=safetensors               out/model.safetensors: weights and settings alone
python export.py --format=checkpoint                out/model.pt: a sharded checkpoint as one file
"""

import signal

if __name__ == "__main__":
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # Ctrl-C during imports ends the process, without a traceback

from pathlib import Path

from kqv.errors import run_script
from kqv.options.checks import check_exporting
from kqv.options.command_line import read_settings
from kqv.options.settings import EXPORT_SUFFIXES, ExportSettings
from kqv.signals import end_by_exception


def main(arguments: list[str]) -> int:
    """Read the options and the checkpoint, write what is asked for. Returns the exit status."""
    settings, _ = read_settings(ExportSettings, arguments)
    check_exporting(settings)

    # torch takes a second to import, so this waits until the options are known to be good.
    from kqv.checkpoints.single import load_model, save_checkpoint
    from kqv.exchange import huggingface as exporting
    from kqv.exchange.gguf import to_gguf

    end_by_exception()
    model, tokenizer, checkpoint, path = load_model(settings.out_dir)
    name = (
        f"model{EXPORT_SUFFIXES[settings.format]}"
        if settings.format in EXPORT_SUFFIXES
        else settings.format
    )
    to = Path(settings.to) if settings.to else path.parent / name
    if settings.format == "huggingface":
        exporting.to_huggingface(model, tokenizer, checkpoint, to)
    elif settings.format == "nanogpt":
        exporting.to_nanogpt(model, tokenizer, checkpoint, to)
        if (to / "meta.pkl").exists():
            print(
                f"nanoGPT looks for the characters in its data/{exporting.nanogpt_dataset(checkpoint)}: put meta.pkl there"
            )
    elif settings.format == "gguf":
        if narrow := to_gguf(model, tokenizer, settings.dtype, to):
            print(
                f"in f16, because q8_0 takes rows of 32 numbers: {len(narrow)} matrices, such as {narrow[0]}"
            )
    elif settings.format == "onnx":
        exporting.to_onnx(model, tokenizer, to)
    elif settings.format == "checkpoint":
        to.parent.mkdir(parents=True, exist_ok=True)  # such as a folder to go on in
        save_checkpoint(to, checkpoint)
    else:
        exporting.to_safetensors(model, tokenizer, checkpoint, to)
    print(to)
    return 0


if __name__ == "__main__":
    run_script(main)
