"""Reading files that anything may have happened to, and writing them whole."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

MOST = 1 << 28  # bytes of a file that is read whole, unless its size is known

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def read_file(
    path: Path, root: Path, size: int | None = None, most: float = MOST
) -> bytes:
    """The bytes of a regular file in `root`; nothing is read if it has another size.

    Args:
        root: the folder that it must lie in, wherever links lead.
        size: what it must be, in bytes; None for at most `most`.
        most: no more bytes are read.

    Raises:
        OSError: it is missing, unreadable, no regular file, a link out of `root`, or
            of another size.
    """
    check_file_at(path, root)
    # A pipe that took its place would block: never wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb") as file:
        found = _check_regular(path, os.fstat(file.fileno()), size)
        if size is None and found > most:
            raise _refused(
                path, f"is too large; received {found} bytes, at most {most}"
            )
        return file.read()


def check_file_at(path: Path, root: Path, size: int | None = None) -> int:
    """The size of a regular file in `root`, in bytes; `read_file` has the arguments.

    Raises:
        OSError: as `read_file`, but nothing is read.
    """
    found = os.stat(path)
    _check_regular(path, found)
    try:
        inside = path.resolve(strict=True).is_relative_to(root.resolve(strict=True))
    except RuntimeError:  # a link that leads to itself, before Python 3.13
        raise _refused(path, "is a link that leads to itself") from None
    if not inside:
        raise _refused(path, f"is a link out of {root}; expected a file in it")
    return _check_regular(path, found, size)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file in one step: readers see the old bytes or the new, never a mix."""
    aside = path.with_name(f".aside-{path.name}")
    try:
        write_and_sync(aside, data)
        os.replace(aside, path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_output(path: Path, data: bytes) -> None:
    """`write_atomically` to where a user points: through links, and into pipes."""
    if path.exists() and not path.is_file():
        path.write_bytes(data)
    else:
        write_atomically(Path(os.path.realpath(path)), data)


def write_and_sync(path: Path, data: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Make a rename inside `path` durable. Not every system can; POSIX ones do."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_regular(path: Path, found: os.stat_result, size: int | None = None) -> int:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise _refused(path, f"is {kind}, expected a file")
    if size is not None and found.st_size != size:
        received = f"received {found.st_size} bytes, expected {size}"
        raise _refused(path, f"was cut short, or altered; {received}")
    return found.st_size


def _refused(path: Path, why: str) -> OSError:
    return OSError(errno.EINVAL, why, str(path))
