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
