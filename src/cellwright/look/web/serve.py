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
from .hosts import Hosts, in_address, is_any, is_loopback, reachable_as

LOCAL = "127.0.0.1"


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
        host: the address to listen on; another than this machine's loopback lets in
            whoever reaches it, by an address in numbers or this machine's name.
        port: 0 takes a free one.
        browse: open the page in the user's browser.
        say: called with one line that tells the address.

    Raises:
        ArgumentError: the address cannot be had.
    """
    listener = _listen(host, port)
    port = listener.getsockname()[1]
    app = make_app(routes, reachable_as(host, port))
    address = f"http://{LOCAL if is_any(host) else in_address(host)}:{port}/"
    if not is_loopback(host):
        name = socket.gethostname() if is_any(host) else in_address(host)
        say(f"anyone who reaches http://{name}:{port}/ can read and use this page")
    say(f"{address} (stop with Ctrl+C)")
    if browse:
        webbrowser.open(address)
    config = uvicorn.Config(app, log_level="warning", access_log=False, ws="none")
    uvicorn.Server(config).run(sockets=[listener])


@contextmanager
def served(routes: Sequence[BaseRoute]) -> Iterator[str]:
    """Serve from a thread of this process while a block runs; gives the address."""
    listener = _listen(LOCAL, 0)
    host = f"{LOCAL}:{listener.getsockname()[1]}"
    app = make_app(routes, Hosts([host]))
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
    if not host:
        raise ArgumentError(
            f"[host] received {host!r}, expected an address: {LOCAL} for this machine "
            "alone, 0.0.0.0 for whoever reaches it"
        )
    if not 0 <= port <= 65535:
        raise ArgumentError(f"[port] received {port}, expected 0 to 65535")
    listener = None
    try:
        family, address = _resolved(host, port)
        # asyncio turns Nagle's algorithm off where it sees TCP; it costs 40 ms.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()  # from now on a browser waits, and is not refused
    except (OSError, OverflowError, UnicodeError) as error:
        if listener is not None:
            listener.close()
        reason = getattr(error, "strerror", None) or error
        raise ArgumentError(
            f"[serve] cannot listen on {host}:{port}: {reason}. "
            "Another --port may be free; --port 0 takes any"
        ) from None
    return listener


def _resolved(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """A host's address, of IPv4 where it has one: that is what localhost means here."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    return found[0][0], found[0][4]
