"""Commands that serve a page: `exam` and `inspect`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from ..extras import require
from ..language.errors import CellwrightError
from .app import app
from .show import with_bar

Host = Annotated[str, Option(help="Address to listen on; others may reach 0.0.0.0.")]
Port = Annotated[int, Option(help="0 takes a free one.", min=0, max=65535)]
Browser = Annotated[bool, Option(help="Open the page.")]


@app.command()
def exam(
    questions: Annotated[
        list[Path] | None,
        Option(help="Further questions: a TOML file, or a folder of them."),
    ] = None,
    answer: Annotated[float, Option(help="Minutes of the answer.")] = 1.0,
    feedback: Annotated[float, Option(help="Minutes of the feedback.")] = 1.0,
    discussion: Annotated[float, Option(help="Minutes of the discussion.")] = 1.0,
    out: Annotated[
        Path, Option(help="Keeps the exam, and what the laboratory runs for it.")
    ] = Path("runs/exam"),
    host: Host = "127.0.0.1",
    port: Port = 0,
    browser: Browser = True,
) -> None:
    """Examine each other on recurrent nets, or yourself alone, in the browser."""
    from ..exam.questions import load

    require("cellwright exam", "web")
    from ..exam.server import ExamServer
    from ..look.web.serve import serve

    server = ExamServer(load(questions or []), out, (answer, feedback, discussion))
    try:
        serve(server.routes(), host=host, port=port, browse=browser, say=typer.echo)
    finally:
        server.evidence.stop()


@app.command()
def inspect(
    directory: Annotated[Path, Argument(metavar="DIR", help="A run.")],
    text: Annotated[
        Path | None,
        Option(
            help="What it reads; of a run of pairs an input a line. Default: what the "
            "run holds out."
        ),
    ] = None,
    prompt: Annotated[
        str | None, Option(help="What it reads, instead of a file.")
    ] = None,
    beside: Annotated[
        Path | None, Option(help="A second run, to compare saturation with.")
    ] = None,
    steps: Annotated[int, Option(help="Tokens to read, at most.", min=2)] = 2000,
    report: Annotated[
        Path | None,
        Option(help="Write the page as one HTML file instead of serving it."),
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = 0,
    browser: Browser = True,
) -> None:
    """Look inside a run: units, gates, gradients, predictions; type to it.

    Of a run of pairs: the outputs of an input, and where the decoder looked.
    """
    from ..text.corpus import read_pieces
    from ..text.directory import format_of
    from ..text.pairs.run import PairRun

    require("cellwright inspect", "web")
    from ..look.web.serve import serve

    if text and prompt is not None:
        raise CellwrightError(
            "[inspect] a run reads one text; received --text and --prompt, expected one"
        )
    read = "".join(read_pieces(text)) if text else prompt
    if format_of(directory) == PairRun.format:
        routes = _pair_routes(directory, beside, read, report)
    else:
        routes = _text_routes(directory, beside, read, steps, report)
    if report:
        typer.echo(f"{report}: {report.stat().st_size / 2**20:.1f} MiB")
    else:
        serve(routes, host=host, port=port, browse=browser, say=typer.echo)


def _text_routes(
    directory: Path,
    beside: Path | None,
    read: str | None,
    steps: int,
    report: Path | None,
) -> list[Any]:
    """The page of a language model, which may be written as a report."""
    from ..look.inspection import Inspection
    from ..look.web.inspect import InspectServer
    from ..look.web.report import write_report
    from ..text.run import Run

    found: list[Inspection] = []
    for run in [Run(directory), *([Run(beside)] if beside else [])]:
        own = found[0].text_for(run) if found and read is None else read
        look = partial(Inspection, run, own, steps=steps)
        found.append(with_bar(steps, lambda step, look=look: look(advance=step)))
    if report:
        write_report(found[0], report, *found[1:])
    return InspectServer(*found).routes()


def _pair_routes(
    directory: Path, beside: Path | None, read: str | None, report: Path | None
) -> list[Any]:
    """The page of a run of pairs, which may be written as a report."""
    from ..look.pair_inspection import PairInspection
    from ..look.web.pairs import PairServer, write_pair_report
    from ..text.pairs.run import PairRun

    if beside is not None:
        raise CellwrightError(
            "[--beside] compares language models; received it with a run of pairs. "
            "Leave it out"
        )
    inputs = None if read is None else read.splitlines()
    inspection = PairInspection(PairRun(directory), inputs)
    if report:
        write_pair_report(inspection, report)
    return PairServer(inspection).routes()
