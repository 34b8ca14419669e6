"""Wires on a grid of slots, rows and tracks between them: orthogonal, none on another.

Every wire between two elements is a path on the grid, found by A*: short, with few
bends and fewer crossings. A wire to a second reader starts from the first one's. Two
wires may cross at a right angle, nothing else: where there is no way, wires that are in
it are taken up and laid again (after McMurchie & Ebeling's PathFinder, 1995).
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ...language.errors import CellwrightError
from .place import Placement
from .plan import JOIN, Plan
from .sketch import RESULTS

Point = tuple[int, int]  # indices of the grid's lines: x, y
Heading = tuple[int, int]  # a step of one along x or y

EAST, WEST, NORTH, SOUTH = (1, 0), (-1, 0), (0, -1), (0, 1)
HEADINGS = (EAST, WEST, NORTH, SOUTH)
SIDEWAYS = {h: (NORTH, SOUTH) if h[0] else (EAST, WEST) for h in HEADINGS}

BEND, FORK, CROSSING, IN_THE_WAY = 3.0, 2.0, 12.0, 60.0
UNDER = 0.1  # what height costs below the layers: trunks stay in their rows


@dataclass(frozen=True)
class GridLine:
    """A line of the grid: a slot's or a row's own, a pin's beside it, or a track.

    Attributes:
        base: the slot or row.
        track: 0 for its own line; 1, 2, … for the tracks after it.
        pin: position of a pin's line beside the slot's own: …, −1, 1, …; else 0.
    """

    base: int
    track: int = 0
    pin: int = 0


@dataclass(frozen=True)
class Port:
    """Where a wire may touch an element: a point, and the way out of it."""

    point: Point
    out: Heading


@dataclass
class Net:
    """The wires from one element to all its readers: a tree of paths.

    Attributes:
        paths: from the element, or from a point of an earlier path, to a reader.
        readers: who each path goes to: (element, position among its inputs).
        fixed: how many of the paths are on a state line, and stay.
    """

    source: int
    paths: list[list[Point]] = field(default_factory=list)
    readers: list[tuple[int, int]] = field(default_factory=list)
    fixed: int = 0

    def edges(self) -> Iterator[tuple[Point, Heading]]:
        """Every stretch from a point of the grid to the next one."""
        for path in self.paths:
            for a, b in itertools.pairwise(path):
                yield a, heading_of(a, b)


class UnroutableError(CellwrightError):
    """The tracks do not suffice."""


@dataclass
class Routing:
    """The grid's lines, each element's points, and a net for each element read."""

    columns: list[GridLine]
    rows: list[GridLine]
    nets: dict[int, Net]


def route(plan: Plan, placement: Placement) -> Routing:
    """Lay all wires, on as many tracks as they need."""
    for tracks in (3, 5, 8, 12, 18):
        try:
            return _Router(plan, placement, tracks).routing()
        except UnroutableError:
            continue
    raise UnroutableError("[diagram] found no way to lay all wires of this cell")


class _Router:
    def __init__(self, plan: Plan, placement: Placement, tracks: int) -> None:
        self.plan, self.placement = plan, placement
        self.elements = plan.elements
        self.columns = self._columns(tracks)
        self.rows = [
            GridLine(r, t)
            for r in range(placement.rows)
            for t in range(1 + (self._row_tracks(r, tracks)))
        ]
        self.x_of = {line: i for i, line in enumerate(self.columns)}
        self.y_of = {line: i for i, line in enumerate(self.rows)}
        self.x_at = _nominal(self.columns)
        self.y_at = _nominal(self.rows)
        self.layer_y = self.y_of[GridLine(placement.layer_row)]
        self.trunk_y = self.y_of[GridLine(placement.layer_row + 1)]
        self.pin_columns = {i for i, line in enumerate(self.columns) if line.pin}
        self.blocked: dict[Point, int] = {}
        self.across: dict[Point, int] = {}  # which net passes horizontally
        self.along: dict[Point, int] = {}  # which net passes vertically
        self.ports_taken: dict[Port, tuple[int, int]] = {}
        self.history: dict[Point, float] = {}
        for number in range(len(self.elements)):
            for point in self.body(number):
                self.blocked[point] = number
        self.state_rows = {
            placement.row[n] for n, e in enumerate(self.elements) if e.kind == "state"
        }
        self.nets = self._nets()

    def _row_tracks(self, row: int, tracks: int) -> int:
        if row == 0:
            return 1
        return tracks if row < self.placement.rows - 1 else 0

    def _columns(self, tracks: int) -> list[GridLine]:
        pins = [0] * self.placement.slots
        for number, element in enumerate(self.elements):
            if element.kind == "layer":
                pins[self.placement.slot[number]] = len(element.inputs) // 2
        lines = []
        for slot, count in enumerate(pins):
            lines += [GridLine(slot, 0, p) for p in range(-count, count + 1)]
            if slot < len(pins) - 1:
                lines += [GridLine(slot, t) for t in range(1, tracks + 1)]
        return lines

    # -- elements on the grid ------------------------------------------------------

    def centre(self, number: int) -> Point:
        return (
            self.x_of[GridLine(self.placement.slot[number])],
            self.y_of[GridLine(self.placement.row[number])],
        )

    def body(self, number: int) -> list[Point]:
        x, y = self.centre(number)
        if self.elements[number].kind != "layer":
            return [(x, y)]
        reach = len(self.elements[number].inputs) // 2
        return [(i, y) for i in range(x - reach, x + reach + 1)]

    def outputs(self, number: int) -> list[Port]:
        kind, centre = self.elements[number].kind, self.centre(number)
        if kind == "layer":
            return [Port(centre, NORTH), Port(self.body(number)[-1], EAST)]
        if kind == "op" and number not in self.plan.on_state_lines:
            return [Port(centre, heading) for heading in HEADINGS]
        return [Port(centre, NORTH if kind == "input" else EAST)]

    def inputs(self, number: int, position: int) -> list[Port]:
        kind, centre = self.elements[number].kind, self.centre(number)
        if kind == "layer" and position == 0:
            return [Port(centre, SOUTH)]
        if kind == "layer":
            body = self.body(number)
            pins = [Port(p, SOUTH) for p in body if p != centre]
            return [Port(body[0], WEST), *pins]
        if kind == "output":
            return [Port(centre, SOUTH)]
        if kind == "new":
            return [Port(centre, WEST)]
        if kind == JOIN:
            return [Port(centre, heading) for heading in (WEST, NORTH, SOUTH)]
        if number in self.plan.on_state_lines:
            below = len(self.elements[number].inputs) <= 2
            sides = (SOUTH,) if below else (SOUTH, NORTH)
            return [Port(centre, heading) for heading in sides]
        return [Port(centre, heading) for heading in HEADINGS]

    # -- all nets --------------------------------------------------------------------

    def _nets(self) -> dict[int, Net]:
        nets = {
            number: Net(number)
            for number, readers in enumerate(self.plan.readers())
            if readers
        }
        for line in self.plan.state_lines:
            for source, reader in itertools.pairwise(line):
                (x0, y), (x1, _) = self.centre(source), self.centre(reader)
                wires = [w.source for w in self.elements[reader].inputs]
                net = nets[source]
                net.paths = [[(x, y) for x in range(x0, x1 + 1)]]
                net.readers, net.fixed = [(reader, wires.index(source))], 1
                self.mark(net)
        return nets

    def routing(self) -> Routing:
        queue = self._in_order()
        rips = 0
        while queue:
            source, reader = queue.pop(0)
            ripped = self.connect(self.nets[source], reader)
            rips += len(ripped)
            if rips > 150:
                raise UnroutableError
            queue += ripped
        self.history.clear()
        for _ in range(3):
            if not self.improve():
                break
        return Routing(self.columns, self.rows, self.nets)

    def _in_order(self) -> list[tuple[int, tuple[int, int]]]:
        """Straight lines first, then the net's farthest reader: it draws the trunk."""
        wanted = []
        for source, readers in enumerate(self.plan.readers()):
            laid = self.nets[source].readers if readers else []
            for reader in readers:
                if reader not in laid:
                    wanted.append((self._urgency(source, reader[0]), source, reader))
        return [(source, reader) for _, source, reader in sorted(wanted)]

    def _urgency(self, source: int, reader: int) -> tuple[int, float, float]:
        slot, row = self.placement.slot, self.placement.row
        same = slot[source] == slot[reader] or row[source] == row[reader]
        reach = abs(slot[source] - slot[reader])
        spread = max(
            abs(slot[source] - slot[r]) for r, _ in self.plan.readers()[source]
        )
        return (0 if same and reach < 2 else 1, spread, -reach)

    def improve(self) -> bool:
        """Lay every net again among the others; keep what is better."""
        better = False
        for net in sorted(self.nets.values(), key=self.cost, reverse=True):
            if len(net.paths) == net.fixed:
                continue
            old, cost = (list(net.paths), list(net.readers)), self.cost(net)
            readers = net.readers[net.fixed :]
            inner = sorted(readers, key=lambda r: self._urgency(net.source, r[0]))
            for order in (inner, readers, readers[::-1]):
                self.lift(net)
                try:
                    for reader in order:
                        self.connect(net, reader, soft=False)
                except UnroutableError:
                    pass
                else:
                    if self.cost(net) < cost - 1e-6:
                        better = True
                        old, cost = (list(net.paths), list(net.readers)), self.cost(net)
            self.lift(net)
            net.paths, net.readers = list(old[0]), list(old[1])
            self.mark(net)
        return better

    def cost(self, net: Net) -> float:
        """As the search counts it."""
        total = 0.0
        for path in net.paths[net.fixed :]:
            headings = headings_of(path)
            total += sum(
                self.length(p, s, net.source)
                for p, s in zip(path, headings, strict=False)
            )
            total += BEND * sum(a != b for a, b in itertools.pairwise(headings))
            total += FORK * (path[0] not in self.blocked)
            for point, heading in zip(path[1:-1], headings[1:], strict=False):
                other = (self.along if heading[1] == 0 else self.across).get(point)
                total += CROSSING * (other is not None and other != net.source)
        return total

    # -- occupancy -------------------------------------------------------------------

    def mark(self, net: Net) -> None:
        for path in net.paths:
            headings = headings_of(path)
            for index, point in enumerate(path):
                around = headings[max(index - 1, 0) : index + 1]
                for heading in around:
                    if point not in self.blocked:
                        (self.across if heading[1] == 0 else self.along)[point] = (
                            net.source
                        )
                if index == 0 and point not in self.blocked:  # a fork holds the point
                    self.across[point] = self.along[point] = net.source
        for path, reader in zip(net.paths, net.readers, strict=True):
            headings = headings_of(path)
            self.ports_taken[Port(path[-1], opposite(headings[-1]))] = reader
            if path[0] in self.blocked:
                self.ports_taken[Port(path[0], headings[0])] = (net.source, -1)

    def lift(self, net: Net) -> None:
        """Take a net up, save what is on a state line."""
        for taken in (self.across, self.along):
            for point in [p for p, owner in taken.items() if owner == net.source]:
                del taken[point]
        readers = {*net.readers, (net.source, -1)}
        for port in [p for p, r in self.ports_taken.items() if r in readers]:
            del self.ports_taken[port]
        net.paths, net.readers = net.paths[: net.fixed], net.readers[: net.fixed]
        self.mark(net)

    # -- one wire ----------------------------------------------------------------------

    def connect(
        self, net: Net, reader: tuple[int, int], soft: bool = True
    ) -> list[tuple[int, tuple[int, int]]]:
        """Lay a wire to a reader; returns the connections that had to make way."""
        path = self.search(net, reader, soft=False)
        ripped: list[tuple[int, tuple[int, int]]] = []
        if path is None and soft:
            path = self.search(net, reader, soft=True)
            if path is not None:
                ripped = self.make_way(net, path)
        if path is None:
            raise UnroutableError
        net.paths.append(path)
        net.readers.append(reader)
        self.mark(net)
        return ripped

    def make_way(self, net: Net, path: list[Point]) -> list:
        """Take up the nets that a path runs into."""
        headings = headings_of(path)
        hit: set[int] = set()
        for index, point in enumerate(path[:-1]):
            for heading in headings[max(index - 1, 0) : index + 1]:
                owner = (self.across if heading[1] == 0 else self.along).get(point)
                hit |= {owner} if owner not in (None, net.source) else set()
            if hit:
                self.history[point] = self.history.get(point, 0) + 4.0
        ripped = []
        for owner in sorted(hit):
            other = self.nets[owner]
            ripped += [(owner, r) for r in other.readers[other.fixed :]]
            self.lift(other)
        return ripped

    def starts(self, net: Net) -> Iterable[tuple[Point, Heading, float]]:
        """Where a new wire of a net may begin: its element, or a fork of a wire."""
        if not net.paths:
            for port in self.outputs(net.source):
                if port not in self.ports_taken:
                    yield port.point, port.out, self.leaving_cost(net, port)
            return
        leaving: dict[Point, set[Heading]] = {}
        coming: dict[Point, Heading] = {}
        for point, heading in net.edges():
            leaving.setdefault(point, set()).add(heading)
            coming[point[0] + heading[0], point[1] + heading[1]] = heading
        for point, came in coming.items():
            if point in self.blocked:
                continue
            owners = {self.across.get(point), self.along.get(point)}
            if owners - {None, net.source}:
                continue
            for heading in HEADINGS:
                if heading != opposite(came) and heading not in leaving.get(point, ()):
                    yield point, heading, FORK

    def leaving_cost(self, net: Net, port: Port) -> float:
        """Gates go up from their layers; what is a result at once goes on right."""
        if port.out != EAST or self.elements[net.source].kind != "layer":
            return 0.0
        readers = self.plan.readers()[net.source]
        results = all(self.elements[r].kind in RESULTS for r, _ in readers)
        return 0.0 if results else 6.0

    def goals(self, reader: int, position: int) -> set[tuple[Point, Heading]]:
        return {
            (port.point, opposite(port.out))
            for port in self.inputs(reader, position)
            if port not in self.ports_taken
        }

    def search(
        self, net: Net, reader: tuple[int, int], soft: bool
    ) -> list[Point] | None:
        """The cheapest path from a net to a reader, or `None`."""
        goals = self.goals(*reader)
        if not goals:
            raise UnroutableError
        near = {p for p, _ in goals}
        at_least: dict[Point, float] = {}
        own = {p for path in net.paths for p in path}
        best: dict[tuple[Point, Heading], float] = {}
        came: dict[tuple[Point, Heading], tuple[Point, Heading] | None] = {}
        heap: list[tuple[float, float, Point, Heading]] = []

        def push(
            cost: float, point: Point, heading: Heading, parent: tuple | None
        ) -> None:
            key = (point, heading)
            if cost < best.get(key, float("inf")) - 1e-9:
                best[key] = cost
                came[key] = parent
                if point not in at_least:
                    at_least[point] = self.at_least(point, near)
                heapq.heappush(heap, (cost + at_least[point], cost, *key))

        for point, heading, cost in self.starts(net):
            push(cost, point, heading, None)
        while heap:
            _, cost, point, heading = heapq.heappop(heap)
            if cost > best[point, heading] + 1e-9:
                continue
            ahead = (point[0] + heading[0], point[1] + heading[1])
            if (ahead, heading) in goals:
                return _traced_back(came, (point, heading), ahead)
            entry = self.enter(net, ahead, heading, own, soft)
            if entry is None:
                continue
            cost += self.length(point, heading, net.source) + entry
            push(cost, ahead, heading, (point, heading))
            bend = self.bend(net, ahead, soft)
            if bend is not None:
                for new in SIDEWAYS[heading]:
                    push(cost + bend, ahead, new, (point, heading))
        return None

    def enter(
        self, net: Net, point: Point, heading: Heading, own: set[Point], soft: bool
    ) -> float | None:
        """What it costs to come to a point on the way; `None`: impossible."""
        x, y = point
        inside = 0 <= x < len(self.columns) and 0 <= y < len(self.rows)
        if not inside or point in self.blocked or point in own:
            return None
        beside_layer = x in self.pin_columns and y <= self.layer_y
        if beside_layer and (heading[1] or y == self.layer_y):
            return None
        cost = self.history.get(point, 0.0)
        same, other = self.across, self.along
        if heading[0] == 0:
            same, other = other, same
        owner = same.get(point)
        if owner is not None and owner != net.source:
            if not soft or self.is_fixed(owner, point):
                return None
            cost += IN_THE_WAY
        crossed = other.get(point)
        if crossed is not None and crossed != net.source:
            cost += CROSSING
        return cost

    def is_fixed(self, owner: int, point: Point) -> bool:
        net = self.nets[owner]
        return any(point in path for path in net.paths[: net.fixed])

    def bend(self, net: Net, point: Point, soft: bool) -> float | None:
        """A bend needs its point for itself; a pin's line has no room for one."""
        owners = {self.across.get(point), self.along.get(point)} - {None, net.source}
        if not owners:
            return BEND
        if not soft or any(self.is_fixed(o, point) for o in owners if o is not None):
            return None
        return BEND + IN_THE_WAY

    def length(self, point: Point, heading: Heading, source: int) -> float:
        x, y = point
        if heading[0]:
            distance = abs(self.x_at[x + heading[0]] - self.x_at[x])
            return distance * self.level_cost(y, source)
        distance = abs(self.y_at[y + heading[1]] - self.y_at[y])
        return distance * (UNDER if min(y, y + heading[1]) >= self.layer_y else 1.0)

    def level_cost(self, y: int, source: int) -> float:
        """Trunks have their rows; nothing else runs there, or along the layers'."""
        if y < self.layer_y:
            return 1.0
        if y == self.layer_y:
            return 2.0
        line = self.rows[y]
        trunk = self.elements[source].kind in (JOIN, "state", "input")
        if not line.track and line.base < self.placement.rows - 1:
            own = self.placement.row[source] == line.base
            free = trunk and line.base not in self.state_rows
            return 1.0 if own else 1.2 if free else 3.0
        return 1.3 if trunk else 2.0

    def at_least(self, point: Point, goals: Iterable[Point]) -> float:
        x, y = self.x_at[point[0]], self.y_at[point[1]]
        return min(
            abs(x - self.x_at[gx]) + UNDER * abs(y - self.y_at[gy]) for gx, gy in goals
        )


def _traced_back(
    came: dict[tuple[Point, Heading], tuple[Point, Heading] | None],
    last: tuple[Point, Heading],
    end: Point,
) -> list[Point]:
    """The path to `end`, from where each point of the search was reached."""
    path = [end, last[0]]
    key = came[last]
    while key is not None:
        if key[0] != path[-1]:
            path.append(key[0])
        key = came[key]
    return path[::-1]


def _nominal(lines: list[GridLine]) -> list[float]:
    """Positions before it is known which tracks are used."""
    at, found = 0.0, []
    for index, line in enumerate(lines):
        if index:
            before = lines[index - 1]
            own = line.track == 0 and line.pin == 0
            was_own = before.track == 0 and before.pin == 0
            at += 2.0 if own or was_own else 1.0
        found.append(at)
    return found


def heading_of(a: Point, b: Point) -> Heading:
    return b[0] - a[0], b[1] - a[1]


def headings_of(path: list[Point]) -> list[Heading]:
    return [heading_of(a, b) for a, b in itertools.pairwise(path)]


def opposite(heading: Heading) -> Heading:
    return -heading[0], -heading[1]
