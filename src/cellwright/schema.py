"""What comes from outside, held to annotated dataclasses by pydantic.

A dataclass says the type and the range of each field, once, where it is declared:

    hidden: Annotated[int, Field(ge=1, le=65_536)] = 256

`check` holds the options of a command to it, and `check_file` the content of a JSON
file. Nothing is converted on the way: "3" and true are no numbers, and NaN is none
that is finite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json

from .language.errors import ArgumentError, CellwrightError, did_you_mean

#: The `__pydantic_config__` of the dataclasses that are checked.
STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

T = TypeVar("T")

_WORDS = {  # pydantic's, and this project's
    "Input should be ": "expected ",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "greater than": "more than",
    "Input is ": "expected what is not ",
}
_SHOWN = 60  # characters of what was received


def check(kind: type[T], content: Any) -> T:
    """The options of a command as a `kind`.

    Raises:
        ArgumentError: one has another type, or is out of its range.
    """
    return _check(kind, content, "", ArgumentError)


def check_file(
    kind: type[T], content: Any, path: Path, error: type[CellwrightError]
) -> T:
    """The content of a JSON file as a `kind`: every field must be there.

    Raises:
        error: what is wrong, with the file and the field.
    """
    missing = _missing(kind, content)
    if missing:
        raise error(f"[{path}, {missing}] is missing")
    return _check(kind, content, str(path), error)


def parse_json(data: bytes, path: Path, error: type[CellwrightError]) -> Any:
    """JSON as plain data; too deep, or no UTF-8, it is an error as well.

    Raises:
        error: it is no JSON.
    """
    try:
        return from_json(data)
    except ValueError as problem:
        raise error(
            f"[{path}] cannot be read: no JSON, or cut short: {problem}"
        ) from None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _check(kind: type[T], content: Any, where: str, error: type[CellwrightError]) -> T:
    try:
        # By way of JSON: what holds here is what a file can give back.
        return _adapter(kind).validate_json(to_json(content, inf_nan_mode="constants"))
    except PydanticSerializationError as problem:
        label = f"[{where}] " if where else ""
        raise error(f"{label}no text that UTF-8 can write: {problem}") from None
    except ValidationError as problem:
        raise error(_sentence(problem, content, where, kind)) from None


def _missing(kind: Any, content: Any, path: str = "") -> str | None:
    """The first field of a dataclass, or of one within, that JSON does not have."""
    if not isinstance(content, dict):
        return None  # which is another error
    hints = get_type_hints(kind)
    for field in fields(kind):
        name = f"{path}{field.name}"
        if field.name not in content:
            return name
        if is_dataclass(hints[field.name]):
            within = _missing(hints[field.name], content[field.name], f"{name}.")
            if within:
                return within
    return None


def _sentence(problem: ValidationError, content: Any, where: str, kind: Any) -> str:
    """The error that lies deepest: of a union's, the one of the branch that fits."""
    found = problem.errors(include_url=False)
    places = [_place(error["loc"], content) for error in found]
    place, error = max(zip(places, found, strict=True), key=lambda both: len(both[0]))
    said = _said(error, place, kind)
    if said.startswith("["):  # a rule of our own, which names the field itself
        own, _, said = said[1:].partition("] ")
        if isinstance(error["input"], dict) and own not in place:
            place = [*place, own]
    label = ", ".join(filter(None, [where, ".".join(map(str, place))]))
    return f"[{label}] {said}" if label else said


def _place(loc: Sequence[int | str], content: Any) -> list[int | str]:
    """Where in the content: without the names that pydantic gives to types."""
    place = []
    for key in loc:
        if isinstance(content, dict) and key in content:
            content = content[key]
        elif isinstance(content, list) and isinstance(key, int):
            content = content[key] if key < len(content) else None
        else:
            continue
        place.append(key)
    return place


def _said(error: Any, place: list[int | str], kind: Any) -> str:
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    if error["type"] == "missing":
        return f"{error['loc'][-1]} is missing"
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = [field.name for field in fields(kind)] if len(place) == 1 else []
        hint = f". {did_you_mean(str(place[-1]), known)}" if known else ""
        return f"is no field that cellwright writes{hint}"
    received, expected = repr(error["input"]), error["msg"]
    if len(received) > _SHOWN:
        received = f"{received[:_SHOWN]}…"
    for words, ours in _WORDS.items():
        expected = expected.replace(words, ours)
    return f"received {received}, {expected}"
