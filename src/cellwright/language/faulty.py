"""Cells that cannot be made: one of them does not keep the others from loading."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

_deferring: ContextVar[bool] = ContextVar("deferring", default=False)


class FaultyCell:
    """Stands for a cell while its file is loaded; any use of it raises its error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getattr__(self, name: str) -> NoReturn:
        raise self.error

    def __call__(self, *arguments: Any, **named: Any) -> NoReturn:
        raise self.error


@contextmanager
def faults_deferred() -> Iterator[None]:
    """Meanwhile `@cell` gives a `FaultyCell` in place of an error."""
    token = _deferring.set(True)
    try:
        yield
    finally:
        _deferring.reset(token)


def deferring(make: Callable[[Callable[..., Any]], T]) -> Callable[..., T]:
    """A decorator that makes a cell, or defers its error where that is asked for."""

    def decorate(function: Callable[..., Any]) -> T:
        try:
            return make(function)
        except Exception as error:
            if not _deferring.get():
                raise
            return FaultyCell(error)  # type: ignore[return-value]

    return decorate
