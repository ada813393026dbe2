"""Hand a trained model to other programs.

python export.py                                    out/huggingface, which transformers loads
python export.py --format=gguf --dtype=q8_0         out/model.gguf, which llama.cpp runs
python export.py --format=nanogpt --to=there        there/ckpt.pt and there/meta.pkl for nanoGPT
python export.py --format=onnx                      out/model.onnx
python export.py --format=safetensors               out/model.safetensors: weights and settings
python export.py --format=checkpoint                out/model.pt: a sharded checkpoint as one file
"""

import signal

if __name__ == "__main__":
    # Ctrl-C during imports ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

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
    from kqv.checkpoints import exporting, loading

    end_by_exception()
    loaded = loading.load_model(settings.out_dir)
    suffix = EXPORT_SUFFIXES.get(settings.format)
    name = f"model{suffix}" if suffix else settings.format
    to = Path(settings.to) if settings.to else loaded.path.parent / name
    if remark := exporting.WRITERS[settings.format](loaded, to, settings):
        print(remark)
    print(to)
    return 0


if __name__ == "__main__":
    run_script(main)
