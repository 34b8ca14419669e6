"""Tables of the laboratory on a terminal."""

import io

import pytest
from rich.console import Console

from cellwright.lab import NAMES, SHIPPED, get, load_result
from cellwright.lab.experiment import Claim, Table, with_minus
from cellwright.lab.show import _print, show

SHIPPED_NAMES = [name for name in NAMES if (SHIPPED / f"{name}.json").exists()]


def printed(width: int, table: Table) -> list[str]:
    console = Console(width=width, file=io.StringIO())
    _print(table, console)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("name", SHIPPED_NAMES)
def test_tables_fit_80_columns_and_cut_no_word(name):
    result, experiment = load_result(name), get(name)
    console = Console(width=80, file=io.StringIO())
    show(result, experiment, console)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    words = set(console.file.getvalue().split())
    for table in experiment.tables(result.rows):
        for cell in (*table.columns, *(c for row in table.rows for c in row)):
            if isinstance(cell, str):
                assert set(with_minus(cell).split()) <= words, cell


def test_a_table_that_is_too_wide_is_shown_in_parts():
    row = ("first", *(f"number-{n}" for n in range(12)))
    table = Table("Wide", ("name", *(f"column-{n}" for n in range(12))), (row,))
    lines = printed(60, table)
    assert max(map(len, lines)) <= 60
    text = " ".join(lines)
    assert all(text.count(f"number-{n} ") == 1 for n in range(12))
    assert text.count("first") == text.count("Wide") > 1
    assert len(printed(200, table)) == 6  # title, space, head, rule, row, space


def test_a_minus_is_no_hyphen():
    assert Claim("x", 0.0, -0.6, 0.6).interval == "−0.6 to 0.6"
    assert Claim("x", 0.0, None, 1e-9).interval == "at most 1e-09"
    assert with_minus("-3 to -.5, Tree-LSTM, a--b, 4e-16, x -inf, --steps") == (
        "−3 to −.5, Tree-LSTM, a--b, 4e-16, x −inf, --steps"
    )
