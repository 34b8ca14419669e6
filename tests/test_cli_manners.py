"""The command line's manners: Ctrl+C, closed pipes, and options out of their range."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cellwright import ArgumentError, cells
from cellwright.language.errors import CellwrightError
from cellwright.look.check import check_cell
from cellwright.look.draw import Drawing, draw
from cellwright.text.generate import generate
from test_cli import call
from web.runs import make_run

# What follows it presses Ctrl+C; `begin` is called where a command begins.
INTERRUPTED = """
import os, signal, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
from cellwright import cli
from cellwright.cli.app import Commands
from cellwright.look import check, inspection
from cellwright.text import job
from cellwright.train import interrupt

def press():
    os.kill(os.getpid(), signal.SIGINT)

begin, invoke = lambda: None, Commands.invoke

def begun(*arguments):
    begin()
    return invoke(*arguments)

Commands.invoke = begun
{so}
sys.argv = ["cellwright", *sys.argv[1:]]
cli.main()
"""

# Ctrl+C once the command is under way: it has imported nothing for half a second.
UNDER_WAY = """
def wait():
    known = 0
    while known != len(sys.modules):
        known = len(sys.modules)
        time.sleep(0.5)
    press()

begin = threading.Thread(target=wait, daemon=True).start
"""


def python(script: str, *arguments: object, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    options = {"capture_output": True, "stdin": subprocess.DEVNULL, **options}
    return subprocess.run(
        command, timeout=600, env=environment, text=True, check=False, **options
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("manners"), layers=1).directory


@pytest.fixture
def never() -> int:
    """The end of a pipe that nobody writes to, and nobody closes."""
    reader, writer = os.pipe()
    yield reader
    os.close(reader)
    os.close(writer)


# ── Ctrl+C ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "command",
    [
        "generate RUN --length 100000000",
        "train - --out OUT",
        "inspect RUN --no-browser",
        pytest.param("exam --no-browser --out OUT", marks=pytest.mark.full),
        pytest.param("evaluate RUN -", marks=pytest.mark.full),
        pytest.param("check lstm --steps 10000 --hidden 64", marks=pytest.mark.full),
        pytest.param("lab bptt --out OUT", marks=pytest.mark.full),
    ],
)
def test_ctrl_c_ends_any_command(run: Path, tmp_path: Path, never: int, command: str):
    out = tmp_path / "out"
    words = command.replace("RUN", str(run)).replace("OUT", str(out)).split()
    ended = python(INTERRUPTED.format(so=UNDER_WAY), *words, stdin=never)
    assert ended.returncode == 130, ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.glob(".*")), "something half-made is left"
    assert not (out / "config.json").exists()


def test_ctrl_c_ends_a_command_that_does_not_hear_it():
    deaf = """
def deaf(*arguments, **options):
    act = press
    while True:
        try:
            act()
        except KeyboardInterrupt:
            act = lambda: time.sleep(60)
check.check_cell = deaf
"""
    ended = python(INTERRUPTED.format(so=deaf), "check", "lstm")
    assert (ended.returncode, ended.stderr) == (130, "")


def test_ctrl_c_leaves_a_thread_of_foreign_code_to_itself():
    foreign = """
def foreign():
    time.sleep(0.5)  # by now the main thread waits for this one
    press()
    time.sleep(1000)
interrupt.GRACE = 1000  # that ends no process: it leaves by itself
check.check_cell = lambda *arguments, **options: interrupt.interruptible(foreign)
"""
    ended = python(INTERRUPTED.format(so=foreign), "check", "lstm")
    assert (ended.returncode, ended.stderr) == (130, "stopped\n")


# ── streams ───────────────────────────────────────────────────────────────────────────

MAIN = "from cellwright.cli import main; main()"


def test_a_reader_that_has_enough_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    ended = python(MAIN, "cells", capture_output=False, stdout=writer, stderr=-1)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_a_full_disk_behind_the_output_is_told():
    with open("/dev/full", "w") as full:
        ended = python(MAIN, "cells", capture_output=False, stdout=full, stderr=-1)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: [")
    assert ended.stderr.endswith("No space left on device\n")


@pytest.mark.parametrize(
    "closed", [1, *(pytest.param(n, marks=pytest.mark.full) for n in (0, 2))]
)
def test_a_closed_stream_is_as_good_as_none(closed: int):
    script = f"import os; os.close({closed}); " + (
        f"import sys; sys.{('stdin', 'stdout', 'stderr')[closed]} = None; {MAIN}"
    )
    ended = python(script, "explain", "rnn")
    assert (ended.returncode, ended.stderr) == (0, "")


# ── options ───────────────────────────────────────────────────────────────────────────

BEYOND = 2**64


@pytest.mark.parametrize(
    ("command", "message"),
    [
        *(
            (f"{command} --seed {seed}", "[seed] received")
            for command in ("evaluate RUN", "generate RUN", "check lstm")
            for seed in (BEYOND, -BEYOND)
        ),
        *(
            (f"generate RUN --temperature {t}", "[temperature] received")
            for t in ("inf", "-inf", "nan", "1e-300", "1e300", "-1")
        ),
        ("generate RUN --length -1", "[length] received -1"),
        ("generate RUN --top-k 0", "[top-k] received 0"),
        ("generate RUN --top-p nan", "[top-p] received nan"),
        ("generate RUN --prompt \udcff", "'\\udcff' at character 0"),
        ("draw RUN --steps --prompt \udcff -o OUT.svg", "'\\udcff' at character 0"),
        ("draw RUN --steps --layer 7 -o OUT.svg", "received layer 7"),
        ("draw RUN --steps --at 99999999999999 -o OUT.svg", "no token 99999999999999"),
        ("draw lstm -o OUT.png --scale 1e9", "[scale]"),
        ("draw lstm -o OUT.png --scale inf", "[scale]"),
        ("draw lstm -o OUT.png --scale nan", "--scale"),
        ("draw lstm -o OUT.png --scale -1", "--scale"),
        ("draw lstm -o OUT.svg --unroll 1000000000", "[unroll] a picture holds 511"),
        ("draw lstm -o OUT.svg --unroll 0", "--unroll"),
        ("draw binary_lstm -o OUT.svg --unroll 20", "expected 1 to 9 levels"),
        ("check lstm --steps 0", "[steps] received 0, expected 1 to"),
        ("check lstm --steps -1", "[steps] received -1"),
        ("check lstm --steps 1000000000", "[steps] received 1000000000"),
        ("check lstm --hidden 1000000", "Fewer units show the same"),
        ("check lstm --hidden 0", "[hidden] received 0"),
        ("check lstm --input -3", "[input] received -3"),
        ("explain lstm --hidden 0", "--hidden"),
        ("exam --host= --out OUT", "[host] received ''"),
        ("exam --port -1 --out OUT", "--port"),
        ("exam --port 65536 --out OUT", "--port"),
        ("exam --answer nan --out OUT", "[exam] times are in minutes"),
        ("exam --feedback inf --out OUT", "[exam] times are in minutes"),
        ("inspect RUN --host= --no-browser", "[host] received ''"),
        ("inspect RUN --steps 1", "--steps"),
        ("lab --seed -1", "--seed"),
        (f"lab bptt --seed {BEYOND} --out OUT", "--seed"),
        ("lab bptt --all --out OUT", "received both 'bptt' and --all"),
        ("lab nothing --out OUT", "nothing"),
        ("cells nothing", "no cell is called 'nothing'"),
        ("info OUT", "is no run"),
        ("sing", "No such command 'sing'"),
        ("cells --loudly", "--loudly"),
        ("check", "argument"),
    ],
)
def test_options_out_of_range_are_one_message(
    run: Path, tmp_path: Path, command: str, message: str
):
    out = str(tmp_path / "out")
    words = command.replace("RUN", str(run)).replace("OUT", out).split(" ")
    error = call(*words, ok=False)
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    left = [p for p in tmp_path.iterdir() if p.name != "out"]
    assert not left
    assert not (tmp_path / "out" / "session.json").exists()


def test_options_at_their_ends(run: Path):
    for seed in (-(2**63), 2**64 - 1):
        call("generate", run, "--length", 2, "--seed", seed)
        call("check", "rnn", "--steps", 1, "--seed", seed)
    for temperature in (0, 1e-6, 1e6):
        call("generate", run, "--length", 5, "--temperature", temperature)


def test_the_library_refuses_them_as_well(tmp_path: Path):
    lstm = cells.get("lstm")
    for options in ({"steps": 0}, {"seed": BEYOND}, {"hidden_size": 10**6}):
        with pytest.raises(ArgumentError):
            check_cell(lstm, **options)
    for name, options in (("a.png", {"scale": 1e9}), ("a.svg", {"unroll": 10**9})):
        with pytest.raises(CellwrightError, match="expected"):
            draw(lstm, tmp_path / name, Drawing(**options))
    with pytest.raises(
        ArgumentError, match="seed"
    ):  # at the call, not at the first token
        generate(None, None, seed=BEYOND)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_an_environment_that_makes_no_sense(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("cellwright._core")
    for name in ("CELLWRIGHT_ISA", "CELLWRIGHT_THREADS"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "bogus")
            error = call("cells", ok=False)
            assert error.startswith(f"error: [{name}]")
            assert error.count("\n") == 1
