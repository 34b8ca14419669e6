"""The order of Keras' cells by their paths: layer by layer, forward before backward.

A mapping's own order says little: an .h5 file lists its groups alphabetically, so
backward before forward, and lstm_10 before lstm_2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ..language import ArgumentError

_DIRECTION = re.compile(r"(forward|fwd?|backward|bwd?)(?:_|$)")
_NUMBER = re.compile(r"_?(\d+)")

Path = tuple[str, ...]  # the parts between the slashes
Chain = Callable[[Sequence[str]], bool]


def in_order(paths: Sequence[str], bidirectional: bool, fits: Chain) -> list[str]:
    """The cells' paths, layer by layer, forward before backward.

    Args:
        paths: one a cell, as the user's mapping lists them.
        bidirectional: they are pairs.
        fits: whether cells in this order take one another's outputs, by their shapes.

    Raises:
        ArgumentError: the paths do not say it.
    """
    if not bidirectional:
        _refuse_pairs(paths)
        layers = {tuple(path.split("/")): (path,) for path in paths}
    else:
        layers = _pairs(paths)

    def cells(order: Sequence[Path]) -> list[str]:
        return [path for layer in order for path in layers[layer]]

    return cells(_in_order(list(layers), lambda order: fits(cells(order))))


# -- directions ------------------------------------------------------------------


def _direction(path: str) -> tuple[str, Path, Path] | None:
    """ "f" or "b"; what stands before the part that says so; that with its own name."""
    parts = path.split("/")
    for at in reversed(range(len(parts))):
        found = _DIRECTION.match(parts[at])
        if found:
            before = tuple(parts[:at])
            return found[1][0], before, (*before, parts[at][found.end() :])
    return None


def _refuse_pairs(paths: Sequence[str]) -> None:
    said = {found[0] for path in paths if (found := _direction(path))}
    if said == {"f", "b"}:
        raise ArgumentError(
            "[from_keras_weights] these are the weights of both directions; received "
            f"{_listed(paths)}, expected a layer with bidirectional=True"
        )


def _pairs(paths: Sequence[str]) -> dict[Path, tuple[str, str]]:
    """The forward and the backward cell of each layer."""
    found = {path: _direction(path) for path in paths}
    silent = [path for path, direction in found.items() if direction is None]
    if silent:
        raise ArgumentError(
            "[from_keras_weights] the paths do not say which cell is which direction; "
            f"received {_listed(silent)}, expected a part that begins with forward or "
            "backward, as Keras writes them: bidirectional/forward_lstm/lstm_cell"
        )
    # A layer is what stands before; where several share that, what is called the same.
    for with_name in (False, True):
        layers: dict[Path, list[tuple[str, str]]] = {}
        for path, direction in found.items():
            assert direction is not None
            said, before, named = direction
            layers.setdefault(named if with_name else before, []).append((said, path))
        pairs = {key: sorted(cells, reverse=True) for key, cells in layers.items()}
        if all([d for d, _ in cells] == ["f", "b"] for cells in pairs.values()):
            return {key: (one[1], two[1]) for key, (one, two) in pairs.items()}
    raise ArgumentError(
        "[from_keras_weights] each layer has one forward and one backward cell; "
        f"received {_listed(paths)}, expected pairs that differ in this alone"
    )


# -- layers ----------------------------------------------------------------------


def _in_order(listed: list[Path], fits: Callable[[list[Path]], bool]) -> list[Path]:
    """Layers that differ in numbers alone go by these; others as they are listed."""
    alphabetical = listed in (sorted(listed), sorted(listed, key="/".join))
    families = {tuple(_NUMBER.sub("", part) for part in path) for path in listed}
    if len(families) == 1:
        numbered = sorted(listed, key=_numbers)
        known = [order for order in (listed, numbered) if fits(order)]
        if alphabetical or not known:
            return numbered
        if len(known) == 1 or listed == numbered:
            return known[0]
        fact = "the layers' numbers and their order in the mapping differ"
    elif alphabetical and any(
        fits(order) for order in _exchanged(listed)
    ):  # by chance, or because something sorted them?
        fact = "the paths do not say which layer follows which"
    else:
        return listed
    received = _listed(["/".join(path) for path in listed])
    raise ArgumentError(
        f"[from_keras_weights] {fact}; received {received}, expected numbers in the "
        "order of the layers: layer_0/kernel, layer_1/kernel"
    )


def _numbers(path: Path) -> list[list[int]]:
    return [[int(n) for n in _NUMBER.findall(part)] for part in path]


def _exchanged(order: list[Path]) -> list[list[Path]]:
    """The orders with two neighbours exchanged: if none fits, no other order does."""
    found = []
    for at in range(len(order) - 1):
        other = list(order)
        other[at : at + 2] = reversed(other[at : at + 2])
        found.append(other)
    return found


def _listed(paths: Sequence[str]) -> str:
    shown = [repr(path) for path in paths[:4]]
    return ", ".join(shown) + (", …" if len(paths) > 4 else "")
