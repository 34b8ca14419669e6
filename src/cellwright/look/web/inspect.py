"""The inspector's page and its data.

GET  /                  the page
POST /api/read          {"text"}: read another text; {"reading": its number}
POST /api/live/DO       reset, edit, sample, show; "key": a value

Of a reading N, from 0, the text that the server started with, after /api/N/:

GET  run                   the model, the text, what can be seen
GET  picture               the cell's, and where its named values are; or null
GET  ranges/KEY            of every unit: lowest, highest, and where 98 % are
GET  values/KEY/FROM/TO    bytes, a unit's 256 levels from its lowest to its highest
                           value, (size, steps)
GET  exact/KEY/UNIT        float32, one unit at every step
GET  order/KEY/BY          the units, sorted
GET  interesting/DETECTOR  ?pattern=: units that follow a detector
GET  saturation            of every gate
GET  predictions           of every token
GET  flow                  medians and half-lives of gradient norms
GET  flow/STEP             the norms of one prediction
GET  triangle/NAME         bytes, log₁₀ of the norms, from X-Low to X-High; 0 for none
POST intervene             {"changes": [{key, kind, amount, unit}]}
"""

from __future__ import annotations

from itertools import count
from threading import Lock
from typing import Any

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from ...language.errors import ArgumentError
from ..inspection import Inspection, described_beside, saturation_beside
from ..live import Live
from ..reading import Change
from .app import Data, page, read_json

LIVE_PAGES = 8  # texts in progress in memory, one a page
READINGS = 4  # in memory, besides the one that the server started with
CHANGES = 100  # of one intervention

# What an option may be: in words, and in types. A bool is no number here.
TEXT = "a text", (str,)
WHOLE = "a whole number", (int,)
NUMBER = "a number", (int, float)
LIST = "a list", (list,)
Kinds = dict[str, tuple[str, tuple[type, ...]]]

LIVE: dict[str, Kinds] = {
    "reset": {"seed": WHOLE},
    "edit": {"text": TEXT},
    "sample": {"temperature": NUMBER, "top_k": WHOLE},
    "show": {},
}
CHANGE: Kinds = {"key": TEXT, "kind": TEXT, "amount": NUMBER, "unit": WHOLE}


class InspectServer:
    """Routes of a model's readings; `beside` is a second model's, for comparison.

    The first reading is the inspection's own. Pages ask for others.
    """

    def __init__(self, inspection: Inspection, beside: Inspection | None = None):
        self.inspection, self.beside = inspection, beside
        self._readings = {0: (inspection, beside)}
        self._number = count(1)
        self._live: dict[str, Live] = {}
        self._typing, self._reading = Lock(), Lock()
        inspection.prepare()

    def routes(self) -> list[Route]:
        """What the application serves."""
        of_a_reading = {
            "run": self.describe,
            "picture": self.picture,
            "ranges/{key}": self.ranges,
            "values/{key}/{first:count}/{end:count}": self.values,
            "exact/{key}/{unit:count}": self.exact,
            "order/{key}/{by}": self.order,
            "interesting/{detector}": self.interesting,
            "saturation": self.saturation,
            "predictions": self.predictions,
            "flow": self.flow,
            "flow/{step:count}": self.flow_at,
            "triangle/{name}": self.triangle,
        }
        start = "/api/{reading:count}/"
        return [
            Route("/", self.show),
            *(Route(start + path, answer) for path, answer in of_a_reading.items()),
            Route(start + "intervene", self.intervene, methods=["POST"]),
            Route("/api/read", self.read, methods=["POST"]),
            Route("/api/live/{do}", self.live, methods=["POST"]),
        ]

    def show(self, request: Request) -> HTMLResponse:
        return page(f"{self.inspection.run.directory.name}: inspector", "inspect")

    async def read(self, request: Request) -> Data:
        body = options("read", await read_json(request), {"text": TEXT}, ("text",))
        return Data({"reading": await run_in_threadpool(self._read, body["text"])})

    def _read(self, text: str) -> int:
        """Read a text, beside too; the oldest reading but the first gives way."""
        with self._reading:
            inspection = self.inspection.reread(text)
            beside = self.beside and self.beside.reread(
                inspection.text_for(self.beside.run)
            )
            inspection.prepare()
            number = next(self._number)
            self._readings[number] = inspection, beside
            for old in list(self._readings)[1:-READINGS]:
                del self._readings[old]
        return number

    def asked(self, request: Request) -> tuple[Inspection, Inspection | None]:
        """The reading that a request is about, and the other model's.

        Raises:
            ArgumentError: it is not kept any more.
        """
        number = request.path_params["reading"]
        try:
            return self._readings[number]
        except KeyError:
            raise ArgumentError(
                f"[inspect] reading {number} is not kept; received {number}, expected "
                f"one of {', '.join(map(str, self._readings))}. Read the text again"
            ) from None

    def describe(self, request: Request) -> Data:
        return Data(described_beside(*self.asked(request)))

    def picture(self, request: Request) -> Data:
        inspection, _ = self.asked(request)
        return Data(inspection.picture())

    def ranges(self, request: Request) -> Data:
        inspection, _ = self.asked(request)
        return Data(inspection.ranges(request.path_params["key"]))

    def values(self, request: Request) -> Response:
        inspection, _ = self.asked(request)
        asked = request.path_params
        matrix = inspection.quantised(asked["key"])
        return levels(matrix[:, asked["first"] : asked["end"]])

    def exact(self, request: Request) -> Response:
        inspection, _ = self.asked(request)
        key, unit = request.path_params["key"], request.path_params["unit"]
        matrix = inspection.values(key)
        if unit >= matrix.shape[1]:
            raise ArgumentError(
                f"[inspect] {key} has {matrix.shape[1]} units; received unit {unit}"
            )
        column = np.ascontiguousarray(matrix[:, unit], dtype="<f4")
        return Response(column.tobytes(), media_type="application/octet-stream")

    def order(self, request: Request) -> Data:
        inspection, _ = self.asked(request)
        key, by = request.path_params["key"], request.path_params["by"]
        return Data(inspection.order(key, by))

    def interesting(self, request: Request) -> Data:
        inspection, _ = self.asked(request)
        detector = request.path_params["detector"]
        pattern = request.query_params.get("pattern", "")
        return Data(inspection.interesting(detector, pattern))

    def saturation(self, request: Request) -> Data:
        return Data(saturation_beside(*self.asked(request)))

    def predictions(self, request: Request) -> Data:
        inspection, _ = self.asked(request)
        return Data(inspection.predictions())

    def flow(self, request: Request) -> Data:
        inspection, _ = self.asked(request)
        return Data(inspection.flow())

    def flow_at(self, request: Request) -> Data:
        inspection, _ = self.asked(request)
        return Data(inspection.flow_at(request.path_params["step"]))

    def triangle(self, request: Request) -> Response:
        inspection, _ = self.asked(request)
        low, high, matrix = inspection.flow_triangle(request.path_params["name"])
        ends = {"X-Low": repr(low), "X-High": repr(high)}
        return levels(matrix, ends)

    async def live(self, request: Request) -> Data:
        do, body = request.path_params["do"], await read_json(request)
        if do not in LIVE:
            raise ArgumentError(
                f"[live] received {do!r}, expected one of {', '.join(LIVE)}"
            )
        needed = ("text",) if do == "edit" else ()
        known = {"page": TEXT, "key": TEXT, **LIVE[do]}
        given = options(f"live/{do}", body, known, needed)
        return Data(await run_in_threadpool(self._act, do, given))

    def _act(self, do: str, given: dict[str, Any]) -> dict[str, Any]:
        """Change a page's text, or write to it; then show it."""
        with self._typing:
            live, key = self._live_of(given.pop("page", "")), given.pop("key", None)
            if do != "show":
                getattr(live, do)(**given)
            return live.show(key)

    def _live_of(self, page: str) -> Live:
        """The text in progress of a page; the oldest gives way."""
        live = self._live.pop(page, None)
        if live is None:
            live = Live(self.inspection.reader, self.inspection.tokenizer)
        self._live[page] = live
        while len(self._live) > LIVE_PAGES:
            del self._live[next(iter(self._live))]
        return live

    async def intervene(self, request: Request) -> Data:
        body = options("intervene", await read_json(request), {"changes": LIST})
        given = body.get("changes", [])
        if len(given) > CHANGES:
            raise ArgumentError(
                f"[intervene] received {len(given)} changes, expected at most {CHANGES}"
            )
        needed = ("key", "kind", "amount")
        checked = [options("intervene", c, CHANGE, needed) for c in given]
        changes = [Change(**change) for change in checked]
        inspection, _ = self.asked(request)
        return Data(await run_in_threadpool(inspection.intervene, changes))


def levels(matrix: np.ndarray, headers: dict[str, str] | None = None) -> Response:
    """A matrix of bytes with its shape."""
    rows, columns = matrix.shape
    shape = {"X-Rows": str(rows), "X-Columns": str(columns)}
    headers = {**shape, **(headers or {})}
    return Response(
        matrix.tobytes(), media_type="application/octet-stream", headers=headers
    )


def options(
    where: str, given: Any, known: Kinds, needed: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The options of a request; null counts as left out.

    Raises:
        ArgumentError: no object, or an option that is unknown, missing or of another
            type.
    """
    if not isinstance(given, dict):
        raise ArgumentError(
            f"[{where}] received {type(given).__name__}, expected a JSON object"
        )
    for name, value in given.items():
        if name not in known:
            raise ArgumentError(
                f"[{where}] received {name!r}, expected {', '.join(known)}"
            )
        words, types = known[name]
        if isinstance(value, bool) or not isinstance(value, (*types, type(None))):
            raise ArgumentError(
                f"[{where}] {name}: received {value!r}, expected {words}"
            )
    found = {name: value for name, value in given.items() if value is not None}
    for name in needed:
        if name not in found:
            raise ArgumentError(
                f"[{where}] {name} is missing; expected {known[name][0]}"
            )
    return found
