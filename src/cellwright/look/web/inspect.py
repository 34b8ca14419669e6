"""The inspector's page and its data.

GET  /                          the page
GET  /api/run                   the model, the text, what can be seen
GET  /api/values/KEY/FROM/TO    bytes, 256 levels from X-Low to X-High, (size, steps)
GET  /api/exact/KEY/UNIT        float32, one unit at every step
GET  /api/order/KEY/BY          the units, sorted
GET  /api/interesting/DETECTOR  ?pattern=: units that follow a detector
GET  /api/saturation            of every gate
GET  /api/predictions           of every token
GET  /api/flow                  medians and half-lives of gradient norms
GET  /api/flow/STEP             the norms of one prediction
GET  /api/triangle/NAME         bytes, log₁₀ of the norms, 0 for none
POST /api/live/DO               reset, type, back, sample, show; "key": a value
POST /api/intervene             {"changes": [{key, kind, amount, unit}]}
"""

from __future__ import annotations

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
CHANGES = 100  # of one intervention

# What an option may be: in words, and in types. A bool is no number here.
TEXT = "a text", (str,)
WHOLE = "a whole number", (int,)
NUMBER = "a number", (int, float)
LIST = "a list", (list,)
Kinds = dict[str, tuple[str, tuple[type, ...]]]

LIVE: dict[str, Kinds] = {
    "reset": {"seed": WHOLE},
    "type": {"text": TEXT},
    "back": {},
    "sample": {"temperature": NUMBER, "top_k": WHOLE},
    "show": {},
}
CHANGE: Kinds = {"key": TEXT, "kind": TEXT, "amount": NUMBER, "unit": WHOLE}


class InspectServer:
    """Routes of one inspection; `beside` is a second model's, for comparison."""

    def __init__(self, inspection: Inspection, beside: Inspection | None = None):
        self.inspection, self.beside = inspection, beside
        self._live: dict[str, Live] = {}
        self._typing = Lock()

    def routes(self) -> list[Route]:
        """What the application serves."""
        return [
            Route("/", self.show),
            Route("/api/run", self.describe),
            Route("/api/values/{key}/{first:count}/{end:count}", self.values),
            Route("/api/exact/{key}/{unit:count}", self.exact),
            Route("/api/order/{key}/{by}", self.order),
            Route("/api/interesting/{detector}", self.interesting),
            Route("/api/saturation", self.saturation),
            Route("/api/predictions", self.predictions),
            Route("/api/flow", self.flow),
            Route("/api/flow/{step:count}", self.flow_at),
            Route("/api/triangle/{name}", self.triangle),
            Route("/api/live/{do}", self.live, methods=["POST"]),
            Route("/api/intervene", self.intervene, methods=["POST"]),
        ]

    def show(self, request: Request) -> HTMLResponse:
        return page(f"{self.inspection.run.directory.name}: inspector", "inspect")

    def describe(self, request: Request) -> Data:
        return Data(described_beside(self.inspection, self.beside))

    def values(self, request: Request) -> Response:
        asked = request.path_params
        low, high, matrix = self.inspection.quantised(asked["key"])
        return levels(low, high, matrix[:, asked["first"] : asked["end"]])

    def exact(self, request: Request) -> Response:
        key, unit = request.path_params["key"], request.path_params["unit"]
        matrix = self.inspection.values(key)
        if unit >= matrix.shape[1]:
            raise ArgumentError(
                f"[inspect] {key} has {matrix.shape[1]} units; received unit {unit}"
            )
        column = np.ascontiguousarray(matrix[:, unit], dtype="<f4")
        return Response(column.tobytes(), media_type="application/octet-stream")

    def order(self, request: Request) -> Data:
        key, by = request.path_params["key"], request.path_params["by"]
        return Data(self.inspection.order(key, by))

    def interesting(self, request: Request) -> Data:
        detector = request.path_params["detector"]
        pattern = request.query_params.get("pattern", "")
        return Data(self.inspection.interesting(detector, pattern))

    def saturation(self, request: Request) -> Data:
        return Data(saturation_beside(self.inspection, self.beside))

    def predictions(self, request: Request) -> Data:
        return Data(self.inspection.predictions())

    def flow(self, request: Request) -> Data:
        return Data(self.inspection.flow())

    def flow_at(self, request: Request) -> Data:
        return Data(self.inspection.flow_at(request.path_params["step"]))

    def triangle(self, request: Request) -> Response:
        return levels(*self.inspection.flow_triangle(request.path_params["name"]))

    async def live(self, request: Request) -> Data:
        do, body = request.path_params["do"], await read_json(request)
        if do not in LIVE:
            raise ArgumentError(
                f"[live] received {do!r}, expected one of {', '.join(LIVE)}"
            )
        needed = ("text",) if do == "type" else ()
        known = {"page": TEXT, "key": TEXT, **LIVE[do]}
        given = options(f"live/{do}", body, known, needed)
        return Data(await run_in_threadpool(self._act, do, given))

    def _act(self, do: str, given: dict[str, Any]) -> dict[str, Any]:
        """Type, write or take back on a page's text; then show it."""
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
        return Data(await run_in_threadpool(self.inspection.intervene, changes))


def levels(low: float, high: float, matrix: np.ndarray) -> Response:
    """A matrix of bytes with its scale."""
    rows, columns = matrix.shape
    headers = {
        "X-Low": repr(low),
        "X-High": repr(high),
        "X-Rows": str(rows),
        "X-Columns": str(columns),
    }
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
