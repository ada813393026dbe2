"""Sizes in bytes: on disk, and for people."""

from pathlib import Path


def size_on_disk(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())
    return path.lstat().st_size


def format_bytes(size: int) -> str:
    """A number of bytes for people.

    >>> format_bytes(7_512_345), format_bytes(3_210_000_000)
    ('7.5 MB', '3.21 GB')
    """
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
