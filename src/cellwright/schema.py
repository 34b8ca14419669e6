"""What comes from outside, held to annotated dataclasses by pydantic.

A dataclass says the type and the range of each field, once, where it is declared:

    hidden: Annotated[int, Limits(ge=1, le=65_536)] = 256

`check` holds the options of a command to it, or the content of a JSON file. Nothing is
converted on the way: "3" and true are no numbers, and NaN is none that is finite. To
declare a dataclass takes no pydantic; only to check one does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from .language.errors import ArgumentError, CellwrightError, did_you_mean

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")

_WORDS = {  # pydantic's, and this project's
    "Input should be ": "expected ",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "greater than": "more than",
    "Input is ": "expected what is not ",
}
_SHOWN = 60  # characters of what was received


class Checked:
    """The base of the dataclasses that are checked; pydantic reads the attribute."""

    __pydantic_config__: ClassVar[Any] = {
        "strict": True,
        "extra": "forbid",
        "allow_inf_nan": False,
    }


class Limits:
    """An annotation: the range of a number, the pattern or the length of a text.

    Args:
        limits: by the names of pydantic's `Field`: ge, gt, le, lt, pattern, ….
    """

    def __init__(self, **limits: Any):
        self._limits = limits

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return {**handler(source), **self._limits}


@dataclass(frozen=True)
class Rule:
    """An annotation: what a value of the right type goes through, or a ValueError."""

    rule: Callable[[Any], Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core.core_schema import no_info_after_validator_function

        return no_info_after_validator_function(self.rule, handler(source))


def check(
    kind: type[T],
    content: Any,
    where: object = "",
    error: type[CellwrightError] = ArgumentError,
) -> T:
    """The options of a command, or the content of a JSON file, as a `kind`.

    A field that has a default may be missing: an older version, which did not have it
    yet, wrote the file.

    Args:
        where: the file, for the message.

    Raises:
        error: a field has another type, or is out of its range.
    """
    from pydantic import ValidationError
    from pydantic_core import PydanticSerializationError, to_json

    try:
        # By way of JSON: what holds here is what a file can give back.
        return _adapter(kind).validate_json(to_json(content, inf_nan_mode="constants"))
    except PydanticSerializationError as problem:
        label = f"[{where}] " if where else ""
        raise error(f"{label}no text that UTF-8 can write: {problem}") from None
    except ValidationError as problem:
        raise error(_sentence(problem, content, str(where), kind)) from None


def parse_json(data: bytes, path: Path, error: type[CellwrightError]) -> Any:
    """JSON as plain data; `error` where it is none, too deep, or no UTF-8."""
    from pydantic_core import from_json

    try:
        return from_json(data)
    except ValueError as problem:
        raise error(
            f"[{path}] cannot be read: no JSON, or cut short: {problem}"
        ) from None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _sentence(problem: ValidationError, content: Any, where: str, kind: Any) -> str:
    """The error that lies deepest: of a union's, the one of the branch that fits."""
    found = problem.errors(include_url=False)
    places = [_place(error, content) for error in found]
    place, error = max(zip(places, found, strict=True), key=lambda both: len(both[0]))
    said = _said(error, place, kind)
    if said.startswith("["):  # a rule of our own, which names the field itself
        own, _, said = said[1:].partition("] ")
        if isinstance(error["input"], dict) and own not in place:
            place = [*place, own]
    label = ", ".join(filter(None, [where, ".".join(map(str, place))]))
    return f"[{label}] {said}" if label else said


def _place(error: Any, content: Any) -> list[int | str]:
    """Where in the content: without the names that pydantic gives to types."""
    loc: Sequence[int | str] = error["loc"]
    place = []
    for key in loc:
        if isinstance(content, dict) and key in content:
            content = content[key]
        elif isinstance(content, list) and isinstance(key, int):
            content = content[key] if key < len(content) else None
        else:
            continue
        place.append(key)
    return [*place, loc[-1]] if error["type"] == "missing" else place


def _said(error: Any, place: list[int | str], kind: Any) -> str:
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    if error["type"] == "missing":
        return "is missing"
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
