"""One process at a time trains a run; a second one is told who holds it.

The lock is the system's, on a file of the run's directory: when its process ends, in
whatever way, it is free. Who only reads a run needs none.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from ..files import read_file
from ..language.errors import CellwrightError

LOCK = ".lock"
HOLDER = ".lock.json"  # who holds it; without meaning while the lock is free


class LockedError(CellwrightError):
    """Another process is at work in a directory."""


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a directory.

    Raises:
        LockedError: another process, or this one, holds it.
        OSError: the directory cannot be written.
    """
    lock, holder = FileLock(directory / LOCK), directory / HOLDER
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise LockedError(
            f"[{directory}] {_describe(holder)} is training this run; nothing was "
            "changed. Wait for it, or stop it and use --resume"
        ) from None
    try:
        content = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        holder.unlink(missing_ok=True)  # never write through a link
        holder.write_text(json.dumps(content) + "\n", encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def holder_of(directory: Path) -> str | None:
    """Who holds a directory now; None where nobody does."""
    if not (directory / LOCK).exists():
        return None
    try:
        with FileLock(directory / LOCK).acquire(timeout=0):
            return None
    except Timeout:
        return _describe(directory / HOLDER)


def _describe(holder: Path) -> str:
    try:
        found = json.loads(read_file(holder, holder.parent))
        return f"process {found['pid']} on {found['host']}, since {found['since']},"
    except (OSError, ValueError, KeyError, TypeError):  # not written yet
        return "another process"
