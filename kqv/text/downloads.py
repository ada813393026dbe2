"""Published files with known SHA-256, downloaded or read from a folder of the user's.

Results are only comparable if everyone trains on the same bytes, so no other bytes are accepted.
"""

import hashlib
import sys
import threading
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kqv.errors import MachineError, UserError
from kqv.files import read_small

URL_TIMEOUT = 10.0  # seconds
FILE_TIMEOUT = 120.0  # seconds, for a file of some megabytes
MAX_BYTES = 1 << 26  # of one file that the user names


@dataclass(frozen=True)
class Collection:
    """Files of one commit of a repository on GitHub."""

    name: str
    """what the files are, for people"""
    repository: str
    """OWNER/NAME"""
    commit: str
    """all 40 hexadecimal digits: a branch moves, a commit does not"""
    licence: str
    """the licence of the files"""
    size: str
    """of all files, such as 4 MB"""
    hashes: dict[str, str]
    """SHA-256 in hexadecimal, by path in the repository"""

    def address(self, path: str) -> str:
        """Where a file is downloaded from."""
        return f"https://raw.githubusercontent.com/{self.repository}/{self.commit}/{path}"


def get_files(
    collection: Collection, folder: str, names: Iterable[str]
) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each of the files that are named, which have the right SHA-256.

    They are read from `folder`, which the user named: a clone of the repository, or a folder with
    the files directly in it. If it is "", they are downloaded, which is said before.

    Raises UserError for a file that is missing or another one, and MachineError without a network.
    """
    wanted = set(names)
    paths = [path for path in collection.hashes if Path(path).name in wanted]
    if not folder and paths:
        print(
            f"downloading {len(paths)} files of {collection.name} from "
            f"https://github.com/{collection.repository} at {collection.commit[:12]}: "
            f"the whole collection has {collection.size}; licence: {collection.licence}",
            file=sys.stderr,
        )
    for path in paths:
        data = read_named(collection, Path(folder), path) if folder else fetch(collection, path)
        yield Path(path).name, data


def absent(folder: Path, hashes: Mapping[str, str]) -> list[str]:
    """Which of the files, by name, are not in a folder yet.

    Raises UserError for one that is there and is another: no file of the user's is replaced.
    """
    names = []
    for name, digest in hashes.items():
        path = folder / name
        if not path.exists():
            names.append(name)
        elif sha256(read(path)) != digest:
            raise UserError(f"{path} is not what this script writes: delete it, or move it away")
    return names


def read_named(collection: Collection, folder: Path, path: str) -> bytes:
    """A file out of a folder that the user named, at its path in the repository or directly."""
    place = folder / path if (folder / path).exists() else folder / Path(path).name
    data = read(place)
    if sha256(data) != collection.hashes[path]:
        raise UserError(
            f"{place} is not the file of https://github.com/{collection.repository} at "
            f"{collection.commit[:12]}: check out that commit, or leave out --input to download it"
        )
    return data


def read(path: Path) -> bytes:
    """The bytes of a file. Raises UserError if it cannot be read."""
    try:
        return read_small(path, MAX_BYTES)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def fetch(collection: Collection, path: str) -> bytes:
    """Download a file. Raises MachineError if it cannot be reached or is another one."""
    try:
        data = download(collection.address(path), FILE_TIMEOUT)
    except OSError as error:
        reason = str(error)
    else:
        if sha256(data) == collection.hashes[path]:
            return data
        reason = "what came has another SHA-256"
    raise MachineError(
        f"{collection.address(path)} cannot be had ({reason}): try again, or clone "
        f"https://github.com/{collection.repository} by hand, check out "
        f"{collection.commit[:12]}, and name its folder with --input=FOLDER"
    )


def download(address: str, seconds: float = URL_TIMEOUT) -> bytes:
    """What is at an address. Raises OSError if that takes longer than `seconds`.

    The time-out of `urlopen` applies to one wait for the network; it covers neither the name
    look-up nor the sum of the waits. A thread that is abandoned after `seconds` covers both.
    """
    outcome: list[bytes | Exception] = []

    def in_thread() -> None:
        try:
            with urllib.request.urlopen(address, timeout=seconds / 2) as response:
                outcome.append(response.read())
        except Exception as error:  # raised in the caller's thread below
            outcome.append(error)

    thread = threading.Thread(target=in_thread, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise OSError(f"not complete within {seconds:g} seconds")
    if isinstance(outcome[0], Exception):
        raise OSError(getattr(outcome[0], "reason", outcome[0]))
    return outcome[0]


def sha256(data: bytes) -> str:
    """The SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def refuse_words(words: list[str]) -> None:
    """Raises UserError for a word on the command line that is no option."""
    if words:
        raise UserError(
            f"{words[0]!r} is no option: a folder of files is named with --input={words[0]}"
        )
