"""The exam's page and its data.

    GET  /                        the page
    GET  /examiner                the key points, for a screen of the examiner's own
    GET  /api/exam                questions, their evidence, hints, times, the saved
                                  session, and a notice if that was broken
    GET  /api/session             the same without its sketches, and the server's clock
    PUT  /api/session             save the session (the page owns it; any JSON object)
    POST /api/marks               a mark that the examiner's page makes
    DELETE /api/marks             hand these marks over to the page, which keeps them
    GET  /api/figure/{id}         the figure of a question
    GET  /api/evidence/{id}       the laboratory's result for a question
    POST /api/evidence/{id}       run its experiment's quick form again
    GET  /api/plot/{id}           its plot

The session lives in one file, so that an exam outlasts a reload, and the server too.
The exam's page alone writes it. Marks of the examiner's page wait until it takes them.
"""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Route

from ..files import write_atomically
from ..language.errors import ArgumentError
from ..look.figures import figure
from ..look.web.app import Data, checked_json, page, read_json
from .evidence import Evidence
from .questions import HINTS, Question

MOST_MARKS = 1000  # that wait: of an examiner's page without an exam


class ExamServer:
    """Routes of one exam.

    Args:
        questions: to draw from.
        directory: for the session and the laboratory's runs.
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
        self.marks: list[dict[str, Any]] = []  # those that the page has not taken
        directory.mkdir(parents=True, exist_ok=True)

    def routes(self) -> list[Route]:
        """What the application serves."""
        return [
            Route("/", self.show),
            Route("/examiner", self.show_examiner),
            Route("/api/exam", self.exam),
            Route("/api/session", self.read),
            Route("/api/session", self.save, methods=["PUT"]),
            Route("/api/marks", self.mark, methods=["POST"]),
            Route("/api/marks", self.take_marks, methods=["DELETE"]),
            Route("/api/evidence/{id}", self.show_evidence),
            Route("/api/evidence/{id}", self.run_again, methods=["POST"]),
            Route("/api/plot/{id}", self.plot),
            Route("/api/figure/{id}", self.figure),
        ]

    def show(self, request: Request) -> HTMLResponse:
        return page("Pair exam", "exam")

    def show_examiner(self, request: Request) -> HTMLResponse:
        return page("Examiner", "examiner")

    def exam(self, request: Request) -> Data:
        questions = self.questions.values()
        answer, feedback, discussion = (60 * m for m in self.minutes)
        return Data(
            {
                "questions": [asdict(q) for q in questions],
                "evidence": {q.id: self.evidence.of(q) for q in questions},
                "hints": HINTS,
                "seconds": {
                    "answer": answer,
                    "feedback": feedback,
                    "discussion": discussion,
                },
                **self._saved(),
            }
        )

    def _saved(self) -> dict[str, Any]:
        """The saved session or None, and a notice if the file was broken.

        A file that cannot be read as a session is set aside, so that the exam can go
        on, and the file can be looked at.
        """
        if not self.session.exists():
            return {"session": None, "notice": None}
        try:
            session = checked_json(self.session.read_bytes())
            return {"session": _session(session), "notice": None}
        except (ArgumentError, OSError):
            aside = self._set_aside()
            notice = (
                f"[{self.session}] was no session, and is {aside.name} now. This exam "
                "begins anew"
            )
            return {"session": None, "notice": notice}

    def _set_aside(self) -> Path:
        """Rename the session's file to a name that is free."""
        names = (f"session-broken-{n}.json" for n in itertools.count(1))
        free = (self.session.with_name(name) for name in names)
        aside = next(path for path in free if not path.exists())
        return self.session.rename(aside)

    def read(self, request: Request) -> Data:
        session = self._saved()["session"]
        return Data({"session": _without_sketches(session), "now": 1000 * time.time()})

    async def mark(self, request: Request) -> Data:
        mark = await read_json(request)
        if not isinstance(mark, dict) or len(self.marks) >= MOST_MARKS:
            raise ArgumentError(
                f"[marks] received {type(mark).__name__} after {len(self.marks)} marks "
                f"that wait, expected a JSON object, and at most {MOST_MARKS} of them"
            )
        self.marks.append(mark)
        return Data(len(self.marks))

    def take_marks(self, request: Request) -> Data:
        taken, self.marks = self.marks, []
        return Data(taken)

    async def save(self, request: Request) -> Response:
        session = _session(await read_json(request))
        write_atomically(self.session, json.dumps(session).encode())
        return Response(status_code=204)

    def show_evidence(self, request: Request) -> Data:
        return Data(self.evidence.of(self._question(request)))

    def run_again(self, request: Request) -> Data:
        question = self._question(request)
        self.evidence.run(question.experiment)
        return Data(self.evidence.of(question))

    def plot(self, request: Request) -> FileResponse:
        return FileResponse(self.evidence.plot(self._question(request).experiment))

    def figure(self, request: Request) -> Response:
        svg = figure(self._question(request).figure).svg
        return Response(svg, media_type="image/svg+xml")

    def _question(self, request: Request) -> Question:
        identity = request.path_params["id"]
        if identity not in self.questions:
            raise ArgumentError(
                f"[exam] no question {identity!r}; expected {', '.join(self.questions)}"
            )
        return self.questions[identity]


def _without_sketches(session: dict[str, Any] | None) -> dict[str, Any] | None:
    """For the examiner's page, which asks every second: sketches may be megabytes."""
    if session is None or not isinstance(session.get("rounds"), list):
        return session
    rounds = [
        {key: value for key, value in round.items() if key != "strokes"}
        for round in session["rounds"]
        if isinstance(round, dict)
    ]
    return {**session, "rounds": rounds}


def _session(value: Any) -> dict[str, Any] | None:
    if value is not None and not isinstance(value, dict):
        raise ArgumentError(
            f"[session] received {type(value).__name__}, expected a JSON object or null"
        )
    return value
