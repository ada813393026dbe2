"""Tiny Shakespeare in GPT-2's tokens, to fine-tune GPT-2 on.

    python data/shakespeare/prepare.py

The text is that of data/shakespeare_char, which is prepared first if it is not there.
"""

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parents[1]))  # a script sees its own folder, not the project's

from kqv.errors import UserError, run_script
from kqv.text.datasets import open_dataset, prepare_dataset


def main(arguments: list[str]) -> None:
    """Write train.bin, val.bin and tokenizer.json. Raises UserError for any argument."""
    if arguments:
        raise UserError(f"{arguments[0]}: this takes no options")
    text = open_dataset("shakespeare_char").folder / "input.txt"
    dataset = prepare_dataset([text], FOLDER, tokenizer="gpt2")
    print(f"{dataset.folder}: tokens of {dataset.tokenizer.name} in train.bin and val.bin")


if __name__ == "__main__":
    run_script(main)
