"""What each equation of a cell decides, derived from the structure of its graph.

No cell is known by name. A value that multiplies an old state on its line keeps or
deletes; one that multiplies what is then added to a line chooses what is stored; one
that multiplies an old state which a layer then reads resets; one that multiplies what
leaves the cell chooses what is output.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from .plan import JOIN, Plan
from .sketch import RESULTS
from .text import Label, Run, plain

GATES = ("σ", "hard σ", "softmax", "step", "σ LN", "exp")
ROLES = ("keep", "delete", "reset", "store", "store the rest", "output")


class CaptionWriter:
    """Writes the captions of a cell's statements.

    Args:
        plan: of the cell's picture.
        names: what the equations call each statement's value, by node.
    """

    def __init__(self, plan: Plan, names: Mapping[int, Label]) -> None:
        self.plan = plan
        self.elements = plan.elements
        self.names = names
        self.readers = [[r for r, _ in found] for found in plan.readers()]

    def caption(self, top: int) -> Label:
        """What the statement decides whose last element is `top`."""
        line = self.plan.line_made_by(top)
        if line is not None:
            return self.update(line)
        if self.is_result(top):
            return self.result(top)
        if self.elements[top].sign == "attention":
            return self.shares(top)
        return self.gate(top) + self.peephole(top)

    # -- names -----------------------------------------------------------------------

    def name(self, number: int) -> Label:
        """What a value is called; what it is made of where it has no name."""
        element = self.elements[number]
        if element.kind in ("state", "input", *RESULTS):
            return element.label
        return self.names.get(element.value) or self.made(number)

    def made(self, number: int) -> Label:
        """A value without a name as the expression that it is."""
        element, text = self.elements[number], self.text(number)
        inputs = [self.name(s) for s in self.operands(number)]
        if element.kind == "layer":
            several = (*plain("["), *_commas(inputs), *plain("]"))
            whole = several if len(inputs) > 1 else inputs[0]
            return (*element.label, *plain(" · "), *whole)
        if len(inputs) == 2 and text in "*+−÷":
            return (*inputs[0], *plain(f" {text} "), *inputs[1])
        if len(inputs) != 1:
            return (*element.label, *plain("("), *_commas(inputs), *plain(")"))
        (inner,) = inputs
        if "·" in text:
            return _filled(element.label, inner)
        if text == "1−":
            return (*plain("(1 − "), *inner, *plain(")"))
        if text[0] == "*":
            return (*_without_sign(element.label), *plain(" * "), *inner)
        if text[0] in "+−÷" and len(text) > 1:
            return (*inner, *plain(f" {text[0]} "), *_without_sign(element.label))
        return (*element.label, *plain("("), *inner, *plain(")"))

    def text(self, number: int) -> str:
        return "".join(run.text for run in self.elements[number].label)

    # -- structure -------------------------------------------------------------------

    def operands(self, number: int) -> list[int]:
        """What an element reads, its concatenation taken apart."""
        found = []
        for wire in self.elements[number].inputs:
            join = self.elements[wire.source].kind == JOIN
            found += self.operands(wire.source) if join else [wire.source]
        return found

    def is_result(self, number: int) -> bool:
        return any(self.elements[r].kind in RESULTS for r in self.readers[number])

    def is_old(self, number: int) -> bool:
        """An old state, or a value on its line before the new one."""
        on_the_way = any(number in line[:-2] for line in self.plan.state_lines)
        return self.elements[number].kind == "state" or on_the_way

    def is_added(self, number: int) -> bool:
        """Its reader adds it to a state line."""
        readers = set(self.readers[number]) & self.plan.on_state_lines
        return any(self.text(r) == "+" for r in readers)

    def is_on_a_bound(self, number: int) -> bool:
        """Its state is a maximum, such as what keeps exp in its range: no memory."""
        lines = map(self.plan.line_through, self.readers[number])
        return any(self.text(e) in ("max", "min") for line in lines for e in line or ())

    def is_read_by_layer(self, number: int) -> bool:
        """A layer reads it, or what one operation makes of it alone."""
        return any(
            self.elements[r].kind in (JOIN, "layer")
            or (len(self.elements[r].inputs) == 1 and self.is_read_by_layer(r))
            for r in self.readers[number]
        )

    def products(self, number: int) -> list[tuple[int, int, bool]]:
        """Where a value multiplies: the product, the other factor, if it is 1 − it."""
        found = []
        for reader in self.readers[number]:
            sources = [w.source for w in self.elements[reader].inputs]
            if self.text(reader) == "*" and len(set(sources)) == 2:
                found.append((reader, sum(sources) - number, False))
            elif self.text(reader) == "1−":
                found += [(p, other, True) for p, other, _ in self.products(reader)]
        return found

    def roles(self, number: int) -> dict[str, Label]:
        """What a value does as a factor, and to what, in the order of `ROLES`."""
        found: dict[str, dict[Label, None]] = {}
        for product, other, rest in self.products(number):
            role = self.role(number, product, other, rest)
            if role:
                thing = self.name(product if role == "output" else other)
                line = self.plan.line_through(product)
                if role in ("keep", "delete") and line is not None:
                    thing = self.name(line[0])
                found.setdefault(role, {})[thing] = None
        return {role: _listed(list(found[role])) for role in ROLES if role in found}

    def role(self, number: int, product: int, other: int, rest: bool) -> str:
        kept = product in self.plan.on_state_lines or self.is_added(product)
        if self.is_old(other) and kept:
            return "delete" if rest else "keep"
        if self.is_old(other) and self.is_read_by_layer(product):
            return "reset"
        if self.is_added(product):
            is_candidate = self.text(other) in GATES and other < number
            return "" if is_candidate else "store the rest" if rest else "store"
        if self.is_map_of_old(other) and self.is_summed(product):
            return "reset"
        shown = self.is_result(product) or self.is_projected(product)
        return "output" if shown and not rest else ""

    def is_map_of_old(self, number: int) -> bool:
        """A matrix alone on an old state, as the reset after it has."""
        old = any(self.is_old(s) for s in self.operands(number))
        return old and self.text(number)[0] == "W"

    def is_summed(self, number: int) -> bool:
        return any(self.text(r) == "+" for r in self.readers[number])

    def is_projected(self, number: int) -> bool:
        layers = [r for r in self.readers[number] if self.elements[r].kind == "layer"]
        return any(map(self.is_result, layers))

    # -- what is said ------------------------------------------------------------------

    def gate(self, number: int) -> Label:
        name, seen, roles = self.name(number), self.seen(number), self.roles(number)
        begin = say("{} sees {} and decides ", name, seen)
        match tuple(roles):
            case ("keep", "store the rest"):
                return begin + say(
                    "both for each unit: how much of {} is kept and, as 1 − {}, how "
                    "much of {} is stored. New information comes in only where old is "
                    "deleted.",
                    roles["keep"],
                    name,
                    roles["store the rest"],
                )
            case ("delete", "store") | ("delete", "reset", "store"):
                return begin + say(
                    "both for each unit: how much of {} is stored and, as 1 − {}, how "
                    "much of {} is kept. One gate updates and deletes.",
                    roles["store"],
                    name,
                    roles["delete"],
                )
            case ("keep", *_) if self.text(number) in GATES:
                return begin + say(
                    "what is deleted from {}: for each unit, 1 keeps it, 0 deletes it.",
                    roles["keep"],
                )
            case ("reset", *_):
                return begin + say(
                    "how much of {} the candidate may see: at 0 it starts as if there "
                    "were no past.",
                    roles["reset"],
                )
            case ("store", *_) if self.text(number) in GATES:
                return begin + say(
                    "which units are updated: how much of {} is stored.", roles["store"]
                )
            case ("output",) if self.text(number) in GATES:
                return begin + say("what is output: how much each unit shows.")
        said = say("{} is made of {}", name, seen)
        made = (number, *self.readers[number])
        new = any(self.is_added(n) and not self.is_on_a_bound(n) for n in made)
        return said + plain(
            ": new information that could be stored in the state." if new else "."
        )

    def shares(self, number: int) -> Label:
        return say(
            "{} says how much each item is looked at: shares, which add up to 1, the "
            "larger the higher {} is.",
            self.name(number),
            self.seen(number),
        )

    def seen(self, number: int) -> Label:
        """What a layer maps, or an operation reads; without peepholes."""
        beside = ()
        if self.elements[number].kind == "layer":
            beside = [w.source for w in self.elements[number].inputs[1:]]
        names = [self.name(o) for o in self.operands(number) if o not in beside]
        return _listed(list(dict.fromkeys(names)))

    def peephole(self, number: int) -> Label:
        element = self.elements[number]
        beside = element.inputs[1:] if element.kind == "layer" else ()
        seen = _listed(list(dict.fromkeys(self.name(w.source) for w in beside)))
        if not beside:
            return ()
        if all(w.mark for w in beside):
            return say(
                " Through a peephole each unit sees its own {}, which the output gate "
                "may hide.",
                seen,
            )
        return say(
            " Through a peephole it sees {}, too, which the output gate may hide.", seen
        )

    def update(self, line: tuple[int, ...]) -> Label:
        """What becomes of a state on its line, operation by operation."""
        deeds = [self.deed(n, before) for before, n in pairwise(line[:-1])]
        said = say("From {} to {}: ", self.name(line[0]), self.name(line[-1]))
        said += _listed(deeds, ", ", "; then ")
        states = [e for e in self.elements if e.kind == "new"]
        if len(states) == 1 and self.is_shown(line[-2]):
            said += say(
                ". Memory and output are one: no state is beside {}",
                self.name(line[-1]),
            )
        return said + plain(
            ". No matrix is in the way, so the gradient flows back along the line."
        )

    def deed(self, number: int, before: int) -> Label:
        """What an operation on a state line does to the state."""
        element, text = self.elements[number], self.text(number)
        others = [w.source for w in element.inputs if w.source != before]
        if not others and text[0] == "*":
            return say("delete, times {}", _without_sign(element.label))
        if not others:
            return say("apply {}", element.label)
        verb = {"*": "delete, times {}", "+": "add {}"}.get(text)
        if verb is None:
            return say("take {} with {}", element.label, self.name(others[0]))
        return say(verb, self.name(others[0]))

    def is_shown(self, number: int) -> bool:
        return any(self.elements[r].kind == "output" for r in self.readers[number])

    def result(self, number: int) -> Label:
        """A value that leaves the cell, and is on no state line."""
        name, operands = self.name(number), self.operands(number)
        begin = plain(
            "What is output: " if self.is_shown(number) else "The new state: "
        )
        if self.elements[number].kind == "layer":
            return self.layer_result(number)
        gates = [s for s in operands if self.text(s) in GATES]
        if self.text(number) == "*" and gates and len(operands) == 2:
            other = sum(operands) - gates[0]
            said = say(
                "{} is {}, as far as {} lets it through.",
                name,
                self.name(other),
                self.name(gates[0]),
            )
            if self.text(other) == "tanh" and self.elements[other].kind == "op":
                said += plain(" The tanh brings the state between −1 and 1.")
            return begin + said
        return begin + say("{} is made of {}.", name, self.seen(number))

    def layer_result(self, number: int) -> Label:
        """A state that a matrix makes: of itself, of its own units, of other values."""
        name, seen = self.name(number), self.seen(number)
        mapped = set(self.operands(number)) - self.beside(number)
        if any(self.elements[s].kind == "state" for s in mapped):
            if self.roles(number):
                return self.gate(number) + self.peephole(number)
            return say(
                "{} is made of {} by a matrix: the whole state is written anew at "
                "every step, and the gradient meets the matrix at every step back.",
                name,
                seen,
            )
        own = _listed([self.name(s) for s in sorted(self.beside(number))])
        if own:
            return say(
                "{} is made of {} by a matrix, and each unit of its own {}: no unit "
                "sees another's past.",
                name,
                seen,
                own,
            )
        return say("{} is made of {} by a matrix.", name, seen)

    def beside(self, number: int) -> set[int]:
        return {w.source for w in self.elements[number].inputs[1:]}


def say(template: str, *labels: Label) -> Label:
    """Words with labels among them."""
    words = template.split("{}")
    runs: list[Run] = [*plain(words[0])]
    for label, word in zip(labels, words[1:], strict=True):
        runs += [*label, *plain(word)]
    return tuple(runs)


def _listed(labels: list[Label], comma: str = ", ", last: str = " and ") -> Label:
    runs: list[Run] = []
    for place, label in enumerate(labels):
        if place:
            runs.append(Run(last if place == len(labels) - 1 else comma))
        runs += label
    return tuple(runs)


def _commas(labels: list[Label]) -> Label:
    return _listed(labels, last=", ")


def _filled(label: Label, inner: Label) -> Label:
    """A label with a value in the place of its dot."""
    runs: list[Run] = []
    for run in label:
        before, dot, after = run.text.partition("·")
        runs += plain(before.rstrip() if dot else before)
        runs += (*inner, *plain(after.lstrip())) if dot else ()
    return tuple(runs)


def _without_sign(label: Label) -> Label:
    first, *rest = label
    return (*plain(first.text[1:]), *rest)
