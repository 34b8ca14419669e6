"""The exam's page and its data.

    GET  /                        the page
    GET  /api/exam                questions, what backs them, hints, times, and the
                                  session kept so far
    PUT  /api/session             keep the session (the page owns it; any JSON object)
    GET  /api/evidence/{id}       the laboratory's result for a question
    POST /api/evidence/{id}       run its experiment's quick form again
    GET  /api/plot/{id}           its plot

The session lives in one file, so that an exam outlasts a reload, and the server too.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from ..language.errors import ArgumentError
from ..look.web.app import page
from ..train.checkpoint import write_atomically
from .evidence import Evidence
from .questions import HINTS, Question

SESSION_LIMIT = 32 * 2**20  # bytes: sketches of many questions


class ExamServer:
    """Routes of one exam.

    Args:
        questions: to draw from.
        directory: keeps the session and what the laboratory runs.
        minutes: of answer, feedback and discussion.
    """

    def __init__(
        self,
        questions: list[Question],
        directory: Path,
        minutes: tuple[float, float, float] = (1.0, 1.0, 1.0),
    ) -> None:
        if any(not 0 < m <= 60 for m in minutes):
            raise ArgumentError(
                f"[exam] times are in minutes; received {minutes}, expected more than "
                "0 and at most 60 each"
            )
        self.questions = {q.id: q for q in questions}
        self.session = directory / "session.json"
        self.evidence = Evidence(directory / "lab")
        self.minutes = minutes
        directory.mkdir(parents=True, exist_ok=True)

    def routes(self) -> list[Route]:
        """What the application serves."""
        return [
            Route("/", self.show),
            Route("/api/exam", self.exam),
            Route("/api/session", self.keep, methods=["PUT"]),
            Route("/api/evidence/{id}", self.show_evidence),
            Route("/api/evidence/{id}", self.run_again, methods=["POST"]),
            Route("/api/plot/{id}", self.plot),
        ]

    def show(self, request: Request) -> HTMLResponse:
        return page("Pair exam", "exam")

    def exam(self, request: Request) -> JSONResponse:
        questions = self.questions.values()
        answer, feedback, discussion = (60 * m for m in self.minutes)
        return JSONResponse(
            {
                "questions": [asdict(q) for q in questions],
                "evidence": {q.id: self.evidence.of(q) for q in questions},
                "hints": HINTS,
                "seconds": {
                    "answer": answer,
                    "feedback": feedback,
                    "discussion": discussion,
                },
                "session": self._kept(),
            }
        )

    def _kept(self) -> Any:
        """The session of last time; None if there is none."""
        if not self.session.exists():
            return None
        try:
            return json.loads(self.session.read_text(encoding="utf-8"))
        except ValueError:
            raise ArgumentError(
                f"[{self.session}] is no session; expected JSON. Delete it to begin "
                "anew"
            ) from None

    async def keep(self, request: Request) -> Response:
        body = await request.body()
        if len(body) > SESSION_LIMIT:
            raise ArgumentError(
                f"[session] too long; received {len(body)} bytes, expected at most "
                f"{SESSION_LIMIT}"
            )
        try:
            session = json.loads(body)
        except ValueError:
            session = "no JSON"
        if session is not None and not isinstance(session, dict):
            raise ArgumentError(
                f"[session] received {type(session).__name__}, expected a JSON object "
                "or null"
            )
        write_atomically(self.session, json.dumps(session).encode())
        return Response(status_code=204)

    def show_evidence(self, request: Request) -> JSONResponse:
        return JSONResponse(self.evidence.of(self._question(request)))

    def run_again(self, request: Request) -> JSONResponse:
        question = self._question(request)
        self.evidence.run(question.experiment)
        return JSONResponse(self.evidence.of(question))

    def plot(self, request: Request) -> FileResponse:
        return FileResponse(self.evidence.plot(self._question(request).experiment))

    def _question(self, request: Request) -> Question:
        identity = request.path_params["id"]
        if identity not in self.questions:
            raise ArgumentError(
                f"[exam] no question {identity!r}; expected {', '.join(self.questions)}"
            )
        return self.questions[identity]
