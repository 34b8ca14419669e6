"""Loads a user's cell: `FILE.py:NAME`."""

from __future__ import annotations

import importlib
import os
import runpy
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from .cell import Cell
from .errors import CellError, CellwrightError, did_you_mean
from .faulty import FaultyCell, faults_deferred

# Not loaded a second time, even where a file of that name lies beside the cell's.
_NEVER_RELOADED = {*sys.stdlib_module_names, "__main__", "cellwright", "numpy", "torch"}


def load_cell(reference: str) -> Cell:
    """Run a Python file and take the cell of that name from it.

    The file may import what lies beside it, as under `python FILE.py`; another file's
    modules of the same names are others. Another cell of the file may be faulty.

    Args:
        reference: `FILE.py:NAME`; `FILE.py` alone where it defines one cell.

    Raises:
        CellError: no such file or cell, or the file or the cell fails; the message says
            where.
    """
    file, label = _split(reference)
    found = _run(file)
    cells = _cells(file, found)
    if not label and len(set(map(id, cells.values()))) == 1:
        label = next(iter(cells))
    if label not in cells:
        raise CellError(
            f"[{file}] defines no cell {label!r}; expected FILE.py:NAME. "
            f"{_hint(label, cells, found)}"
        )
    cell = cells[label]
    if isinstance(cell, CellwrightError):
        raise cell
    return cell


def load_cells(file: Path | str) -> dict[str, Cell | CellwrightError]:
    """Run a Python file and take all cells from it, in their order.

    Returns:
        Each cell under its name, or the error that says why it is none.

    Raises:
        CellError: there is no such file, it fails, or it defines no cell.
    """
    found = _run(Path(file))
    cells, known = _cells(Path(file), found), set()
    for name in list(cells):  # one under two names counts once
        if id(cells[name]) in known:
            del cells[name]
            continue
        known.add(id(cells[name]))
    if not cells:
        raise CellError(f"[{file}] defines no cell. {_hint('', {}, found)}")
    return cells


def _cells(file: Path, found: dict[str, Any]) -> dict[str, Cell | CellwrightError]:
    """The cells that a file defines, or why they are none."""
    own = {n: v for n, v in found.items() if isinstance(v, Cell) and n == v.name}
    cells: dict[str, Cell | CellwrightError] = {}
    for name, value in [*own.items(), *found.items()]:
        if isinstance(value, FaultyCell):
            cells[name] = _failure(file, value.error)
        elif isinstance(value, Cell):
            cells[name] = value
    return cells


def _hint(label: str, cells: dict[str, Any], found: dict[str, Any]) -> str:
    if isinstance(found.get(label), FunctionType):
        return f"{label!r} is a function: write @cell above it, from cellwright"
    if cells:
        return did_you_mean(label, list(cells))
    functions = [
        name
        for name, value in found.items()
        if isinstance(value, FunctionType)
        and list(signature(value).parameters)[:1] == ["W"]
    ]
    if functions:
        return (
            f"It defines no cell, but functions of W: write @cell, from cellwright, "
            f"above {' and '.join(functions)}"
        )
    return "It defines no cell."


def _split(reference: str) -> tuple[Path, str]:
    """The file and the name; folders may have `.py` and colons in theirs."""
    if reference.endswith(".py"):
        return Path(reference), ""
    path, ending, label = reference.rpartition(".py:")
    return (Path(path + ".py"), label) if ending else (Path(reference), "")


def _run(file: Path) -> dict[str, Any]:
    """The names that the file defines."""
    if not os.path.isfile(file):
        raise CellError(
            f"[--cell] no such file; received {str(file)!r}, expected FILE.py:NAME"
        )
    try:
        with _neighbours(file.resolve().parent), faults_deferred():
            return runpy.run_path(str(file))
    except SystemExit as error:
        raise CellError(
            f"[{file}] ended the program while it was loaded; received "
            f"sys.exit({error.code!r}), expected a file that defines cells. Put what "
            'it runs under `if __name__ == "__main__":`'
        ) from error
    except Exception as error:
        raise _failure(file, error) from error


def _failure(file: Path, error: Exception) -> CellwrightError:
    """Why a file, or a cell of it, cannot be used, in one line."""
    if isinstance(error, CellwrightError):
        return error
    where, said = _place(file, error), next(iter(str(error).splitlines()), "")
    if isinstance(error, AttributeError | ImportError) and said.startswith(
        "cellwright has no "
    ):
        return CellError(f"[{where}] {said}")
    failed = f"failed while it was loaded: {type(error).__name__}: {said}"
    return CellError(f"[{where}] {failed}")


def _place(file: Path, error: Exception) -> str:
    """The file, and the line of it that failed where that is known."""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return f"{file}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(file)]
    return f"{file}:{lines[-1]}" if lines else str(file)


@contextmanager
def _neighbours(folder: Path) -> Iterator[None]:
    """The modules of a folder can be imported, and are forgotten afterwards.

    One that is loaded already stays what it is, if it is of this folder; another of the
    same name is put aside.
    """
    beside = {
        path.name.partition(".")[0] for path in folder.iterdir()
    } - _NEVER_RELOADED

    def loaded() -> dict[str, ModuleType]:
        return {n: m for n, m in sys.modules.items() if n.partition(".")[0] in beside}

    own = {n for n, module in loaded().items() if _lies_in(module, folder)}
    others = {n: module for n, module in loaded().items() if n not in own}
    for name in others:
        del sys.modules[name]
    importlib.invalidate_caches()
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))
        for name, module in loaded().items():
            if name not in own and _lies_in(module, folder):
                del sys.modules[name]
        sys.modules.update(others)


def _lies_in(module: ModuleType, folder: Path) -> bool:
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
    return any(place and folder in Path(place).resolve().parents for place in places)
