"""Serve a page on this machine until the user stops it."""

from __future__ import annotations

import socket
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.routing import BaseRoute

from ...language.errors import ArgumentError
from .app import make_app

LOCAL = ("127.0.0.1", "localhost")


def serve(
    routes: Sequence[BaseRoute],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    browse: bool = True,
    say: Callable[[str], Any] = print,
) -> None:
    """Run until interrupted.

    Args:
        routes: of the page and its data.
        host: the address to listen on; another than this machine's own lets others in.
        port: 0 takes a free one.
        browse: open the page in the user's browser.
        say: called with one line that tells the address.

    Raises:
        ArgumentError: the address cannot be had.
    """
    listener = _listen(host, port)
    port = listener.getsockname()[1]
    names = LOCAL if host in LOCAL else (host, *LOCAL)
    app = make_app(routes, [f"{name}:{port}" for name in names])
    address = f"http://{host}:{port}/"
    if host not in LOCAL:
        say(f"anyone who reaches {host} can read and use this page")
    say(f"{address} (stop with Ctrl+C)")
    if browse:
        webbrowser.open(address)
    config = uvicorn.Config(app, log_level="warning", access_log=False, ws="none")
    uvicorn.Server(config).run(sockets=[listener])


@contextmanager
def served(routes: Sequence[BaseRoute]) -> Iterator[str]:
    """Serve from a thread of this process while a block runs; gives the address."""
    listener = _listen(LOCAL[0], 0)
    host = f"{LOCAL[0]}:{listener.getsockname()[1]}"
    app = make_app(routes, [host])
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while thread.is_alive() and not server.started:
            time.sleep(0.01)
        yield f"http://{host}/"
    finally:
        server.should_exit = True
        thread.join()


def _listen(host: str, port: int) -> socket.socket:
    # asyncio turns Nagle's algorithm off where it sees TCP; it costs 40 ms an answer.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()  # from now on a browser waits, and is not refused
    except OSError as error:
        listener.close()
        raise ArgumentError(
            f"[serve] cannot listen on {host}:{port}: {error.strerror or error}. "
            "Another --port may be free; --port 0 takes any"
        ) from None
    return listener
