"""What the sources promise of themselves: one file for one thing."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[1]


def house():
    spec = importlib.util.spec_from_file_location("house", ROOT / ".ci/house.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_derived_operation_is_its_record():
    """And what asks for it as a user would: the laboratory's question on gates."""
    names = house().naming(ROOT, "softsign")
    paths = {str(Path(name).relative_to(ROOT / "src/cellwright")) for name in names}
    assert paths == {"language/ops.py", "lab/forget_activation.py"}


def test_the_language_and_the_compiler_have_no_circle_of_imports():
    """But one: `Cell.diagram()` belongs to the cell's user."""
    circles = house().measure(ROOT)["circles of imports"]
    for circle in circles:
        files = circle.split(" ↔ ")
        own = [f for f in files if f.split(".")[1] in ("language", "compiler")]
        assert own in ([], ["cellwright.language.cell"]), circle


def test_the_language_and_the_compiler_know_nobody_above_them():
    """`Cell.diagram()` and a notebook's display are the decided exceptions."""
    source = ROOT / "src/cellwright"
    upward = [
        (path.name, line.strip())
        for part, known in (("language", ()), ("compiler", ("language",)))
        for path in sorted((source / part).rglob("*.py"))
        for line in path.read_text().splitlines()
        if line.strip().startswith("from ..")
        and line.split()[1].removeprefix("..").split(".")[0] not in known
    ]
    assert {name for name, _ in upward} <= {"cell.py", "program.py"}, upward
    assert all(".look" in line or "_core" in line for _, line in upward), upward
