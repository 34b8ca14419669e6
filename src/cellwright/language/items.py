"""`Items`: the annotation of an argument that is a set of items, such as a memory."""

from __future__ import annotations
import __future__

import ast
import inspect
from collections.abc import Callable
from typing import Any

from .arguments import plain
from .graph import Size


class Items:
    """Annotates a keyword-only argument of a cell that is a set of items::

        def reader(W, x, h, *, source: Items): ...

    What is computed from `source` has one value for each item, until `attend` or
    `total` make one value of them. Its size is called `source_size`; `Items["width"]`
    gives it another name, or a number. The layer says it: `items={"source": 256}`.
    """

    def __init__(self, size: Size | None = None) -> None:
        self.size = size

    def __class_getitem__(cls, size: Any) -> Items:
        return cls(plain(size))

    def __repr__(self) -> str:
        return "Items" if self.size is None else f"Items[{self.size!r}]"


def annotation_of(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """What a parameter is annotated with: an instance of `Items`, a size, or whatever.

    Strings, as `from __future__ import annotations` makes of all of them, are read: as
    `Items`, as a literal, or else as the name of a size.
    """
    found = parameter.annotation
    if isinstance(found, str):
        found = _read(function, found)
    return Items() if found is Items else found


def _read(function: Callable[..., Any], text: str) -> Any:
    try:
        node = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError):
        return text
    match node:
        case ast.Subscript(value=value, slice=ast.Constant(value=size)):
            return Items[size] if _named(function, value) is Items else text
        case ast.Name() | ast.Attribute():
            named = _named(function, node)
            # A quoted word is the name of a size, whatever else is called so.
            quoted = not _is_source(function)
            known = named is Items or (isinstance(named, type) and not quoted)
            return named if known else text
    try:
        return ast.literal_eval(node)
    except ValueError:
        return text


def _is_source(function: Callable[..., Any]) -> bool:
    """Whether its annotations are the text of what was written."""
    flags = getattr(getattr(function, "__code__", None), "co_flags", 0)
    return bool(flags & __future__.annotations.compiler_flag)


def _named(function: Callable[..., Any], node: ast.expr) -> Any:
    """The object that an annotation names; of one that is out of reach, by its name."""
    match node:
        case ast.Name(id=name):
            known = getattr(function, "__globals__", {})
            return known.get(name, Items if name == "Items" else None)
        case ast.Attribute(value=value, attr=name):
            default = Items if name == "Items" else None
            return getattr(_named(function, value), name, default)
    return None
