"""The compiled core (core/bind/module.cpp)."""

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any

# -- core/program.h: each class of compiler/program.py has its struct here

class Opcode(Enum): ...
class Rows(Enum): ...
class AxisKind(Enum): ...
class Form(Enum): ...
class Precision(Enum): ...
class When(Enum): ...

EVERY_CHILD: int
RECURRENCE_STEPS: int

class _Struct:
    def __init__(self, **fields: Any) -> None: ...

class Axis(_Struct): ...
class Array(_Struct): ...
class View(_Struct): ...
class Piece(_Struct): ...
class Term(_Struct): ...
class Accumulator(_Struct): ...
class Instruction(_Struct): ...
class Recurrence(_Struct): ...
class Stage(_Struct): ...
class Gradient(_Struct): ...
class Reduction(_Struct): ...

class Program:
    """A program that the core has checked."""

    def __init__(
        self,
        *,
        backward: bool,
        tree: bool,
        arrays: Sequence[Array],
        parameters: Sequence[int],
        stages: Sequence[Stage],
        gradients: Sequence[Gradient],
        reductions: Sequence[Reduction],
        precision: Precision,
    ) -> None: ...

class Schedule:
    """The order in which rows are scanned: see core/schedule.h."""

    def __init__(
        self,
        *,
        offsets: Sequence[int],
        counts: Sequence[int],
        initial_rows: int,
        batch_rows: Sequence[int] = (),
        places: Sequence[int] = (),
        width: int = 0,
        rows: int = 0,
        resets: Any = None,
        gradient_rows: int = 0,
    ) -> None:
        """`resets` is an (n, 4) int64 array: level, row, initial row, gradient row."""

    def with_items(self, *sets: Any) -> Schedule:
        """Over the items of a call: an int64 array a set, as in core/schedule.h."""

    @staticmethod
    def trees(
        *,
        counts: Any,
        place: Any,
        input: Any,
        inputs: int,
        children: Any,
        first_child: Any,
        child: Any,
        parent: Any,
    ) -> Schedule:
        """Of int64 arrays, as `Trees` in core/schedule.h; `children` (slots, rows)."""

def run(
    program: Program,
    schedule: Schedule,
    element_size: int,
    arrays: Iterable[Any],
    parameters: Iterable[Any],
    gradients: Iterable[Any],
    threads: int,
    isa: str,
    finals: Iterable[tuple[int, int, int, int]] = (),
) -> None:
    """A buffer is a DLPack matrix, (address, rows, columns, stride) or, of rows without
    gaps, (address, elements). `None` leaves an array to the core: see core/call.h.

    `finals`: (array, first row, address, elements) of rows to copy when it has ended.
    """

class Stepper:
    """Layers run step by step, on weights that stay packed: see core/stepper.h.

    A layer is (program, parameters, states, items, where each row's items begin, set by
    set); a step takes addresses of contiguous rows.
    """

    def __init__(
        self, layers: Iterable[Any], element_size: int, rows: int, isa: str
    ) -> None: ...
    def step(self, x: int | Sequence[int], y: int) -> None: ...

def use_openmp(
    parallel: int, thread_number: int, team_size: int, in_parallel: int
) -> None:
    """Jobs run on the threads of this OpenMP runtime, given by its functions."""

def isas() -> list[str]:
    """The instruction sets that this machine runs, the best last."""

def refused_isas() -> list[str]:
    """Those that it has, whose products in bf16 are not those by conversion."""

def isa(name: str = "") -> str:
    """The instruction set that a name, or "" and the environment, chooses."""

def threads(otherwise: int) -> int:
    """CELLWRIGHT_THREADS, or the argument."""
