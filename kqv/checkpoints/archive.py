"""Read files that torch.save wrote without running code, in no more memory than they hold.

Such a file is a zip archive of uncompressed records:

    NAME/data.pkl            the data as a pickle, in which a tensor is a part of a storage
    NAME/data/0, 1, ...      the storages: numbers as they lie in memory
    NAME/version, ...        notes, by the version of torch

torch.load runs no code unless told to, but it trusts the file: it accepts other formats than this
one, finds records by names in another case, and allocates arrays of any claimed size. Here one
reader checks and reads, so that what was checked cannot be read in another way.
"""

import math
import re
import struct
import sys
import zipfile
import zlib
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from kqv.errors import UserError
from kqv.pickles import MAX_STEPS, read_pickle

if torch.__version__ < "2.10":
    raise UserError(
        f"torch {torch.__version__} trusts the sizes that a checkpoint claims (CVE-2026-24747): "
        f"pip install -r requirements.txt"
    )

# What torch 1.6 to 2.13 write. Notes whose name begins with a dot are ignored.
_RECORD = re.compile(r"[^/]+/(data\.pkl|data/[0-9]+|version|byteorder|\.[a-z_/]+)")
# Before each record: a signature, and the lengths of its name and of what follows that.
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_SIGNATURE = b"PK\3\4"
STEPS_PER_TENSOR = 100  # of the pickle; torch takes about 35
MAX_PICKLE = 1 << 26  # bytes, most of them a vocabulary
MAX_DIMENSIONS = 8

_DTYPES = {
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Double": torch.float64,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
}


class _Record(NamedTuple):
    """Where a record's content is in the file, and its CRC-32."""

    start: int
    size: int
    crc: int


class _Storage(NamedTuple):
    """The numbers of one or more tensors."""

    content: torch.UntypedStorage
    dtype: torch.dtype
    length: int


def read_archive(file: BinaryIO, verified: bool) -> Any:
    """The data and tensors in a file that torch.save wrote, on the CPU.

    `verified` says that the file is known to be intact; else the CRC of each record is checked.

    Raises pickle.UnpicklingError for a file that names code, MemoryError, and any other error for a
    file of another kind.
    """
    archive = _Archive(file, verified)
    if archive.records["data.pkl"].size > MAX_PICKLE:
        raise ValueError("its data.pkl is too large")
    known: dict[str, Any] = {f"torch {name}Storage": dtype for name, dtype in _DTYPES.items()}
    known["collections OrderedDict"] = _empty_dict
    known["torch._utils _rebuild_tensor_v2"] = _rebuild_tensor
    max_steps = MAX_STEPS + STEPS_PER_TENSOR * len(archive.records)
    data = archive.read("data.pkl").numpy().tobytes()
    return read_pickle(data, known, archive.storage, max_steps)


class _Archive:
    """The records of an open file, and the storages that were read from it so far."""

    def __init__(self, file: BinaryIO, verified: bool) -> None:
        self.file, self.verified = file, verified
        self.records = _records(file)
        self.storages: dict[str, torch.UntypedStorage] = {}
        order: str = sys.byteorder
        if "byteorder" in self.records:
            order = bytes(self.read("byteorder").tolist()).decode()
        self.swap_bytes = order != sys.byteorder

    def read(self, name: str) -> Tensor:
        """The bytes of a record, uint8. Raises ValueError if they do not have its size or CRC."""
        record = self.records[name]
        try:
            content = torch.empty(record.size, dtype=torch.uint8)
        except RuntimeError:  # torch has no MemoryError
            raise MemoryError from None
        view: Any = content.numpy()
        self.file.seek(record.start)
        complete = self.file.readinto(view) == record.size  # type: ignore[attr-defined]
        if not complete or not (self.verified or zlib.crc32(view) == record.crc):
            raise ValueError(f"{name} is damaged")
        return content

    def storage(self, identity: Any) -> _Storage:
        """The storage that a persistent id of the pickle names, read once.

        Raises ValueError if it claims another size than its record has.
        """
        kind, dtype, key, _, length = identity
        if kind != "storage" or not isinstance(dtype, torch.dtype) or type(length) is not int:
            raise ValueError("a persistent id is not that of a storage")
        if not isinstance(key, str):
            raise ValueError("a storage has no name")
        name = f"data/{key}"
        if length * dtype.itemsize != self.records[name].size:
            raise ValueError("a storage has another size than it claims")
        if key not in self.storages:
            self.storages[key] = self.read(name).untyped_storage()
            if self.swap_bytes:
                self.storages[key].byteswap(dtype)
        return _Storage(self.storages[key], dtype, length)


def _records(file: BinaryIO) -> dict[str, _Record]:
    """The records of an archive, by their names inside its folder.

    Raises an error if the file is more or less than one archive of torch.save: the first record
    starts at byte 0, records do not overlap, each has a known name, is uncompressed, and is in the
    table of contents once, under the name that it has in its place.
    """
    with zipfile.ZipFile(file) as archive:
        entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
        ends = [*(entry.header_offset for entry in entries[1:]), archive.start_dir]
    found = {}
    for entry, end in zip(entries, ends, strict=True):
        file.seek(entry.header_offset)
        header = file.read(_LOCAL_HEADER.size)
        signature, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        name = file.read(name_length)
        start = entry.header_offset + len(header) + name_length + extra_length
        known = _RECORD.fullmatch(entry.filename)
        names = (entry.filename.encode(encoding, "replace") for encoding in ("utf-8", "cp437"))
        if not known or signature != _SIGNATURE or name not in names:
            raise ValueError(f"its record {entry.filename[:50]!r} is none of torch's")
        if entry.compress_type != zipfile.ZIP_STORED or start + entry.file_size > end:
            raise ValueError(f"its record {entry.filename[:50]!r} is smaller than it claims")
        found[known[1]] = _Record(start, entry.file_size, entry.CRC)
    folders = {entry.filename.partition("/")[0] for entry in entries}
    if len(found) != len(entries) or len(folders) != 1 or entries[0].header_offset:
        raise ValueError("it is more than one archive")
    return found


def _empty_dict() -> dict[Any, Any]:
    """Replaces OrderedDict: every dictionary keeps its order."""
    return {}


def _rebuild_tensor(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any
) -> Tensor:
    """A tensor in a storage, as torch._utils._rebuild_tensor_v2 makes it, without a gradient.

    Raises ValueError if it would reach beyond its storage.
    """
    numbers = (offset, *size, *stride)
    valid = all(type(number) is int and number >= 0 for number in numbers)
    if not isinstance(storage, _Storage) or not valid:
        raise ValueError("a tensor needs a storage and sizes")
    if len(size) != len(stride) or len(size) > MAX_DIMENSIONS:
        raise ValueError("a tensor needs a stride for each of at most 8 dimensions")
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    count = math.prod(size)
    if count > storage.length or (count and last >= storage.length):
        raise ValueError("a tensor would reach beyond its storage")
    return torch.empty(0, dtype=storage.dtype).set_(storage.content, offset, size, stride)
