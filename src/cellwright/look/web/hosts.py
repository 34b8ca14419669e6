"""Which `Host` a request may name: what keeps a page to those whom it is meant for.

A browser sends the name that it asked for. A foreign name means that somebody's domain
was pointed at our address (DNS rebinding), so that their page may read ours. An address
in numbers cannot be pointed anywhere.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable

LOOPBACK = ("127.0.0.1", "[::1]", "localhost")

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(?::([0-9]{1,5}))?")


class Hosts:
    """The hosts that may be asked for: `host in hosts`.

    Args:
        exact: hosts with their port, such as "127.0.0.1:8000".
        names: hosts at any port, for a page that others may reach (a container or a
            router may show it at another); every address in numbers is one of them.
            None for a page that is this machine's alone.
    """

    def __init__(
        self, exact: Iterable[str], names: Iterable[str] | None = None
    ) -> None:
        self._shown = [*exact, *sorted(names or ())]
        self._exact = {_split(host) for host in exact}
        self._names = None if names is None else {name.lower() for name in names}

    def __contains__(self, host: str) -> bool:
        found = _split(host)
        if found is None:
            return False
        if found in self._exact:
            return True
        return self._names is not None and (
            found[0] in self._names or is_address(found[0])
        )

    def __str__(self) -> str:
        numbers = [] if self._names is None else ["an address in numbers"]
        return " or ".join([*self._shown, *numbers])


def reachable_as(host: str, port: int) -> Hosts:
    """Who may ask a server that listens on `host`.

    On this machine's own loopback: this machine, by the names of loopback. On another
    address: whoever reaches it, by its address in numbers, by `host`, or by this
    machine's own name.
    """
    own = [f"{name}:{port}" for name in (in_address(host), *LOOPBACK)]
    exact = dict.fromkeys(own)
    return Hosts(
        exact, None if is_loopback(host) else [in_address(host), *_own_names()]
    )


def in_address(host: str) -> str:
    """A host as it stands before the port."""
    return f"[{host}]" if ":" in host else host


def is_address(host: str) -> bool:
    """Whether a host is an address in numbers."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether a host is this machine alone."""
    if is_address(host):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return host in LOOPBACK


def is_any(host: str) -> bool:
    """Whether a host stands for every address of this machine."""
    return is_address(host) and ipaddress.ip_address(host).is_unspecified


def _own_names() -> list[str]:
    """What others call this machine: its name, alone and in its domains."""
    name = socket.gethostname().lower()
    short = name.partition(".")[0]
    return list(dict.fromkeys([name, short, f"{short}.local", *LOOPBACK]))


def _split(host: str) -> tuple[str, int] | None:
    """A host's name and port, 80 where it has none; None for what is no host."""
    found = _HOST.fullmatch(host.lower())
    return (found[1], int(found[2] or 80)) if found else None
