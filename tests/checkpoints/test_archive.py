"""Files that torch.save wrote, or that look so: those of all versions are read, and a file that
claims more than it holds is refused before it takes the memory."""

import hashlib
import io
import pickle
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoints import same, seal

from kqv.checkpoints.loading import load_checkpoint
from kqv.checkpoints.single import SEAL, save_checkpoint
from kqv.project import ROOT as PROJECT

Records = dict[str, bytes]
WEIGHT = torch.arange(6.0).reshape(2, 3)
NONE = b"\x80\x02N."  # None as a pickle
SEAL_SIZE = len(SEAL) + hashlib.sha256().digest_size
NOTES = ("version", "byteorder", ".data/serialization_id", ".format_version", ".storage_alignment")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_checkpoint(
        tmp_path / "ckpt.pt", {"model": {"weight": WEIGHT, "tied": WEIGHT}, "iter_num": 3}
    )
    return tmp_path / "ckpt.pt"


def records_of(path: Path) -> Records:
    """The records of a checkpoint, by name in the archive's folder."""
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def write(path: Path, records: Records | list[tuple[str, bytes]], folder: str = "ckpt/") -> None:
    """Make a checkpoint of these records, and seal it."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records.items() if isinstance(records, dict) else records:
            archive.writestr(folder + name, data)
    seal(path)


@pytest.mark.parametrize(
    "notes", [NOTES[:1], NOTES[:3], NOTES], ids=["2.0", "2.1", "2.7 and later"]
)
def test_what_each_version_of_torch_writes_is_read(notes: tuple[str, ...], path: Path) -> None:
    before = load_checkpoint(path)
    records = records_of(path)
    assert set(NOTES) < set(records)
    left_out = set(NOTES) - set(notes)
    write(path, {name: data for name, data in records.items() if name not in left_out}, "archive/")
    assert same(load_checkpoint(path), before)


def test_what_torch_saves_is_read_as_torch_reads_it(path: Path) -> None:
    model = torch.nn.Linear(3, 2)  # its state_dict is an OrderedDict with notes
    state = {
        "model": model.state_dict(),
        "slice": torch.arange(12).reshape(3, 4)[1:, ::2],
        "transposed": WEIGHT.T,
        "none": torch.empty(0, 3),
        "one": torch.tensor(2.5, dtype=torch.float64),
        "halves": [
            torch.ones(3, dtype=kind) for kind in (torch.float16, torch.bfloat16, torch.bool)
        ],
        "numbers": (1, 2**70, -(2**70), 0.5, True, None, "é\n", "\ud800", [], {}),
    }
    save_checkpoint(path, state)
    theirs = torch.load(path, weights_only=True)
    ours = load_checkpoint(path)
    assert type(ours["model"]) is dict
    assert same(ours, {**theirs, "model": dict(theirs["model"])})
    assert ours["transposed"].stride() == (1, 3)


def test_tied_weights_stay_tied(path: Path) -> None:
    model = load_checkpoint(path)["model"]
    assert model["weight"].data_ptr() == model["tied"].data_ptr()


def test_numbers_in_the_other_byte_order_are_swapped(path: Path) -> None:
    other = b"big" if sys.byteorder == "little" else b"little"
    numbers = WEIGHT.numpy().byteswap().tobytes()
    write(path, records_of(path) | {"byteorder": other, "data/0": numbers})
    assert torch.equal(load_checkpoint(path)["model"]["weight"], WEIGHT)


# --- more or less than one archive of torch.save ----------------------------------------------


def renamed(records: Records, old: str, new: str) -> Records:
    return {new if name == old else name: data for name, data in records.items()}


def overlapping(path: Path) -> None:
    """The table of contents names one place twice."""
    data = bytearray(path.read_bytes())
    first, second = (data.index(b"PK\1\2", place) for place in (0, data.index(b"PK\1\2") + 4))
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    path.write_bytes(data)


def other_name_inside(path: Path) -> None:
    """The table of contents and the place itself disagree about the name."""
    path.write_bytes(path.read_bytes().replace(b"data.pkl", b"data.xyz", 1))


def preceded_by(data: bytes) -> Callable[[Path], None]:
    """Put bytes before the archive."""

    def change(path: Path) -> None:
        path.write_bytes(data + path.read_bytes())

    return change


def with_record(name: str, data: bytes) -> Callable[[Path], None]:
    """Add a record, or replace the one of this name."""
    return lambda path: write(path, records_of(path) | {name: data})


def with_renamed(old: str, new: str) -> Callable[[Path], None]:
    return lambda path: write(path, renamed(records_of(path), old, new))


def without_folder(path: Path) -> None:
    write(path, records_of(path), "")


def with_two_folders(path: Path) -> None:
    write(path, [*records_of(path).items(), ("x/data.pkl", NONE)], "a/")


STRUCTURES: dict[str, Callable[[Path], None]] = {
    "in capitals": with_renamed("data.pkl", "data.PKL"),
    "twice in other letters": with_record("DATA.pkl", NONE),
    "no data": lambda path: write(path, {"version": b"3\n"}),
    "no folder": without_folder,
    "two folders": with_two_folders,
    "code beside it": with_record("constants.pkl", b""),
    "letters for a number": with_record("data/a", b"1234"),
    "something before it": preceded_by(b"hello"),
    "a pickle before it": preceded_by(NONE),
    "another before it": preceded_by(b"PK\3\4"),
    "overlapping": overlapping,
    "another name inside": other_name_inside,
    "a longer storage": with_record("data/0", bytes(28)),
    "a shorter storage": with_record("data/0", bytes(20)),
    "a missing storage": with_renamed("data/0", "data/1"),
}


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_file_that_is_more_or_less_than_one_checkpoint_is_refused(
    structure: str, path: Path, refused: Callable
) -> None:
    path.write_bytes(path.read_bytes())
    STRUCTURES[structure](path)
    for _ in range(2):  # with an outdated seal or none, and with its own
        with refused(str(path), "use another copy or train again"):
            load_checkpoint(path)
        seal(path)


def test_one_record_twice_is_refused(path: Path, refused: Callable) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        write(path, [*records_of(path).items(), ("data.pkl", NONE)])
    with refused(str(path), "another copy"):
        load_checkpoint(path)


# --- bombs: a few bytes that would take gigabytes or minutes ----------------------------------


def huge_array(of: bytes = b"") -> bytes:
    """{"format": bytearray(4,000,000,000)}, or of a class that takes one."""
    array = b"cbuiltins\nbytearray\n\x8a\x05" + (4 * 10**9).to_bytes(5, "little") + b"\x85R"
    return b"\x80\x02}X\x06\0\0\0format" + (of + array + b"\x85R" if of else array) + b"s."


def legacy(content: bytes) -> bytes:
    """In the format of torch before 1.6."""
    heads = (torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {})
    return b"".join(pickle.dumps(head, 2) for head in heads) + content


def copies(times: int) -> bytes:
    """A dictionary of many keys, and as many OrderedDicts made of it: each takes four bytes."""
    keys = b"".join(b"M" + i.to_bytes(2, "little") + b"N" for i in range(times))
    copy = b"h\x01h\x02Ra"
    return (
        b"\x80\x02](}q\0("
        + keys
        + b"uccollections\nOrderedDict\nq\x01h\0\x85q\x02e"
        + copy * times
        + b"."
    )


def claim(records: Records) -> Records:
    """A tensor of 4 TB in a storage of 24 bytes."""
    larger = records["data.pkl"].replace(b"K\x06", b"\x8a\x06" + (10**12).to_bytes(6, "little"))
    assert larger != records["data.pkl"]
    return records | {"data.pkl": larger}


# These reach the limits of one pickle, which do not depend on a seal: 200,000 nested tuples end a
# process that hashes them, and two million objects are more than a pickle may make.
SLOW = {
    "keys within keys": b"\x80\x02})" + b"\x85" * 200_000 + b"K\x01s.",
    "objects": b"\x80\x02" + b"]" * (1 << 21) + b".",
}
UNPACKED = 1 << 28  # bytes of zeros in a compressed record
MAX_TAKEN = 200_000  # kilobytes: less than UNPACKED


def make_bombs(folder: Path, good: Path) -> list[Path]:
    """Hostile files, sealed and, as nanoGPT's are, without a seal."""
    records, whole = records_of(good), good.read_bytes()
    pickles = SLOW | {
        "a bytearray": huge_array(),
        "a Size": huge_array(b"ctorch\nSize\n"),
        "a Counter": huge_array(b"ccollections\nCounter\n"),
        "copies": copies(60_000),
        "strides": records["data.pkl"].replace(b"K\x03K\x01", b"K\xffK\xff"),
        "a place far away": records["data.pkl"].replace(b"K\0K\x02", b"M\xff\xffK\x02"),
    }
    bombs = {name: folder / f"{name}.pt" for name in pickles}
    for name, content in pickles.items():
        assert content != records["data.pkl"]
        write(bombs[name], records | {"data.pkl": content})
    for name in ("in capitals", "legacy", "a claim", "packed"):
        bombs[name] = folder / f"{name}.pt"
    capitals = renamed(records, "data.pkl", "data.PKL") | {"data.PKL": huge_array()}
    write(bombs["in capitals"], capitals)
    bombs["legacy"].write_bytes(legacy(huge_array(b"ctorch\nSize\n")) + whole)
    write(bombs["a claim"], claim(records))
    with zipfile.ZipFile(bombs["packed"], "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in (records | {"data/0": bytes(UNPACKED)}).items():
            archive.writestr(f"ckpt/{name}", data)
    seal(bombs["packed"])
    unsealed = []
    for name, bomb in bombs.items():
        if name not in SLOW:
            unsealed.append(bomb.with_suffix(".nanogpt.pt"))
            unsealed[-1].write_bytes(bomb.read_bytes()[:-SEAL_SIZE])
    return [*bombs.values(), *unsealed]


MEASURED = """
import resource, sys, time
from pathlib import Path
from kqv.checkpoints.loading import load_checkpoint
from kqv.errors import UserError

def peak():  # in kilobytes; Linux's ru_maxrss begins with that of the process that started this one
    if Path("/proc/self/status").exists():
        lines = open("/proc/self/status").read().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    unit = 1024 if sys.platform == "darwin" else 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit

before = peak()
for path in map(Path, sys.argv[2:]):
    began = time.process_time()
    try:
        load_checkpoint(path)
    except UserError as error:
        print(error)
    taken = time.process_time() - began
    assert taken < 20, f"{path} took {taken} seconds"
    assert peak() - before < int(sys.argv[1]), f"{path} took {peak() - before} kilobytes"
"""


@pytest.mark.slow
def test_no_checkpoint_takes_more_memory_or_time_than_it_holds(path: Path, tmp_path: Path) -> None:
    """In a process of its own, whose memory tells."""
    (tmp_path / "bombs").mkdir()
    bombs = list(map(str, make_bombs(tmp_path / "bombs", path)))
    command = [sys.executable, "-c", MEASURED, str(MAX_TAKEN), *bombs]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, timeout=500)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(bombs), done.stdout
    assert all(line.startswith(f"{bomb} ") for line, bomb in zip(lines, bombs, strict=True))


def test_a_checkpoint_as_large_as_a_real_one_is_read(tmp_path: Path) -> None:
    """Of 3,000 tensors, with as many moments, and a vocabulary of a megabyte."""
    weights = {f"blocks.{i}.weight": torch.full((2, 2), float(i)) for i in range(3000)}
    moments = {i: {"step": torch.tensor(1.0), "exp_avg": torch.ones(2, 2)} for i in range(3000)}
    state = {
        "model": weights,
        "optimizer": [{"state": moments}],
        "tokenizer": {"tokens": "é" * 10**6},
    }
    save_checkpoint(tmp_path / "ckpt.pt", state)
    assert same(load_checkpoint(tmp_path / "ckpt.pt"), {"format": "kqv 1", **state})


def test_code_is_distinguished_from_damage(path: Path, refused: Callable) -> None:
    write(path, records_of(path) | {"data.pkl": pickle.dumps({"model": time.sleep}, 2)})
    with refused(str(path), "could run code", "nothing in it was run"):
        load_checkpoint(path)


def test_a_lack_of_memory_is_not_called_damage(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(MemoryError):
        load_checkpoint(path)


def test_a_zip_of_something_else_is_refused(path: Path, refused: Callable) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("letter.txt", "dear reader")
    path.write_bytes(content.getvalue())
    with refused(str(path), "no checkpoint of kqv or nanoGPT"):
        load_checkpoint(path)
