"""Every cell's LaTeX is what a strict parser takes."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from cellwright import cells

pytestmark = pytest.mark.browser
SCRIPT = Path(__file__).parents[2] / "web/tests/katex.mjs"


def refused(formulas: dict[str, str]) -> dict[str, str]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node")
    done = subprocess.run(
        [node, str(SCRIPT)],
        input=json.dumps(formulas),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_katex_takes_every_cell():
    whole = {
        **cells.all(),
        **cells.all_with_matrices(),
        **cells.all_with_items(),
        **cells.all_of_trees(),
    }
    assert len(whole) > 35
    assert refused({name: cell.latex() for name, cell in whole.items()}) == {}


def test_the_parser_is_strict():
    assert refused({"brace": r"\sigma(W_{f"}).keys() == {"brace"}
    assert refused({"comment": "x % no end"}).keys() == {"comment"}
