"""The command itself: what every command of the family shares, errors above all.

Every error that cellwright raises on purpose becomes one message on standard error and
status 1.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from ..language.errors import CellwrightError

# click's error of usage, of which typer exports only what derives from it.
UsageError: Any = typer.BadParameter.__mro__[1]
BROKEN_PIPE = 141  # the status of a process that SIGPIPE ended, as shells have it


class Commands(TyperGroup):
    """Turns expected errors into a message and a status, for every command."""

    def invoke(self, ctx: Any) -> Any:
        from ..engine import native

        status = 1
        try:
            native.check_environment()
            return super().invoke(ctx)
        except CellwrightError as error:
            typer.echo(f"error: {error}", err=True)
        except UsageError as error:
            message = error.format_message().replace("\n", " ")
            hint = f"cellwright {ctx.invoked_subcommand or ''}".strip()
            typer.echo(f"error: {message} Try '{hint} --help'", err=True)
            status = 2
        except BrokenPipeError:
            status = BROKEN_PIPE  # the reader has enough: `… | head` is no error
        except OSError as error:
            where = f"[{error.filename}] " if error.filename else "[disk] "
            typer.echo(f"error: {where}{error.strerror or error}", err=True)
        except KeyboardInterrupt:
            typer.echo("stopped", err=True)
            status = 130
        raise typer.Exit(status)


app = typer.Typer(
    cls=Commands,
    help="Write the step of a recurrent cell as its equations; train it on text.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _open_streams() -> None:
    """Give every standard stream that was closed to the null device.

    Else the next file that is opened would be what libraries write their messages to.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):  # the terminal may lack a character
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _flushed(status: int) -> int:
    """Write out what is left; the status, which is another where that fails."""
    try:
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        status = BROKEN_PIPE
    except OSError as error:
        typer.echo(f"error: [standard output] {error.strerror}", err=True)
        status = 1
    # Python flushes once more at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def main() -> None:
    """The entry point of `cellwright` and of `python -m cellwright`."""
    from ..train import interrupt

    try:
        _open_streams()
        interrupt.end_on_interrupt()
        app()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        status = interrupt.STATUS
    except BrokenPipeError:
        status = BROKEN_PIPE
    interrupt.leave(_flushed(status))
