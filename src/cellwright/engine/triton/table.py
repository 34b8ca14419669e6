"""Sizes of blocks: the one table. It is a guess by rule; no GPU has measured it yet."""

from __future__ import annotations

from typing import NamedTuple

from .source import Kernel, Matrix
from .target import Target

ELEMENTS = 512  # of a block: four warps, four elements a thread
MOST_UNITS = 128
MOST_LIVE = 64  # lines beyond which a thread has fewer elements

# Of kernels that keep weights.
RESIDENT_ROWS = 16  # the least that `tl.dot` takes, of rows and of units
MOST_RESIDENT_UNITS = 256
# Without tensor cores threads of several rows hold the same weights.
MOST_RESIDENT_UNITS_IEEE = 32
COPIES_IEEE = 4
REGISTERS = 255  # of a thread, of 4 bytes
OTHER_REGISTERS = 32  # of a thread, for addresses and masks


# Of kernels of matrices.
MATRIX_REGISTERS = 96  # of a thread, for matrices
MOST_MATRIX_ELEMENTS = 32  # of a matrix in a thread
MOST_MATRIX_WARPS = 16
APART_ELEMENTS = 2048  # where programs share a matrix


class Block(NamedTuple):
    """Rows and units that one program of a kernel computes, and its warps.

    Of matrices, rows are those of a head.

    Attributes:
        ahead: steps of a loop that are in flight at once (Triton's `num_stages`); each
            but the first takes shared memory for what it loads.
    """

    rows: int
    units: int
    warps: int
    ahead: int = 3


def block_of(kernel: Kernel, rows: int) -> Block:
    """The block for a kernel that is launched over so many rows."""
    if kernel.matrix is not None:
        return matrix_block(kernel.matrix, kernel.units)
    if kernel.form == "resident":
        return resident_block(kernel.units)
    units = power_of_two(kernel.units)
    if not kernel.whole:
        units = min(units, MOST_UNITS)
    elements = ELEMENTS if kernel.lines <= MOST_LIVE else ELEMENTS // 2
    height = max(1, min(elements // units, power_of_two(rows)))
    return Block(height, units, min(max(height * units // 128, 1), 8))


def resident_block(units: int) -> Block:
    """The block of a kernel that keeps weights: all units of a row are in it."""
    units = max(power_of_two(units), RESIDENT_ROWS)
    return Block(RESIDENT_ROWS, units, min(units // 8, 8), 1)


def grid_of(kernel: Kernel, block: Block, rows: int) -> tuple[int, ...]:
    """How many programs run a kernel over so many rows."""
    matrix = kernel.matrix
    if matrix is None:
        return -(-rows // block.rows), -(-kernel.units // block.units)
    parts = -(-matrix.rows // block.rows) if matrix.apart else 1
    return rows, 1 if matrix.together else matrix.heads, parts


def matrix_block(matrix: Matrix, columns: int) -> Block:
    """The block of a kernel of matrices of so many columns: all of those are in it."""
    units = power_of_two(columns)
    line = units * (power_of_two(matrix.heads) if matrix.together else 1)
    each = _elements_each(matrix)
    most = APART_ELEMENTS if matrix.apart else 32 * MOST_MATRIX_WARPS * each
    rows = max(1, min(most // line, power_of_two(matrix.rows)))
    warps = max(1, min(rows * line // (32 * each), MOST_MATRIX_WARPS))
    return Block(rows, units, warps, 1)


def matrix_fits(matrix: Matrix, columns: int) -> bool:
    """Whether a program can have a row's matrix at once; or need not."""
    return matrix.apart or matrix_block(matrix, columns).rows >= matrix.rows


def _elements_each(matrix: Matrix) -> int:
    """Of each matrix, in a thread: a power of two."""
    share = max(MATRIX_REGISTERS // matrix.values, 1)
    return min(1 << share.bit_length() - 1, MOST_MATRIX_ELEMENTS)


class Need(NamedTuple):
    """What a kernel that keeps weights holds at once.

    Attributes:
        units: of a block, padded.
        weights: blocks of weights, (units, units) each.
        factors: values of a step that are multiplied with them.
        values: other blocks in registers, (rows, units) each.
        repeated: products of a block that another product of the step multiplies too.
            The assembler has the parts of all of them in registers at once.
    """

    units: int
    weights: int
    factors: int
    values: int
    repeated: int = 0

    def shared(self, target: Target) -> int:
        """Bytes of shared memory: the way of weights and factors to tensor cores, and
        of a value from one layout in threads to another."""
        block = RESIDENT_ROWS * self.units
        factors = self.weights * self.units**2 + self.factors * block
        return factors * target.dtype.itemsize + 4 * block

    def registers(self, target: Target) -> int:
        """Of a thread: its part of the weights and values, and others."""
        parts = self.weights + self.repeated
        weights = parts * self.units**2 * target.dtype.itemsize // 4
        weights *= COPIES_IEEE if target.has_no_tensor_cores else 1
        values = self.values * RESIDENT_ROWS * self.units
        threads = 32 * resident_block(self.units).warps
        return OTHER_REGISTERS + (weights + values) // threads


def fits(need: Need, target: Target) -> bool:
    """Whether one kernel can keep the weights on the device."""
    plain = target.has_no_tensor_cores
    most = MOST_RESIDENT_UNITS_IEEE if plain else MOST_RESIDENT_UNITS
    return (
        need.units <= most
        and need.shared(target) <= target.shared
        and need.registers(target) <= REGISTERS
    )


def power_of_two(number: int) -> int:
    """The least that is no smaller."""
    return 1 << max(number - 1, 0).bit_length()
