"""Pages in the browser: a local server that answers its own pages alone."""

from __future__ import annotations

from importlib.util import find_spec

from ...language.errors import CellwrightError


def needs(what: str) -> None:
    """Check that the server's libraries are there.

    Args:
        what: asks for them, for the message.

    Raises:
        CellwrightError: one is missing.
    """
    for name in ("starlette", "uvicorn"):
        if find_spec(name) is None:
            raise CellwrightError(
                f"[{what}] needs the package {name}, which is not installed: "
                "pip install 'cellwright[web]'"
            )
