"""Reading files of which nothing is known yet: regular ones only, and never more than was asked for."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from maac_ros.errors import MaacError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def read_regular(path: Path, limit: int, error: type[MaacError]) -> bytes:
    """The contents of a regular file.

    Args:
        path: the file.
        limit: bytes that it may have at most.
        error: what to raise.

    Raises:
        MaacError: of the given type, when there is no such file, it is another kind of file, or too large.
    """
    try:
        # Before it is opened too: to open a device may be to set it off.
        _size(path, path.stat(), limit, error)
        # What has become a FIFO since must not have its reader wait for a writer.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            size = _size(path, os.fstat(file.fileno()), limit, error)
            data = file.read(size + 1)
    except (OSError, ValueError) as reason:  # ValueError: a path with a NUL in it
        raise error(
            f"{path}: cannot be read: {getattr(reason, 'strerror', None) or reason}"
        ) from reason
    if len(data) != size:
        raise error(f"{path}: changed while it was read; it had {size} bytes")
    return data


def _size(path: Path, status: os.stat_result, limit: int, error: type[MaacError]) -> int:
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        raise error(
            f"{path}: cannot be read: it is {_KINDS.get(kind, 'special')}; expected a regular file"
        )
    if status.st_size > limit:
        raise error(f"{path}: {status.st_size} bytes; expected at most {limit}")
    return status.st_size
