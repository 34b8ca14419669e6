"""Ctrl+C as a wish that the loop grants after its step.

Python raises KeyboardInterrupt wherever it happens to be, and drops it where nobody can
catch it: in a finaliser, or in a callback from C. A flag is never dropped, and a step
that is finished can be kept.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class Interrupt:
    """While it is entered, the first SIGINT sets `asked`; a second one raises at once.

    Leaving raises KeyboardInterrupt if it was asked for and nobody raised meanwhile.
    Threads other than the main one hear no signals, and a program that handles SIGINT
    itself (or ignores it) goes on doing so: there it does nothing.

    Attributes:
        asked: whether to stop.
    """

    asked = False

    def __enter__(self) -> Interrupt:
        self._hears = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )
        if self._hears:
            signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._hears:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self.asked and kind is None:
            raise KeyboardInterrupt

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
