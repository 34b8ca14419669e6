"""Answers that are computed once, whoever asks, and from however many threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import wraps
from threading import Lock
from typing import Any, Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Keeper:
    """Holds the answers of its `@kept` methods."""

    def __init__(self) -> None:
        self._answers: dict[tuple[Any, ...], Future[Any]] = {}
        self._lock = Lock()


S = TypeVar("S", bound=Keeper)


def kept(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Keep a method's answers by its arguments; who asks meanwhile waits for them.

    An error is kept for nobody: the next one who asks computes anew.
    """

    @wraps(method)
    def answer(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        key = (method.__name__, args, tuple(sorted(kwargs.items())))
        mine: Future[R] = Future()
        with self._lock:
            found = self._answers.setdefault(key, mine)
        if found is not mine:
            return found.result()
        try:
            mine.set_result(method(self, *args, **kwargs))
        except BaseException as error:
            del self._answers[key]
            mine.set_exception(error)
        return mine.result()

    return answer
