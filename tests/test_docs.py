"""The pages: links lead somewhere, names are documented once, and code runs."""

import re
import shlex
import sys
import textwrap
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import cellwright as cw
import oracles
import oracles_attention
import oracles_matrices
import oracles_modern
import tree_oracles
from cellwright.cli import app
from cellwright.language.ops import Op
from oracles import affine, assert_close, normal, randomise

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)]*))?\)")


def code(page):
    """The Python blocks of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^( *)```python\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    return [re.sub(f"^{indent}", "", b, flags=re.MULTILINE) for indent, b in blocks]


def anchors(page):
    """The headings of a page, as its links name them."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.M)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    for name, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        target = page.parent / name if name else page
        assert target.exists(), name
        assert not anchor or anchor in anchors(target), f"{name}#{anchor}"


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "docs/language.md"])
def test_the_first_example_runs(page):
    known = {"x": torch.randn(3, 2, 64)}
    exec(code(page)[0], known)
    assert known["lstm"].graph == cw.cells.lstm.graph


def test_the_first_docstring_is_code_and_runs():
    first, _, example = cw.__doc__.partition("::\n\n")
    assert "\n" not in first
    known = {"x": torch.randn(3, 2, 64)}
    exec(textwrap.dedent(example.rpartition("\n\n")[0]), known)
    assert known["lstm"].graph == cw.cells.lstm.graph


def test_every_public_name_is_in_the_reference_once():
    """Operations come from their records, `cells` and `init` as modules."""
    pages = sorted((ROOT / "docs/reference").glob("*.md"))
    text = "\n".join(page.read_text("utf-8") for page in pages)
    entry = r"^\.\. auto(?:class|function|exception|decorator):: (\w+)$"
    named = re.findall(entry, text, re.MULTILINE)
    named += re.findall(r"^\.\. automodule:: cellwright\.(cells|init)$", text, re.M)
    names = {n for n in cw.__all__ if not isinstance(getattr(cw, n), Op)}
    assert sorted(n for n in named if n not in OF_RUNS) == sorted(names)


#: What `load_run` gives, which has no public name of its own.
OF_RUNS = {"TextRun", "PairsRun"}
LEARN = ROOT / "docs/learn"
RECIPES = sorted(
    p for p in LEARN.glob("*.md") if p.stem not in ("tutorial", "cookbook")
)


@pytest.mark.parametrize("page", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_runs(page, tmp_path, monkeypatch):
    """As it stands, in a directory of its own; its own assertions hold."""
    monkeypatch.chdir(tmp_path)
    known = {}
    for block in code(page):
        exec(block, known)
    assert f"({page.name})" in (LEARN / "cookbook.md").read_text("utf-8")


def test_what_comes_from_neuralhydrology_computes_the_same(tmp_path, monkeypatch):
    """CudaLSTM is torch's LSTM and a head; EA-LSTM is written by hand here."""
    monkeypatch.chdir(tmp_path)
    known = {}
    for block in code("docs/learn/from-neuralhydrology.md"):
        exec(block, known)
    forcings, attributes = known["forcings"], known["attributes"]
    both = torch.cat([forcings, attributes.expand(len(forcings), -1, -1)], -1)
    expected = known["head"](known["lstm"](both)[0])
    torch.testing.assert_close(known["discharge"], expected, rtol=1e-5, atol=1e-5)

    layer = cw.Recurrent(
        known["ea_lstm"], 3, 4, inputs={"attributes": 2}, dtype=torch.float64
    )
    shapes = {"weight_ih": (3, 12), "weight_hh": (4, 12), "bias": (12,)}
    shapes |= {"input_net.weight": (4, 2), "input_net.bias": (4,)}
    saved = {n: normal(*s, seed=k).detach() for k, (n, s) in enumerate(shapes.items())}
    known["load_ea_lstm"](layer, saved)
    x, a = normal(6, 5, 3, seed=7).detach(), normal(5, 2, seed=8).detach()
    h = c = torch.zeros(5, 4, dtype=torch.float64)
    i = torch.sigmoid(a @ saved["input_net.weight"].T + saved["input_net.bias"])
    for x_t, y_t in zip(x, layer(x, attributes=a)[0], strict=True):
        gates = saved["bias"] + h @ saved["weight_hh"] + x_t @ saved["weight_ih"]
        f, o, g = gates.chunk(3, -1)
        c = f.sigmoid() * c + i * g.tanh()
        h = o.sigmoid() * c.tanh()
        assert_close(y_t, h)


#: What makes the tutorial short enough for a test.
SHORT = {
    "stdlib": "text.txt",
    "--minutes 1": "--steps 3 --hidden 8 --batch 2 --window 16",
    "--steps 300 --hidden 64": "--steps 2 --hidden 8 --batch 2 --log-every 1",
    "--seeds 2": "--seeds 1",
    ",gru,lstm": "",
    "--length 300": "--length 5",
    "updates=150": "updates=2",
}


@pytest.mark.full
def test_the_tutorial(tmp_path, monkeypatch):
    """Its files, commands and code, in order; it ends in two exports."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "idea", raising=False)
    Path("text.txt").write_text("def keep(self): return self\n" * 40, encoding="utf-8")
    text = (LEARN / "tutorial.md").read_text("utf-8")
    known = {}
    for kind, block in re.findall(r"^```(python|sh)\n(.*?)^```", text, re.M | re.S):
        for long, short in SHORT.items():
            block = block.replace(long, short)
        if kind == "sh":
            run_commands(block)
        elif block.startswith("# idea.py"):
            Path("idea.py").write_text(block, encoding="utf-8")
        else:
            exec(block, known)
    made = {
        p.name for p in [*Path("keeper_c").iterdir(), *Path("keeper_onnx").iterdir()]
    }
    assert {"keeper.h", "keeper.c", "keeper.onnx"} <= made
    drawn = Path("keeper.svg").read_text("utf-8")
    assert drawn == (LEARN / "keeper.svg").read_text("utf-8"), "draw it again"


def run_commands(block):
    for line in block.splitlines():
        name, *arguments = shlex.split(line)
        assert name == "cellwright"
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output


def test_the_tables_of_sources_have_every_cell_and_each_has_a_step_by_hand():
    text = (ROOT / "docs" / "cells.md").read_text(encoding="utf-8")
    rows = [row for row in text.splitlines() if row.startswith("| `")]
    names = [n for row in rows for n in re.findall(r"`(\w+)`", row.split("|")[1])]
    zoo = {n for n in cw.cells.__all__ if n != "get" and not n.startswith("all")}
    assert sorted(names) == sorted(zoo | {"np"})
    assert all(cell.strip() for row in rows for cell in row.split("|")[2:4])
    files = oracles, oracles_modern, oracles_attention, oracles_matrices
    by_hand = set().union(*(vars(file)["STEPS"] for file in files))
    assert set(names) == by_hand | set(tree_oracles.ORACLES)


def test_the_cell_page():
    function, by_hand = code("docs/dev/cell.md")
    known = {**vars(cw), "torch": torch, "affine": affine}
    exec(function, known)
    layer = cw.Recurrent(known["fast_rnn"], 3, 4, dtype=torch.float64)
    x, h = normal(5, 2, 3, seed=1), normal(1, 2, 4, seed=2)
    y, final = randomise(layer)(x, h)
    exec(by_hand, known)
    last = h[0]
    for x_t, y_t in zip(x, y, strict=True):
        expected, (last,) = known["fast_rnn"](layer.cells[0], x_t, last)
        assert_close(y_t, expected)
    assert_close(final[0], last)


def test_the_attention_page():
    known = {}
    for block in code("docs/attention.md"):
        exec(block, known)
    sums = known["weights"].sum(-1)
    torch.testing.assert_close(sums, torch.tensor([1.0, 1, 0, 1]).expand(10, 4))
    torch.testing.assert_close(known["first"], known["y"][0])
    by_name = {n for n in known["two_heads"].graph.gates if "attention" in n}
    assert by_name == {"attention.e0", "attention.e1"}
    table = (ROOT / "docs/attention.md").read_text("utf-8").split("| score | written |")
    scores = re.findall(r"\| `(.*?)`", table[1].split("\n\n")[0])
    assert len(scores) == 4
    for score in scores:
        text = f"lambda W, x, h, *, source: tanh(W.g(h, x, attend({score}, source)))"
        function = eval(text, known)
        function.__annotations__ = {"source": cw.Items}
        layer = cw.Recurrent(cw.cell(function), 64, 128, items={"source": 128})
        layer(known["x"], source=torch.randn(12, 4, 128))


@pytest.mark.parametrize("name", ["lstm", "gru", "peephole_diagonal", "leaky_rnn"])
def test_the_target_page(name):
    known = {"np": np}
    exec(code("docs/dev/target.md")[0], known)
    layer = randomise(cw.Recurrent(name, 3, 4, dtype=torch.float64))
    exec(known["numpy_source"](layer.graphs[0]), known)
    W = {n: p.detach().numpy() for n, p in layer.cells[0].named_parameters()}
    x = normal(5, 1, 3, seed=1).detach()
    states = [np.zeros(4) for _ in layer.graphs[0].states]
    for x_t, expected in zip(x[:, 0], layer(x)[0][:, 0], strict=True):
        y, *states = known["step"](W, x_t.numpy(), *states)
        assert_close(torch.from_numpy(y), expected)


@pytest.fixture
def eager(monkeypatch):
    """The engine of its page, chosen by its name."""
    choice = pytest.importorskip("cellwright.engine.choice")
    module = types.ModuleType("cellwright.engine.eager")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    module.__package__ = "cellwright.engine"
    exec(code("docs/dev/engine.md")[-1], vars(module))
    monkeypatch.setitem(choice.ENGINES, "eager", module.Eager())


@pytest.mark.parametrize("name", sorted(cw.cells.all()))
def test_the_engine_page(eager, name):
    """One file and one entry: lengths, resets, records, gradients."""
    found = {}
    resets = torch.zeros(5, 3, dtype=torch.bool)
    resets[2, 1] = True
    for engine in ("reference", "eager"):
        layer = cw.Recurrent(
            name, 5, 4, bidirectional=True, engine=engine, dtype=torch.float64
        )
        assert layer.engine == engine
        inputs = {
            i.name: normal(5, 3, int(i.size), seed=8).detach().abs()
            for i in layer.graphs[0].inputs[1:]
        }
        x = normal(5, 3, 5, seed=1)
        with cw.record(randomise(layer)) as values:
            y, _ = layer(x, lengths=[5, 4, 0], resets=resets, **inputs)
        (gradient,) = torch.autograd.grad(y.square().sum(), x)
        last = values[f"1.{layer.cell.states[0].name}"]
        found[engine] = y, gradient, last
    for own, expected in zip(found["eager"], found["reference"], strict=True):
        assert_close(own, expected)


def test_the_page_of_pairs():
    known = {}
    for block in code("docs/pairs.md"):
        exec(block, known)
    assert known["loss"].isfinite()
    assert all(p.grad is not None for p in known["model"].parameters())
    best = known["best"]
    assert best.attention.shape == (len(best.tokens) + 1, 9)
    assert len(known["found"][1]) == 3
