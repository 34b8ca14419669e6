"""Methods whose results are computed once, however many threads call them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import wraps
from threading import Lock
from typing import Any, Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Memo:
    """Holds the results of its `@memoize` methods."""

    def __init__(self) -> None:
        self._results: dict[tuple[Any, ...], Future[Any]] = {}
        self._lock = Lock()


S = TypeVar("S", bound=Memo)


def memoize(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Cache a method's results by its arguments; a second caller waits for the first.

    Errors are not cached: the next call computes again.
    """

    @wraps(method)
    def cached(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        key = (method.__name__, args, tuple(sorted(kwargs.items())))
        new: Future[R] = Future()
        with self._lock:
            found = self._results.setdefault(key, new)
        if found is not new:
            return found.result()
        try:
            new.set_result(method(self, *args, **kwargs))
        except BaseException as error:
            del self._results[key]
            new.set_exception(error)
        return new.result()

    return cached
