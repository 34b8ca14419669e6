"""Where things stand: slots from left to right, rows from top to bottom.

Layers stand in one row in the order of the equations, a slot each. An operation stands
above its right-most layer, at once above it where it can, else in a slot of its own to
the right. Operations on a state line stand on its row; one that reads state lines alone
hangs from them over its reader. Joins stand below, left of the first layer they feed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field

from .plan import JOIN, Plan


@dataclass(eq=False)
class Slot:
    """A column. `stack` grows upward from the layer's row; state lines are above it."""

    stack: list[int] = field(default_factory=list)
    open: bool = True  # nothing yet on a line above, and no wire in the way
    lines: set[int] = field(default_factory=set)  # state lines with an operation here


@dataclass
class Placement:
    """Slot and row of every element.

    Rows: 0 the output; then the state lines; then operations, the highest level first;
    the layers; the trunks; at last the inputs.
    """

    slot: dict[int, int]
    row: dict[int, int]
    slots: int
    rows: int
    layer_row: int


def place(plan: Plan) -> Placement:
    return _Placer(plan).placement()


class _Placer:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.elements = plan.elements
        self.readers = plan.readers()
        self.line_of = {e: n for n, line in enumerate(plan.state_lines) for e in line}
        self.zero, self.end = Slot(), Slot()
        self.slots = [self.zero]
        self.slot: dict[int, Slot] = {}
        self.level: dict[int, int] = {}
        self.anchors = self._anchors()

    # -- before placing: which layer an operation belongs to -------------------------

    def _anchors(self) -> dict[int, float]:
        """The right-most layer below each element, by order; −1: none."""
        anchors: dict[int, float] = {}
        for number in self._topological():
            element = self.elements[number]
            below = [anchors[w.source] for w in element.inputs]
            anchors[number] = max(below, default=-1.0)
            if element.kind == "layer":
                anchors[number] = float(number)
        return anchors

    def _topological(self, first: Iterable[int] = ()) -> list[int]:
        """Joins come at the end of the elements, but before their readers here.

        `first`: who comes, after what it reads, before all others.
        """
        done: dict[int, None] = {}

        def visit(number: int) -> None:
            if number not in done:
                for wire in self.elements[number].inputs:
                    visit(wire.source)
                done[number] = None

        for number in (*first, *range(len(self.elements))):
            visit(number)
        return list(done)

    def hangs(self, number: int) -> bool:
        """It reads state lines alone, and its readers stand further right."""
        if self.elements[number].kind != "op" or number in self.line_of:
            return False
        return self.reads_lines_alone(number) and self.leads_right(number)

    def reads_lines_alone(self, number: int) -> bool:
        sources = self.sources(number)
        off = [s for s in sources if s not in self.line_of]
        return bool(sources) and all(
            self.elements[s].kind == "op" and self.reads_lines_alone(s) for s in off
        )

    def leads_right(self, number: int) -> bool:
        """Its readers, or theirs, stand over a layer, further right."""
        readers = [r for r, _ in self.readers[number]]
        if any(self.elements[r].kind != "op" or r in self.line_of for r in readers):
            return False
        if len(readers) == 1:
            meets = not self.reads_lines_alone(readers[0])
            return meets or self.leads_right(readers[0])
        return all(self.anchors[r] > self.anchors[number] for r in readers)

    # -- placing -----------------------------------------------------------------

    def placement(self) -> Placement:
        order = self._topological()
        for number in order:
            if self.elements[number].kind == "layer":
                self.slot[number] = Slot([number])
                self.slots.append(self.slot[number])
                self.level[number] = 0
        for number in self._in_order_of_state_lines(order):
            if self.elements[number].kind == "op" and not self.hangs(number):
                self._place_op(number)
        for number in reversed(order):
            if self.elements[number].kind == "op" and self.hangs(number):
                self._hang(number)
        self._level_out()
        self._place_joins(order)
        self._place_inputs()
        self.slots.append(self.end)
        return self._numbered()

    def _in_order_of_state_lines(self, order: list[int]) -> list[int]:
        """What is made of state lines comes in the order in which they take it."""
        late: set[int] = set()
        for number in order:
            if any(
                s in late or (s in self.line_of and self.elements[s].kind == "op")
                for s in self.sources(number)
            ):
                late.add(number)
        early = [number for number in order if number not in late]
        return self._topological((*early, *itertools.chain(*self.plan.state_lines)))

    def position(self, slot: Slot) -> int:
        return self.slots.index(slot)

    def new_slot(self, at: int) -> Slot:
        slot = Slot()
        self.slots.insert(at, slot)
        return slot

    def slot_after(self, slot: Slot) -> Slot:
        """A new slot, right of this one and of those that were put right of it."""
        at = self.position(slot) + 1
        while at < len(self.slots) and not self._has_layer(self.slots[at]):
            at += 1
        return self.new_slot(at)

    def _has_layer(self, slot: Slot) -> bool:
        return bool(slot.stack) and self.elements[slot.stack[0]].kind == "layer"

    def anchor_slot(self, number: int) -> Slot:
        placed = [self.slot[s] for s in self.grounds(number) if s in self.slot]
        return max(placed, key=self.position, default=self.zero)

    def grounds(self, number: int) -> list[int]:
        """What it reads, or what those read that will hang over it."""
        found = []
        for source in self.sources(number):
            hanging = self.elements[source].kind == "op" and self.hangs(source)
            found += self.grounds(source) if hanging else [source]
        return found

    def sources(self, number: int) -> list[int]:
        return [w.source for w in self.elements[number].inputs]

    def _place_op(self, number: int) -> None:
        if number in self.line_of:
            self._place_on_state_line(number)
            return
        slot, sources = self.anchor_slot(number), self.sources(number)
        on_top = slot.open and slot.stack and slot.stack[-1] in sources
        if on_top and not self.makes_way(number):
            own = self.level[slot.stack[-1]] + 1
        else:
            slot, own = self.slot_after(slot), 1
        others = [self.level.get(s, 0) for s in sources]
        self.level[number] = max([own, *others])
        self.slot[number] = slot
        slot.stack.append(number)

    def makes_way(self, number: int) -> bool:
        """What only changes a value for a reader further right leaves the place over
        it to one that stays."""
        sources, readers = self.sources(number), [r for r, _ in self.readers[number]]
        if len(sources) != 1 or len(readers) != 1:
            return False
        others = [r for r, _ in self.readers[sources[0]] if r != number]
        stays = self.anchors[readers[0]] == self.anchors[number]
        return not stays and any(self.elements[r].kind == "op" for r in others)

    def _place_on_state_line(self, number: int) -> None:
        line = self.line_of[number]
        path = self.plan.state_lines[line]
        before = self.slot.get(path[path.index(number) - 1])
        slot = self.anchor_slot(number)
        if before is not None and self.position(before) >= self.position(slot):
            slot = before
        tops = slot.stack and slot.stack[-1] in self.sources(number)
        last = self.last_look(number, path[path.index(number) - 1], slot)
        if last is not slot:
            slot = self.move_after(number, last)
        elif slot is before or not (slot.open and tops) or line in slot.lines:
            slot = self.slot_after(slot)
        slot.open = False
        slot.lines.add(line)
        self.slot[number] = slot

    def last_look(self, number: int, value: int, slot: Slot) -> Slot:
        """The right-most slot where an operation reads a state line's value, which a
        later one on the line must not come before."""
        found = [slot]
        if any(
            self.elements[r].kind in (JOIN, "layer") for r, _ in self.readers[number]
        ):
            return slot  # what layers to the right of it read
        for reader, _ in self.readers[value]:
            layer = self.slot.get(int(self.anchors[reader]))
            if reader == number or reader in self.line_of or layer is None:
                continue
            if self.elements[reader].kind == "op" and not self.hangs(reader):
                found.append(self.slot.get(reader, layer))
        return max(found, key=self.position)

    def move_after(self, number: int, slot: Slot) -> Slot:
        """A new slot for an operation on a state line and the small ones feeding it."""
        chain: list[int] = []
        new = self.slot_after(slot)
        for source in self.sources(number):
            while self.is_small(source):
                chain.append(source)
                self.slot[source].stack.pop()
                source = self.sources(source)[0]
        below = [self.position(self.anchor_slot(one)) for one in chain[-1:]]
        between = [s for p in below for s in self.slots[p + 1 : self.position(new)]]
        level = max([0, *(self.level[n] for s in between for n in s.stack)])
        for one in reversed(chain):
            level += 1
            self.level[one], self.slot[one] = level, new
            new.stack.append(one)
        return new

    def is_small(self, number: int) -> bool:
        """An operation of one value for one reader, on top of its slot."""
        if self.elements[number].kind != "op" or number in self.line_of:
            return False
        alone = len(self.sources(number)) == len(self.readers[number]) == 1
        return alone and self.slot[number].stack[-1] == number

    def _level_out(self) -> None:
        """An operation alone in its slot stands as high as its reader."""
        for slot in self.slots:
            if len(slot.stack) != 1 or self.elements[slot.stack[0]].kind != "op":
                continue
            (number,) = slot.stack
            readers = [r for r, _ in self.readers[number]]
            levels = [self.level[r] for r in readers if r in self.level]
            if len(readers) == len(levels) == 1 and number not in self.line_of:
                self.level[number] = max(self.level[number], levels[0])

    def _hang(self, number: int) -> None:
        readers = [r for r, _ in self.readers[number]]
        reader = min(readers, key=lambda r: self.position(self.slot[r]))
        slot = self.slot[reader]
        if slot.open and slot.stack[-1] == reader and len(readers) == 1:
            self.level[number] = self.level[reader] + 1
        else:
            slot = self.new_slot(self.position(slot))
            self.level[number] = self.level[reader]
        self.slot[number] = slot
        slot.stack.append(number)

    def _place_joins(self, order: list[int]) -> None:
        """Before the first layer they feed; a chain of joins side by side."""
        for number in order:
            if self.elements[number].kind != JOIN:
                continue
            first = min(self.position(s) for s in self._layers_after(number))
            while self.precedes_layers(first - 1):  # joins read the old state
                first -= 1
            self.slot[number] = self.new_slot(first)

    def precedes_layers(self, at: int) -> bool:
        """Whether a slot has only an operation on a state line, left of all layers."""
        line_alone = not self.slots[at].stack and bool(self.slots[at].lines)
        return line_alone and not any(map(self._has_layer, self.slots[:at]))

    def _layers_after(self, number: int) -> list[Slot]:
        found = []
        for reader, _ in self.readers[number]:
            if self.elements[reader].kind == JOIN:
                found += self._layers_after(reader)
            else:
                found.append(self.slot[reader])
        return found

    def _place_inputs(self) -> None:
        """Under the first join that takes it, else left of its first reader."""
        for number, element in enumerate(self.elements):
            if element.kind != "input":
                continue
            readers = [r for r, _ in self.readers[number] if r in self.slot]
            first = min(
                (self.slot[r] for r in readers), key=self.position, default=None
            )
            if first is None:
                first = self.new_slot(1)
            taken = any(self.slot.get(i) is first for i in self._inputs())
            if taken or not self._stands_over(number, first):
                first = self.new_slot(self.position(first))
            self.slot[number] = first

    def _stands_over(self, number: int, slot: Slot) -> bool:
        """Whether the way up from an input, there, is its way to a reader."""
        here = [(r, at) for r, at in self.readers[number] if self.slot.get(r) is slot]
        kinds = [(self.elements[reader].kind, position) for reader, position in here]
        return any(k == JOIN or (k == "layer" and p == 0) for k, p in kinds)

    def _inputs(self) -> list[int]:
        return [i for i, e in enumerate(self.elements) if e.kind == "input"]

    # -- rows --------------------------------------------------------------------

    def _numbered(self) -> Placement:
        levels = max([1, *self.level.values()])
        layer_row = 1 + len(self.plan.state_lines) + levels
        trunks, trunk_rows = self._trunk_rows()
        bottom = layer_row + 1 + trunk_rows
        slots = {None: -1, **{s: n for n, s in enumerate(self.slots, 1)}}
        right = len(self.slots) + 1
        slot, row = {}, {}
        for number, element in enumerate(self.elements):
            slot[number] = slots[self.slot.get(number)]  # type: ignore[index]
            if number in self.line_of:
                row[number] = 1 + self.line_of[number]
            elif element.kind in ("layer", "op"):
                row[number] = layer_row - self.level[number]
            elif element.kind == "input":
                row[number] = bottom
            elif element.kind == "output":
                row[number], slot[number] = 0, right - 1
            else:
                row[number] = layer_row + 1 + trunks[number]
            if element.kind == "state":
                slot[number] = 0
            elif element.kind == "new":
                slot[number] = right
        return Placement(slot, row, right + 1, bottom + 1, layer_row)

    def _trunk_rows(self) -> tuple[dict[int, int], int]:
        """Rows below the layers: for states without a line, and for joins."""
        rows: dict[int, int] = {}
        free = [n for n in range(len(self.elements)) if n not in self.line_of]
        states = [n for n in free if self.elements[n].kind == "state"]
        above = self._has_trunk_above(states)
        rows.update((number, above + row) for row, number in enumerate(states))
        for number in free:
            if self.elements[number].kind == "new":
                same = [n for n in states if self._same_state(n, number)]
                new = above + len(set(rows.values()))
                rows[number] = rows[same[0]] if same else new
        count = above + len(set(rows.values()))
        spans: list[list[tuple[int, int]]] = []
        for number in self._topological():
            if self.elements[number].kind != JOIN:
                continue
            span, row = self._span(number), rows.get(self.sources(number)[0], 0)
            while row < len(spans) and any(
                a < span[1] and span[0] < b for a, b in spans[row]
            ):
                row += 1
            spans += [[] for _ in range(row + 1 - len(spans))]
            spans[row].append(span)
            rows[number] = row
        return rows, max([count, len(spans), 1])

    def _has_trunk_above(self, states: list[int]) -> bool:
        """Whether a layer reads a state right of all that a trunk without it feeds.

        Below the state's row, the trunk's lines up to the layers would cross it.
        """
        trunks = [n for n, e in enumerate(self.elements) if e.kind == JOIN]
        ends = [self._span(n)[1] for n in trunks if self._head(n) not in states]
        reads = [
            self.position(self.slot[reader])
            for state in states
            for reader, _ in self.readers[state]
            if self.elements[reader].kind == "layer"
        ]
        return bool(ends and reads) and min(ends) < max(reads)

    def _head(self, join: int) -> int:
        """What a trunk begins with, over all its joins."""
        first = self.sources(join)[0]
        return self._head(first) if self.elements[first].kind == JOIN else first

    def _same_state(self, a: int, b: int) -> bool:
        return self.elements[a].state == self.elements[b].state

    def _span(self, number: int) -> tuple[int, int]:
        readers = [self.slot[r] for r, _ in self.readers[number] if r in self.slot]
        ends = [self.position(s) for s in readers]
        return self.position(self.slot[number]), max(ends)
