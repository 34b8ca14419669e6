"""Names, numbers and tables as C has them."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from ...language import ArgumentError

_KEYWORDS = re.findall(
    r"\w+",
    """
alignas alignof and and_eq asm auto bitand bitor bool break case catch char class compl
concept const constexpr continue decltype default delete do double else enum explicit
export extern false float for friend goto if inline int long mutable namespace new
noexcept not not_eq nullptr operator or or_eq private protected public register restrict
return short signed sizeof static struct switch template this throw true try typedef
typeid typename union unsigned using virtual void volatile wchar_t while xor xor_eq
""",
)
_OURS = "j", "one", "s", "y", "token", "state", "logits"  # what our C text declares


def identifier(name: str) -> str:
    """A name of a cell as a C identifier of its own."""
    plain = "".join(map(_letter, name))
    taken = plain in _KEYWORDS or plain in _OURS or re.fullmatch(r"y_\d+", plain)
    return f"{plain}_" if taken else plain


def _letter(letter: str) -> str:
    if letter.isascii():
        return letter if letter.isalnum() else "_"
    return unicodedata.name(letter, f"u{ord(letter):x}").split()[-1].lower()


def check_apart(what: str, names: Iterable[str]) -> None:
    """Raise ArgumentError where C has one word, or one macro, for two names."""
    known: dict[str, str] = {}
    for name in names:
        word = identifier(name).upper()
        other = known.setdefault(word, name)
        if other != name:
            raise ArgumentError(
                f"[export_c] C has one word for two {what}; received {other!r} and "
                f"{name!r}, which are both {word}, expected names that differ in "
                "letters of ASCII. Rename one in the cell"
            )


def check_name(name: str) -> None:
    """Raise ArgumentError unless the C file can be called that."""
    fits = re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name)
    if not fits or name in _KEYWORDS:
        raise ArgumentError(
            f"[export_c] name= is the prefix of every name in C; received {name!r}, "
            "expected letters, digits and _, a letter first, and no keyword of C"
        )


def literal(value: float) -> str:
    """A number as a float of C."""
    value = float(np.float32(value))
    if not math.isfinite(value):
        bits = 0x7FC00000 if math.isnan(value) else 0x7F800000
        return f"@_float({bits + (0x80000000 if value < 0 else 0):#x}u)"
    text = f"{value:.9g}"
    text = text if any(sign in text for sign in ".e") else f"{text}.0"
    return f"({text}f)" if text.startswith("-") else f"{text}f"


# When a product is made.
STEP, STEP_ITEM, ATTEND_ITEM = "a step", "a step for each item", "attend for each item"


class Tables:
    """The constant arrays of a C file.

    Args:
        int8: matrices are in 8 bits.

    Attributes:
        bytes: of all of them.
        products: multiply-adds of the matrices, by when they are made: STEP, ….
    """

    def __init__(self, int8: bool = False) -> None:
        self.int8 = int8
        self._texts: dict[str, str] = {}
        self._known: dict[tuple[str, bytes], str] = {}  # one used twice is written once
        self.bytes, self.products = 0, Counter[str]()

    def add(self, name: str, values: np.ndarray, product: str = "") -> str:
        """Write an array; its name in C.

        Args:
            product: of a matrix: when its product is made.
        """
        flat = values.ravel()
        if product:
            self.products[product] += flat.size
        content = _content(flat)
        if content in self._known:
            return self._known[content]
        name = f"@_{name}"
        while name in self._texts:
            name += "_"
        self._known[content] = name
        kind = "int8_t" if flat.dtype == np.int8 else "float"
        self.bytes += flat.nbytes
        self._texts[name] = array(f"static const {kind} {name}", flat)
        return name

    def find(self, values: np.ndarray) -> str | None:
        """The array of these values, where one is written."""
        return self._known.get(_content(values.ravel()))

    def __str__(self) -> str:
        return "".join(self._texts.values())


def _content(values: np.ndarray) -> tuple[str, bytes]:
    return values.dtype.str, values.tobytes()


def array(declaration: str, values: Any) -> str:
    """`declaration[n] = {…};`: floats, or whole numbers."""
    whole = np.asarray(values).dtype.kind in "iu"
    texts = [str(v) if whole else _bare(v) for v in np.asarray(values).tolist()]
    rows = (", ".join(texts[i : i + 8]) for i in range(0, len(texts), 8))
    body = ",\n    ".join(rows)
    return f"{declaration}[{len(texts)}] = {{\n    {body}\n}};\n"


def _bare(value: float) -> str:
    return literal(value).strip("()")
