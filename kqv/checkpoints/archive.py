"""The files that torch.save writes, read so that nothing in one is run and none takes more memory
than it holds.

Such a file is a zip archive of records that are not packed:

    NAME/data.pkl            the data as a pickle, in which a tensor is a piece of a storage
    NAME/data/0, 1, ...      the storages: numbers as they lie in memory
    NAME/version, ...        notes, by the version of torch

torch.load runs no code unless told to, but it believes much: it takes another format than this one,
finds records by names in other letters, and makes arrays of any claimed size. Here one reader does
it all, so that what was checked cannot be read in another way.
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

from kqv.pickles import MAX_STEPS, read_pickle

# What torch 1.6 to 2.13 write. Notes whose name begins with a dot are not read.
_RECORD = re.compile(r"[^/]+/(data\.pkl|data/[0-9]+|version|byteorder|\.[a-z_/]+)")
# Before each record: a signature, and the lengths of its name and of what follows that.
_LOCAL_HEADER = struct.Struct("<4s22xHH")
STEPS_PER_TENSOR = 100  # of the pickle; torch takes about 35
LARGEST_PICKLE = 1 << 26  # bytes, most of them a vocabulary
MOST_DIMENSIONS = 8

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
    """Where a record's content stands in the file."""

    start: int
    size: int
    checksum: int


class _Storage(NamedTuple):
    """The numbers of one or more tensors."""

    content: torch.UntypedStorage
    dtype: torch.dtype
    length: int


def read_archive(file: BinaryIO, checked: bool) -> Any:
    """The data and tensors in a file that torch.save wrote, on the CPU.

    `checked` says that the file is known to be whole; else the checksum of each record is compared.

    Raises pickle.UnpicklingError for a file that names code, MemoryError, and any other error for
    what is no such file.
    """
    records = _records(file)
    storages: dict[str, torch.UntypedStorage] = {}

    def read(name: str) -> Tensor:
        record = records[name]
        try:
            content = torch.empty(record.size, dtype=torch.uint8)
        except RuntimeError:  # torch's word for no memory
            raise MemoryError from None
        view: Any = content.numpy()
        file.seek(record.start)
        whole = file.readinto(view) == record.size  # type: ignore[attr-defined]
        if not whole or not (checked or zlib.crc32(view) == record.checksum):
            raise ValueError(f"{name} is damaged")
        return content

    def storage(identity: Any) -> _Storage:
        kind, dtype, key, _, length = identity
        if kind != "storage" or not isinstance(dtype, torch.dtype) or type(length) is not int:
            raise ValueError("only storages have an identity")
        if not isinstance(key, str) or length * dtype.itemsize != records[f"data/{key}"].size:
            raise ValueError("a storage has another size than it claims")
        if key not in storages:
            storages[key] = read(f"data/{key}").untyped_storage()
            if swapped:
                storages[key].byteswap(dtype)
        return _Storage(storages[key], dtype, length)

    order = bytes(read("byteorder").tolist()).decode() if "byteorder" in records else sys.byteorder
    swapped = order != sys.byteorder
    if records["data.pkl"].size > LARGEST_PICKLE:
        raise ValueError("its data.pkl is too large")
    known: dict[str, Any] = {f"torch {name}Storage": dtype for name, dtype in _DTYPES.items()}
    known["collections OrderedDict"] = _empty_dict
    known["torch._utils _rebuild_tensor_v2"] = _tensor
    most = MAX_STEPS + STEPS_PER_TENSOR * len(records)
    return read_pickle(read("data.pkl").numpy().tobytes(), known, storage, most)


def _records(file: BinaryIO) -> dict[str, _Record]:
    """The records of an archive by their names in its folder.

    Raises an error if the file is more or less than one archive of torch.save: the first record
    stands at the beginning, no two overlap, each has a known name, once, in the table of contents
    and in its place.
    """
    with zipfile.ZipFile(file) as archive:
        entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
        ends = [*(entry.header_offset for entry in entries[1:]), archive.start_dir]
    found = {}
    for entry, end in zip(entries, ends, strict=True):
        file.seek(entry.header_offset)
        header = file.read(_LOCAL_HEADER.size)
        signature, name_length, more_length = _LOCAL_HEADER.unpack(header)
        name = file.read(name_length)
        start = entry.header_offset + len(header) + name_length + more_length
        known = _RECORD.fullmatch(entry.filename)
        names = (entry.filename.encode(encoding, "replace") for encoding in ("utf-8", "cp437"))
        if not known or signature != b"PK\3\4" or name not in names:
            raise ValueError(f"its record {entry.filename[:50]!r} is none of torch's")
        if entry.compress_type != zipfile.ZIP_STORED or start + entry.file_size > end:
            raise ValueError(f"its record {entry.filename[:50]!r} is smaller than it claims")
        found[known[1]] = _Record(start, entry.file_size, entry.CRC)
    folders = {entry.filename.partition("/")[0] for entry in entries}
    if len(found) != len(entries) or len(folders) != 1 or entries[0].header_offset:
        raise ValueError("it is more than one archive")
    return found


def _empty_dict() -> dict[Any, Any]:
    """What stands for an OrderedDict: every dictionary keeps its order."""
    return {}


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any
) -> Tensor:
    """A tensor in a storage, as torch._utils._rebuild_tensor_v2 makes it, without a gradient.

    Raises ValueError if it would reach beyond its storage.
    """
    numbers = (offset, *size, *stride)
    whole = all(type(number) is int and number >= 0 for number in numbers)
    if not isinstance(storage, _Storage) or not whole:
        raise ValueError("a tensor needs a storage and sizes")
    if len(size) != len(stride) or len(size) > MOST_DIMENSIONS:
        raise ValueError("a tensor has a stride for each of a few dimensions")
    last = offset + sum((many - 1) * step for many, step in zip(size, stride, strict=True))
    count = math.prod(size)
    if count > storage.length or (count and last >= storage.length):
        raise ValueError("a tensor would reach beyond its storage")
    return torch.empty(0, dtype=storage.dtype).set_(storage.content, offset, size, stride)
