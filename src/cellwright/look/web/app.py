"""The local web application that every page of cellwright shares.

It answers the machine it runs on, and no page of another origin: a browser sends `Host`
and `Origin` with a request, and both must be ours (a foreign `Host` is DNS rebinding, a
foreign `Origin` is another site's script). The pages themselves may load only what this
server sends: no inline script, no foreign address.

What it cannot answer it refuses in a sentence, {"error": …}: 400 for a request that
makes no sense, 413 for one that is too long.
"""

from __future__ import annotations

import json
import math
from collections.abc import Container, Sequence
from html import escape
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.convertors import IntegerConvertor, register_url_convertor
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
)
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles

from ...language.errors import ArgumentError, CellwrightError

STATIC = Path(__file__).parent / "static"

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


BODY_LIMIT = 32 * 2**20  # bytes: an exam's sketches; all else is far shorter
DEEPEST = 64  # levels of JSON in JSON


def make_app(
    routes: Sequence[BaseRoute],
    hosts: Container[str],
    body_limit: int = BODY_LIMIT,
) -> Starlette:
    """An application with our routes, our static files, and our rules.

    Args:
        routes: of the page and its data.
        hosts: what the `Host` header may be, such as "127.0.0.1:8000".
        body_limit: bytes that a request may bring; more is refused, and not read.
    """
    return Starlette(
        routes=[*routes, Mount("/static", StaticFiles(directory=STATIC))],
        middleware=[
            Middleware(SameOrigin, hosts=hosts),
            Middleware(BodyLimit, limit=body_limit),
        ],
        exception_handlers={
            CellwrightError: _explain,
            HTTPException: _refuse,
            OSError: _fail,
            ClientDisconnect: _disconnected,
        },
    )


def page(title: str, name: str) -> HTMLResponse:
    """The one HTML page: `name` tells the bundle which page to draw.

    Args:
        title: in the window's title bar.
        name: the page's entry in `web/src/main.js`.
    """
    return HTMLResponse(
        "<!doctype html>\n"
        '<html lang="en">\n'
        '<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n"
        '<link rel="icon" href="data:,">\n'
        '<link rel="stylesheet" href="/static/cellwright.css">\n'
        '<script type="module" src="/static/cellwright.js"></script>\n'
        f'<body data-page="{escape(name)}"></body>\n'
        "</html>\n"
    )


class Count(IntegerConvertor):
    """`{name:count}` in a route's path: a whole number that a tensor's size can be."""

    regex = "[0-9]{1,18}"


register_url_convertor("count", Count())


class Data(JSONResponse):
    """Plain data as JSON, which has no infinities and no NaN: those are null."""

    def render(self, content: Any) -> bytes:
        try:
            return super().render(content)
        except ValueError:
            return super().render(_finite(content))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


async def read_json(request: Request) -> Any:
    """The request's body: JSON that can be written again.

    Raises:
        ArgumentError: as `checked_json`.
    """
    return checked_json(await request.body())


def checked_json(text: bytes) -> Any:
    """JSON that can be written again.

    Raises:
        ArgumentError: it is no JSON, or holds what JSON or UTF-8 cannot say: NaN, a
            number beyond a double (1e999), half a surrogate pair; or it is nested
            more deeply than it could be written inside an answer.
    """
    try:
        value = json.loads(text)
        if _is_deeper(value, DEEPEST):
            raise RecursionError
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ArgumentError(
            f"[request] nested too deeply; expected at most {DEEPEST} levels"
        ) from None
    except ValueError as error:
        raise ArgumentError(f"[request] expected JSON: {error}") from None
    return value


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects stand in one another more than so often."""
    layer = [value]
    for _ in range(levels):
        groups = [
            v.values() if isinstance(v, dict) else v
            for v in layer
            if isinstance(v, dict | list)
        ]
        layer = [member for group in groups for member in group]
    return any(isinstance(v, dict | list) for v in layer)


def _explain(request: Request, error: Exception) -> JSONResponse:
    """An expected error reaches the page as its message."""
    return JSONResponse({"error": str(error)}, status_code=400)


def _refuse(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return JSONResponse(
        {"error": error.detail}, error.status_code, headers=error.headers
    )


def _fail(request: Request, error: Exception) -> JSONResponse:
    """A file that cannot be read or written: the user's disk, and no bug."""
    assert isinstance(error, OSError)
    where = error.filename or "disk"
    return JSONResponse({"error": f"[{where}] {error.strerror or error}"}, 500)


def _disconnected(request: Request, error: Exception) -> Response:
    """The client went away before its whole request had come."""
    return Response(status_code=400)


class BodyLimit:
    """Refuses long bodies: by their declared length, or as soon as they exceed it."""

    def __init__(self, app: Any, limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        too_long = HTTPException(
            413,
            f"[request] too long; expected at most {self.limit} bytes",
            {"Connection": "close"},
        )
        if declared.isdecimal() and (len(declared) > 18 or int(declared) > self.limit):
            await _refuse(Request(scope), too_long)(scope, receive, send)
            return
        read = 0

        async def receive_within_limit() -> Any:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.limit:
                raise too_long
            return message

        await self.app(scope, receive_within_limit, send)


class SameOrigin:
    """Refuses other hosts and other origins, and adds the security headers."""

    def __init__(self, app: Any, hosts: Container[str]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        reason = self._foreign(Headers(scope=scope))
        if reason:
            response = PlainTextResponse(reason, status_code=403)
            await response(scope, receive, send)
            return

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers)

    def _foreign(self, headers: Headers) -> str | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if host not in self.hosts:
            return f"[Host] received {host!r}, expected {self.hosts}"
        if origin is not None and origin != f"http://{host}":
            return f"[Origin] received {origin!r}, expected 'http://{host}'"
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return "[Sec-Fetch-Site] a page of another site asked; expected our own"
        return None
