"""Looking inside: checks and views of cells."""

from .widget import inspect

__all__ = ["inspect"]
