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

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from ...language.errors import ArgumentError
from ..inspection import Inspection, described_beside, saturation_beside
from ..live import Live
from ..reading import Change
from .app import page

LIVE_PAGES = 8  # texts in progress that are kept, one a page


class InspectServer:
    """Routes of one inspection; `beside` is a second model's, for comparison."""

    def __init__(self, inspection: Inspection, beside: Inspection | None = None):
        self.inspection, self.beside = inspection, beside
        self._live: dict[str, Live] = {}

    def routes(self) -> list[Route]:
        """What the application serves."""
        return [
            Route("/", self.show),
            Route("/api/run", self.describe),
            Route("/api/values/{key}/{first:int}/{end:int}", self.values),
            Route("/api/exact/{key}/{unit:int}", self.exact),
            Route("/api/order/{key}/{by}", self.order),
            Route("/api/interesting/{detector}", self.interesting),
            Route("/api/saturation", self.saturation),
            Route("/api/predictions", self.predictions),
            Route("/api/flow", self.flow),
            Route("/api/flow/{step:int}", self.flow_at),
            Route("/api/triangle/{name}", self.triangle),
            Route("/api/live/{do}", self.live, methods=["POST"]),
            Route("/api/intervene", self.intervene, methods=["POST"]),
        ]

    def show(self, request: Request) -> HTMLResponse:
        return page(f"{self.inspection.run.directory.name}: inspector", "inspect")

    def describe(self, request: Request) -> JSONResponse:
        return JSONResponse(described_beside(self.inspection, self.beside))

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

    def order(self, request: Request) -> JSONResponse:
        key, by = request.path_params["key"], request.path_params["by"]
        return JSONResponse(self.inspection.order(key, by))

    def interesting(self, request: Request) -> JSONResponse:
        detector = request.path_params["detector"]
        pattern = request.query_params.get("pattern", "")
        return JSONResponse(self.inspection.interesting(detector, pattern))

    def saturation(self, request: Request) -> JSONResponse:
        return JSONResponse(saturation_beside(self.inspection, self.beside))

    def predictions(self, request: Request) -> JSONResponse:
        return JSONResponse(self.inspection.predictions())

    def flow(self, request: Request) -> JSONResponse:
        return JSONResponse(self.inspection.flow())

    def flow_at(self, request: Request) -> JSONResponse:
        return JSONResponse(self.inspection.flow_at(request.path_params["step"]))

    def triangle(self, request: Request) -> Response:
        return levels(*self.inspection.flow_triangle(request.path_params["name"]))

    async def live(self, request: Request) -> JSONResponse:
        body = await json_object(request)
        live, key = self._live_of(str(body.pop("page", ""))), body.pop("key", None)
        do: dict[str, Callable[..., Any]] = {
            "reset": live.reset, "type": live.type, "back": live.back,
            "sample": live.sample, "show": lambda: None,
        }  # fmt: skip
        call(do, request.path_params["do"], body)
        return JSONResponse(live.show(key))

    def _live_of(self, page: str) -> Live:
        """The text in progress of a page; the oldest gives way."""
        live = self._live.pop(page, None)
        if live is None:
            live = Live(self.inspection.reader, self.inspection.tokenizer)
        self._live[page] = live
        while len(self._live) > LIVE_PAGES:
            del self._live[next(iter(self._live))]
        return live

    async def intervene(self, request: Request) -> JSONResponse:
        body = await json_object(request)
        try:
            changes = [Change(**change) for change in body.get("changes", [])]
        except TypeError as error:
            raise ArgumentError(f"[intervene] no change: {error}") from None
        found = await run_in_threadpool(self.inspection.intervene, changes)
        return JSONResponse(found)


def levels(low: float, high: float, matrix: np.ndarray) -> Response:
    """A matrix of bytes with its scale."""
    rows, columns = matrix.shape
    headers = {
        "X-Low": repr(low), "X-High": repr(high), "X-Columns": str(columns),
        "X-Rows": str(rows),
    }  # fmt: skip
    return Response(
        matrix.tobytes(), media_type="application/octet-stream", headers=headers
    )


async def json_object(request: Request) -> dict[str, Any]:
    """The request's body.

    Raises:
        ArgumentError: it is no JSON object.
    """
    try:
        body = json.loads(await request.body())
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise ArgumentError("[request] expected a JSON object")
    return body


def call(do: Mapping[str, Callable[..., Any]], what: str, options: dict[str, Any]):
    """Call one of several functions with options that came from a page."""
    if what not in do:
        raise ArgumentError(f"[request] received {what!r}, expected {', '.join(do)}")
    try:
        return do[what](**options)
    except TypeError as error:
        raise ArgumentError(f"[request] {what}: {error}") from None
