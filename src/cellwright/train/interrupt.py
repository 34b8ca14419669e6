"""Ctrl+C as a flag that the loop looks at after each step.

Python raises KeyboardInterrupt wherever it happens to be, and drops it where nobody can
catch it: in a finaliser, or in a callback from C. A flag is never dropped, and a step
that is finished can be kept.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

R = TypeVar("R")

STATUS = 130  # of a process that Ctrl+C ended, as shells have it
GRACE = 0.8  # seconds from Ctrl+C to the end of a process that does not end itself


class Interrupt:
    """While it is entered, the first SIGINT sets `asked`; a second one raises at once.

    Leaving raises KeyboardInterrupt if it was asked for and nobody raised meanwhile.
    It does nothing on threads other than the main one, which receive no signals, and in
    a program that handles or ignores SIGINT itself.

    Attributes:
        asked: whether to stop.
        entered: whether any `Interrupt` is entered in this process.
    """

    asked = False
    entered = False

    def __enter__(self) -> Interrupt:
        self._installed = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )
        if self._installed:
            signal.signal(signal.SIGINT, self._handle)
            Interrupt.entered = True
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            Interrupt.entered = False
        if self.asked and kind is None:
            raise KeyboardInterrupt

    def _handle(self, *signal: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


_abandoned = threading.Event()


def interruptible(work: Callable[..., R], *arguments: Any) -> R:
    """Call `work` in a thread of its own, while this one receives Ctrl+C.

    For foreign code that runs for long and never looks for signals. Where Ctrl+C comes,
    KeyboardInterrupt is raised here and the thread is left to itself; `leave` then ends
    the process without waiting for it.
    """
    outcome: Future[R] = Future()

    def run() -> None:
        try:
            outcome.set_result(work(*arguments))
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return outcome.result()
    except KeyboardInterrupt:
        _abandoned.set()
        raise


def end_on_interrupt() -> None:
    """From now on Ctrl+C ends this process, even where KeyboardInterrupt does not.

    Foreign code may not return to Python for long, a server may wait for an answer that
    is being computed, and an exception raised in a finaliser is dropped. Only
    `Interrupt` may take longer. Call it on the main thread.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

    def wait() -> None:
        while signal.SIGINT not in reader.recv(64):
            pass
        grace = time.monotonic() + GRACE
        while Interrupt.entered or time.monotonic() < grace:
            if Interrupt.entered:  # again, it may be: the time begins when it is left
                grace = time.monotonic() + GRACE
            time.sleep(0.05)
        writer.close()
        os._exit(STATUS)

    threading.Thread(target=wait, daemon=True).start()


def leave(status: int) -> None:
    """End the process; at once, if a thread was left to itself."""
    if _abandoned.is_set():
        os._exit(status)
    raise SystemExit(status)
