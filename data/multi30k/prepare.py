"""Get German captions of photographs and their English counterparts: Multi30K.

    python data/multi30k/prepare.py                   downloads 1.3 MB
    python data/multi30k/prepare.py --input=FOLDER    takes the files from a folder that has them
    python train.py data/multi30k/train.tsv --val_text=data/multi30k/dev.tsv

Written beside this script, a German sentence, a tab and the English one on each line, raw text:
train.tsv (29,000 pairs), dev.tsv (1,014, which Multi30K calls val), test.tsv (1,000, which it
calls test_2016_flickr). One sentence has a tab, which becomes a space.

D. Elliott, S. Frank, K. Sima'an, L. Specia: Multi30K: Multilingual English-German Image
Descriptions. Workshop on Vision and Language, 2016. https://arxiv.org/abs/1605.00459
"""

import gzip
import sys
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parents[1]))  # a script sees its own folder, not the project's

from kqv.errors import run_script
from kqv.files import replacing
from kqv.options.command_line import read_arguments
from kqv.text.downloads import Collection, absent, get_files, refuse_words

HASHES = {
    "train.de.gz": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
    "train.en.gz": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
    "val.de.gz": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
    "val.en.gz": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
    "test_2016_flickr.de.gz": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
    "test_2016_flickr.en.gz": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
}
DATASET = Collection(
    name="Multi30K (captions of photographs)",
    repository="multi30k/dataset",
    commit="a3d2e0d26b56f3846f66a952536ffed4e401d05a",
    licence="CC BY-NC-SA 4.0, for research and education",
    size="1.3 MB",
    hashes={f"data/task1/raw/{name}": digest for name, digest in HASHES.items()},
)
LANGUAGES = ("de", "en")
# What this script writes: the name that Multi30K has for it, and its SHA-256.
WRITTEN = {
    "train.tsv": ("train", "b927d186b6172e8fcad5ecae3bf63b475e6c5f2bf4017d22ddc77861b0d8b8dc"),
    "dev.tsv": ("val", "c363965c88c872f2561f9fd5aa7fa0e6259602fdeae7db9d4066b2b6cf57ed50"),
    "test.tsv": (
        "test_2016_flickr",
        "d4c4dccd46c976a7375ba8683d91b387019b2e8ff1d3dbb11778ed631fa164e0",
    ),
}


@dataclass
class PrepareSettings:
    """Write train.tsv, dev.tsv and test.tsv beside this script."""

    input: str = ""
    """a clone of multi30k/dataset, or a folder with its raw .gz files, instead of the download"""


def main(arguments: list[str]) -> None:
    """Get the files and write those pairs that are not there yet."""
    given, words = read_arguments(PrepareSettings, arguments)
    refuse_words(words)
    missing = absent(FOLDER, {name: digest for name, (_, digest) in WRITTEN.items()})
    originals = [f"{WRITTEN[name][0]}.{language}.gz" for name in missing for language in LANGUAGES]
    files = dict(get_files(DATASET, given.get("input", ""), originals))
    for name in missing:
        german, english = (files[f"{WRITTEN[name][0]}.{language}.gz"] for language in LANGUAGES)
        with replacing(FOLDER / name) as file:
            file.write(pairs(german, english))
    print(f"{FOLDER}: German and English sentences in {', '.join(WRITTEN)}")


def pairs(german: bytes, english: bytes) -> bytes:
    """The lines of two .gz files as lines of one .tsv file; a tab within a line becomes a space."""
    sides = [gzip.decompress(file).replace(b"\t", b" ").splitlines() for file in (german, english)]
    return b"".join(b"%s\t%s\n" % pair for pair in zip(*sides, strict=True))


if __name__ == "__main__":
    run_script(main)
