"""What `import cellwright` needs, and what is said where more is needed."""

import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

import cellwright as cw
from cellwright import CellwrightError, extras
from cellwright.look import detectors

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]

ALONE = """
import sys
from importlib.machinery import PathFinder

class Alone(PathFinder):  # nothing else is found, as where it is not installed
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] not in refused:
            return super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Alone
sys.path.insert(0, folder)
import smoke
smoke.core()
"""


def lent():
    spec = spec_from_file_location("lend", ROOT / ".ci/lend.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.places(module.closure(["torch", "numpy"]))


def test_the_package_needs_torch_and_numpy_alone():
    """A layer, its gradients and a pickle; and what the rest says."""
    allowed = {name.partition(".")[0] for name in lent()} | {"cellwright"}
    refused = set(packages_distributions()) - allowed
    assert refused >= {"accelerate", "pydantic", "rich", "tokenizers", "typer"}
    code = f"refused = {refused}; folder = {str(ROOT / '.ci')!r}" + ALONE
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert "pip install 'cellwright[train]'" in ended.stdout


def test_a_missing_package_is_named_and_the_remedy_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    message = re.escape(
        "[here] needs packages that are not installed; received an environment without "
        "tokenizers, expected one with the extra train: pip install 'cellwright[train]'"
    )
    with pytest.raises(CellwrightError, match=f"^{message}$"):
        extras.require("here", "train")
    with pytest.raises(ImportError):
        extras.require("here", "train")


@pytest.mark.parametrize(
    ("module", "extra", "action"),
    [
        ("onnx", "onnx", lambda: cw.export_onnx(cw.LSTM(2, 3))),
        ("resvg_py", "draw", lambda: cw.cells.lstm.diagram().png()),
        ("re2", "web", lambda: detectors.matches("a")),
    ],
)
def test_what_one_package_alone_writes_asks_for_it(monkeypatch, module, extra, action):
    monkeypatch.setitem(sys.modules, module, None)
    message = rf"without {module}, .* pip install 'cellwright\[{extra}\]'$"
    with pytest.raises(extras.MissingExtraError, match=message):
        action()


def test_the_help_imports_nothing_that_only_a_run_needs():
    heavy = {"accelerate", "pydantic", "safetensors", "tokenizers"}
    code = f"import cellwright.cli, sys; assert not {heavy} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def requirements():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["optional-dependencies"]
    return {e: {re.split(r"[>=;\[]", r)[0] for r in rs} for e, rs in wanted.items()}


def test_what_is_asked_for_is_what_the_extras_bring():
    wanted = requirements()
    assert wanted["train"] == set(extras.MODULES["train"].split())
    for extra, modules in extras.MODULES.items():
        assert set(modules.split()) <= wanted[extra]


def test_all_has_every_extra_of_a_user():
    text = (ROOT / "pyproject.toml").read_text()
    (listed,) = tomllib.loads(text)["project"]["optional-dependencies"]["all"]
    names = set(listed.removeprefix("cellwright[").removesuffix("]").split(","))
    others = {"all", "cli", "test", "bench", "dev", "docs", "gpu"}
    assert names == requirements().keys() - others
