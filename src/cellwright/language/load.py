"""Loads a user's cell: `FILE.py:NAME`."""

from __future__ import annotations

import runpy
from pathlib import Path

from .cell import Cell
from .errors import CellError, CellwrightError, did_you_mean


def load_cell(reference: str) -> Cell:
    """Run a Python file and take the cell of that name from it.

    Args:
        reference: `FILE.py:NAME`; `FILE.py` alone where it defines one cell.

    Raises:
        CellError: no such file or cell, or the file fails; the message says where.
    """
    path, _, label = reference.partition(".py")
    file, label = Path(path + ".py"), label.removeprefix(":")
    if not file.is_file():
        raise CellError(
            f"[--cell] no such file; received {str(file)!r}, expected FILE.py:NAME"
        )
    try:
        found = runpy.run_path(str(file))
    except CellwrightError:
        raise
    except Exception as error:
        raise CellError(
            f"[{file}] failed while it was loaded: {type(error).__name__}: {error}"
        ) from error
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
