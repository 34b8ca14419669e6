"""Loads a user's cell: `FILE.py:NAME`."""

from __future__ import annotations

import importlib
import os
import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from .cell import Cell
from .errors import CellError, CellwrightError, did_you_mean

# Not loaded a second time, even where a file of that name lies beside the cell's.
_NEVER_RELOADED = {*sys.stdlib_module_names, "__main__", "cellwright", "numpy", "torch"}


def load_cell(reference: str) -> Cell:
    """Run a Python file and take the cell of that name from it.

    The file may import what lies beside it, as under `python FILE.py`; another file's
    modules of the same names are others.

    Args:
        reference: `FILE.py:NAME`; `FILE.py` alone where it defines one cell.

    Raises:
        CellError: no such file or cell, or the file fails; the message says where.
    """
    file, label = _split(reference)
    if not os.path.isfile(file):
        raise CellError(
            f"[--cell] no such file; received {str(file)!r}, expected FILE.py:NAME"
        )
    found = _run(file)
    cells = {n: v for n, v in found.items() if isinstance(v, Cell) and n == v.name}
    cells.update((n, v) for n, v in found.items() if isinstance(v, Cell))
    if not label and len(set(map(id, cells.values()))) == 1:
        return next(iter(cells.values()))
    if label not in cells:
        hint = did_you_mean(label, list(cells)) if cells else "It defines no cell."
        raise CellError(
            f"[{file}] defines no cell {label!r}; expected FILE.py:NAME. {hint}"
        )
    return cells[label]


def _split(reference: str) -> tuple[Path, str]:
    """The file and the name; folders may have `.py` and colons in theirs."""
    if reference.endswith(".py"):
        return Path(reference), ""
    path, ending, label = reference.rpartition(".py:")
    return (Path(path + ".py"), label) if ending else (Path(reference), "")


def _run(file: Path) -> dict[str, Any]:
    """The names that the file defines."""
    try:
        with _neighbours(file.resolve().parent):
            return runpy.run_path(str(file))
    except CellwrightError:
        raise
    except SystemExit as error:
        raise CellError(
            f"[{file}] ended the program while it was loaded; received "
            f"sys.exit({error.code!r}), expected a file that defines cells. Put what "
            'it runs under `if __name__ == "__main__":`'
        ) from error
    except Exception as error:
        said = next(iter(str(error).splitlines()), "")
        raise CellError(
            f"[{file}] failed while it was loaded: {type(error).__name__}: {said}"
        ) from error


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
