"""What gives a picture its order: a straight line for each state, trunks.

A state line is a state's pointwise path from its old value to its new one. A trunk is
one wire for a concatenation [h, x], made by joins, which every layer reads. What comes
from a state line to some layers of a trunk alone stays a wire of its own: a peephole.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from .sketch import Element, Wire

JOIN = "join"


@dataclass(frozen=True)
class Plan:
    """Elements with joins put in, and the state lines among them.

    Attributes:
        elements: inputs before readers, save results at the end and joins after them.
        state_lines: each an old state, its operations, and its new value; top first.
    """

    elements: tuple[Element, ...]
    state_lines: tuple[tuple[int, ...], ...]

    def readers(self) -> list[list[tuple[int, int]]]:
        """For each element, who reads it: (reader, position among its inputs)."""
        found: list[list[tuple[int, int]]] = [[] for _ in self.elements]
        for reader, element in enumerate(self.elements):
            for position, wire in enumerate(element.inputs):
                found[wire.source].append((reader, position))
        return found

    @property
    def on_state_lines(self) -> set[int]:
        """The elements of all state lines."""
        return {e for line in self.state_lines for e in line}

    def line_through(self, element: int) -> tuple[int, ...] | None:
        """The state line that an element is on."""
        return next((line for line in self.state_lines if element in line), None)

    def line_made_by(self, operation: int) -> tuple[int, ...] | None:
        """The state line whose last operation this is."""
        return next((s for s in self.state_lines if s[-2] == operation), None)


def plan(elements: tuple[Element, ...]) -> Plan:
    """Find the state lines of a sketch, and join its concatenations into trunks."""
    lines = _find_state_lines(elements)
    joined = _with_joins(elements, {e for line in lines for e in line})
    return Plan(joined, _ordered(joined, lines))


def _find_state_lines(elements: tuple[Element, ...]) -> list[tuple[int, ...]]:
    """The shortest pointwise path of each state, none through another's.

    In a tree it is the path of one child's.
    """
    taken: set[int] = set()
    lines = []
    for number, element in enumerate(elements):
        if element.kind == "state":
            result = _result_of(elements, element.state)
            path = None if result in taken else _path(elements, number, result, taken)
            taken.update(path or ())
            lines += [tuple(path)] if path else []
    return lines


def _result_of(elements: tuple[Element, ...], state: str) -> int:
    news = (i for i, e in enumerate(elements) if e.kind == "new")
    return next(i for i in news if elements[i].state == state)


def _path(
    elements: tuple[Element, ...], start: int, end: int, taken: set[int]
) -> list[int] | None:
    """Shortest way down from `end` to `start` over operations alone."""
    before: dict[int, int] = {end: end}
    front = [end]
    while front and start not in before:
        reached = []
        for reader in front:
            for wire in elements[reader].inputs:
                source = wire.source
                passable = elements[source].kind == "op" and source not in taken
                if source not in before and (passable or source == start):
                    before[source] = reader
                    reached.append(source)
        front = reached
    if start not in before or before[start] == end:
        return None
    path = [start]
    while path[-1] != end:
        path.append(before[path[-1]])
    return path


def _ordered(
    elements: tuple[Element, ...], lines: list[tuple[int, ...]]
) -> tuple[tuple[int, ...], ...]:
    """The line with most wires lowest, since those would cross the other lines."""

    def wires(line: tuple[int, ...]) -> int:
        inward = sum(len(elements[e].inputs) - 1 for e in line[1:])
        outward = sum(
            any(w.source in line for w in e.inputs)
            for number, e in enumerate(elements)
            if number not in line
        )
        return inward + outward

    return tuple(sorted(lines, key=wires))


# -- joins ---------------------------------------------------------------------

Group = tuple[int, ...]  # what one concatenation is made of, sorted


def _with_joins(
    elements: tuple[Element, ...], on_lines: set[int]
) -> tuple[Element, ...]:
    """Every layer reads one trunk, and what has a weight of its own beside it."""
    groups = {i: _group(e) for i, e in enumerate(elements) if e.kind == "layer"}
    trunks = _Trunks(list(elements), on_lines, list(groups.values()))
    for number, group in groups.items():
        element = elements[number]
        trunk, beside = trunks.of(group)
        marked = [w for w in element.inputs if w.mark]
        wires = [Wire(trunk), *(Wire(b) for b in beside), *marked]
        if group:
            trunks.elements[number] = replace(element, inputs=tuple(wires))
    return tuple(trunks.elements)


def _group(layer: Element) -> Group:
    return tuple(sorted(w.source for w in layer.inputs if not w.mark))


class _Trunks:
    """Makes each concatenation once."""

    def __init__(
        self, elements: list[Element], on_lines: set[int], groups: list[Group]
    ) -> None:
        self.elements = elements
        self.on_lines = on_lines
        self.groups = groups
        self.made: dict[Group, int] = {}

    def of(self, group: Group) -> tuple[int, Group]:
        """The element that carries a group, and operands that stay beside it."""
        base, rest = self.base(group)
        if base and all(r in self.on_lines for r in rest):
            return self.carrier(base), rest
        return (self.carrier(group) if group else -1), ()

    def base(self, group: Group) -> tuple[Group, Group]:
        """The largest other concatenation within this one, and what it lacks."""
        smaller = [g for g in self.groups if 2 <= len(g) < len(group)]
        within = [g for g in smaller if not Counter(g) - Counter(group)]
        base = max(within, key=len, default=())
        return base, tuple((Counter(group) - Counter(base)).elements())

    def carrier(self, group: Group) -> int:
        if len(group) == 1:
            return group[0]
        if group not in self.made:
            base, rest = self.base(group)
            rest = sorted(rest, key=self.first)
            current = self.carrier(base) if base else rest.pop(0)
            for operand in rest:
                wires = (Wire(current), Wire(operand))
                self.elements.append(Element(JOIN, (), wires))
                current = len(self.elements) - 1
            self.made[group] = current
        return self.made[group]

    def first(self, operand: int) -> tuple[bool, bool, int]:
        """States lead, since they come from the left; x joins from below."""
        kind = self.elements[operand].kind
        return kind == "input", operand in self.on_lines, operand
