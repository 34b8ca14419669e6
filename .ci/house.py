"""How long the house's corridors are: figures of the source, to compare two commits.

    python .ci/house.py            # a table
    python .ci/house.py --where    # and the places behind each figure
    python .ci/house.py --root DIR # of another checkout
    PY .ci/house.py --frames       # and the Python frames of a call; PY has torch, and
                                   # the checkout's core lies in its src/cellwright

Counted, not judged: only `tests/test_house.py` holds some of them to bounds.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

LINES, PARAMETERS = 50, 6  # a function that has more is counted
ENGINES = {"native", "torch", "triton", "reference"}
ASIDE = ("lab", "exam", "look")  # parts of src that the count of lines leaves out
DERIVED = "softsign"  # an operation that is defined by others

Figures = dict[str, list[str]]


def measure(root: Path) -> Figures:
    """The places behind every figure, by the figure's name."""
    sources = {p: p.read_text() for p in sorted((root / "src").rglob("*.py"))}
    trees = {p: ast.parse(text) for p, text in sources.items()}
    return {
        f"files that name {DERIVED}": naming(root, DERIVED),
        f"functions over {LINES} lines": [
            f"{place}: {lines}"
            for place, node in _functions(trees)
            if (lines := (node.end_lineno or 0) - node.lineno + 1) > LINES
        ],
        f"functions over {PARAMETERS} parameters": [
            f"{place}: {count}"
            for place, node in _functions(trees)
            if (count := _parameters(node)) > PARAMETERS
        ],
        "circles of imports": _circles(root, trees),
        "places that ask for an engine by its name": _dispatches(trees),
        f"lines of src without {', '.join(ASIDE)}": [
            f"{path}:{number}"
            for path, text in sources.items()
            if not set(path.parts) & set(ASIDE)
            for number, _ in enumerate(text.splitlines())
        ],
    }


def naming(root: Path, word: str) -> list[str]:
    """Files of the product that know an operation by its name."""
    pattern = re.compile(rf"\b{word}\b")
    suffixes = {".py", ".js", ".h", ".cpp", ".def"}
    folders = [root / "src", root / "core", root / "web" / "src"]
    return [
        str(path)
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.suffix in suffixes
        and "static" not in path.parts
        and pattern.search(path.read_text())
    ]


def _functions(
    trees: dict[Path, ast.Module],
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path}:{node.lineno} {node.name}", node


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Parameters without self; options of a command line do not count."""
    if any("command" in ast.dump(d) for d in node.decorator_list):
        return 0
    every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return len([a for a in every if a.arg not in ("self", "cls", "ctx")])


def _dispatches(trees: dict[Path, ast.Module]) -> list[str]:
    """Comparisons with an engine's name."""
    found = []
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare):
                values = {
                    c.value for c in ast.walk(node) if isinstance(c, ast.Constant)
                }
                if values & ENGINES:
                    found.append(f"{path}:{node.lineno} {ast.unparse(node)}")
    return found


def _circles(root: Path, trees: dict[Path, ast.Module]) -> list[str]:
    """Groups of modules that import each other, Python's and the pages'."""
    edges: dict[str, set[str]] = defaultdict(set)
    source = root / "src"
    names = {_name(path, source): path for path in trees}
    for path, tree in trees.items():
        own = _name(path, source)
        package = own if path.name == "__init__.py" else own.rpartition(".")[0]
        for node in ast.walk(tree):
            edges[own] |= {t for t in _targets(node, package, names) if t != own}
    pages = root / "web" / "src"
    for path in sorted(pages.rglob("*.js")):
        for found in re.findall(r'from "(\.[^"]+)"', path.read_text()):
            target = (path.parent / found).resolve().relative_to(pages.resolve())
            edges[str(path.relative_to(pages))].add(str(target))
    return [" ↔ ".join(sorted(group)) for group in _components(edges)]


def _name(path: Path, source: Path) -> str:
    parts = path.relative_to(source).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _targets(node: ast.AST, package: str, names: dict[str, Path]) -> Iterator[str]:
    """The modules of the project that a statement imports.

    `from .x import y` is of x.y where that is a module: a package's __init__ is run
    before its modules, and does not count as imported by them.
    """
    if not isinstance(node, ast.ImportFrom):
        return
    base = package.split(".")
    base = base[: len(base) - node.level + 1] if node.level else []
    module = ".".join([*base, *(node.module or "").split(".")]).strip(".")
    for alias in node.names:
        if alias.name == "_core":  # the compiled core: no module of the sources
            continue
        whole = f"{module}.{alias.name}"
        if whole in names:
            yield whole
        elif module in names:
            yield module


def _components(edges: dict[str, set[str]]) -> list[set[str]]:
    """Strongly connected groups of more than one (by reachability: few nodes)."""
    reach: dict[str, set[str]] = {}
    for start in list(edges):
        seen: set[str] = set()
        stack = [start]
        while stack:
            for target in edges.get(stack.pop(), ()):
                if target not in seen:
                    seen.add(target)
                    stack.append(target)
        reach[start] = seen
    groups: list[set[str]] = []
    for name in sorted(reach):
        if any(name in group for group in groups):
            continue
        group = {o for o in reach[name] if name in reach.get(o, ())} | {name}
        if len(group) > 1:
            groups.append(group)
    return groups


FRAMES = """
import sys, torch, cellwright as cw, cellwright._core as core
layer, run = cw.Recurrent("peephole", 1, 1), core.run

def look(*arguments):
    frame, found = sys._getframe(1), []
    while not (found and found[-1].endswith("recurrent.py:forward")):
        found.append(f"{frame.f_code.co_filename}:{frame.f_code.co_name}")
        frame = frame.f_back
    print("\\n".join(reversed(found)))
    return run(*arguments)

core.run = look
with torch.no_grad():
    layer(torch.zeros(1, 1, 1))
"""


def frames(root: Path) -> list[str]:
    """The Python frames from `Recurrent.forward` to the core, run in that checkout."""
    environment = {**os.environ, "PYTHONPATH": str(root / "src")}
    command = [sys.executable, "-c", FRAMES]
    done = subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    )
    return done.stdout.split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--where", action="store_true", help="print the places")
    parser.add_argument("--frames", action="store_true", help="run a call, too")
    options = parser.parse_args()
    found = measure(options.root)
    if options.frames:
        found["frames from Recurrent.forward to the core"] = frames(options.root)
    for name, places in found.items():
        print(f"{len(places):6}  {name}")
        if options.where and not name.startswith("lines"):
            print("".join(f"          {place}\n" for place in places), end="")


if __name__ == "__main__":
    main()
