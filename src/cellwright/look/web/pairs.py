"""The page of a run of pairs.

GET  /           the page
GET  /api/pairs  the model, and inputs to look at
POST /api/look   {"text": …, "beam": …}: outputs, attention, values of every gate
"""

from __future__ import annotations

import json
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from ...files import write_atomically
from ...language.errors import ArgumentError
from ..pair_inspection import PairInspection
from .app import Data, page, read_json
from .report import in_one_file


class PairServer:
    """Routes of one inspection."""

    def __init__(self, inspection: PairInspection):
        self.inspection = inspection

    def routes(self) -> list[Route]:
        """What the application serves."""
        return [
            Route("/", self.show),
            Route("/api/pairs", self.describe),
            Route("/api/look", self.look, methods=["POST"]),
        ]

    def show(self, request: Request) -> HTMLResponse:
        return page(f"{self.inspection.run.directory.name}: inspector", "pairs")

    def describe(self, request: Request) -> Data:
        return Data(self.inspection.describe())

    async def look(self, request: Request) -> Data:
        asked = await read_json(request)
        text, beam = (
            asked.get(name) if isinstance(asked, dict) else None
            for name in ("text", "beam")
        )
        if not isinstance(text, str) or type(beam) is not int:
            raise ArgumentError(
                f"[look] received {asked!r}, expected a text and a beam, a whole number"
            )
        return Data(await run_in_threadpool(self.inspection.look, text, beam))


def write_pair_report(inspection: PairInspection, path: Path) -> None:
    """The page as one file, of the inputs that the inspection offers."""
    described = inspection.describe()
    looks = [inspection.look(text, described["beam"]) for text in inspection.inputs]
    data = json.dumps({"pairs": described, "looks": looks}, ensure_ascii=False)
    title = f"{inspection.run.directory.name}: report"
    write_atomically(path, in_one_file(title, "pairs-report", data).encode())
