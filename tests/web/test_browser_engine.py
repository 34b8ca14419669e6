"""The graph in the browser's engine equals the graph in torch, for every cell."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cellwright import Recurrent, cell, cells, maximum, minimum, tanh, where
from cellwright.language.evaluate import evaluate
from cellwright.language.expand import PRIMITIVES
from cellwright.language.sizes import MatrixSize
from cellwright.look.inspection import Inspection
from cellwright.look.live import Live
from cellwright.look.reading import Reader
from cellwright.look.web.report import layer_data, report_json

from .runs import make_run

pytestmark = pytest.mark.browser
SCRIPTS = Path(__file__).parents[2] / "web/tests"


def in_node(cases: list, script: str = "steps.mjs") -> Any:
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node")
    done = subprocess.run(
        [node, str(SCRIPTS / script)],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def _zoo() -> list[tuple[str, Recurrent]]:
    """Every cell of x alone; those that have heads with two of them as well."""
    known = {**cells.all(), **cells.all_with_matrices()}
    zoo = {n: c for n, c in known.items() if len(c.graph.inputs) == 1}
    layers = [(name, Recurrent(cell, 6, 8)) for name, cell in zoo.items()]
    layers += [
        (f"{name}, 2 heads", Recurrent(cell, 6, 8, heads=2))
        for name, cell in cells.all_with_matrices().items()
        if "heads" in cell.hyperparameters
    ]
    return layers


def test_every_cell_gives_the_same_numbers():
    cases, expected = [], []
    zoo = _zoo()
    assert len(zoo) > 50
    for _, layer in zoo:
        graph, weights = layer.graphs[0], layer.cells[0]
        x = torch.randn(1, 6)
        states = {s.name: 0.5 + torch.rand(1, int(s.size)) for s in graph.states}
        with torch.no_grad():
            values = evaluate(graph, weights, {"x": x}, states)
        expected.append(
            {
                n: values[i].flatten().tolist()
                for n, i in graph.names
                if not isinstance(graph.nodes[i].size, MatrixSize)
            }
        )
        expected[-1]["output"] = values[graph.output].flatten().tolist()
        news = zip(graph.states, graph.updates, strict=True)
        for state, update in news:
            new = values[update].expand(1, int(state.size)).flatten()
            expected[-1][f"new {state.name}"] = new.tolist()
        cases.append(
            {
                "layer": layer_data(graph, weights),
                "x": x[0].tolist(),
                "states": [states[s.name][0].tolist() for s in graph.states],
            }
        )
    found = in_node(cases)["results"]
    for (of_zoo, _), want, got in zip(zoo, expected, found, strict=True):
        for name, value in want.items():
            np.testing.assert_allclose(
                got[name], value, rtol=1e-5, atol=1e-5, err_msg=f"{of_zoo} {name}"
            )


def test_infinite_numbers_of_a_cell():
    """JSON has none, and a report that holds one would not open."""

    @cell
    def masked(W, x, h):
        a = W.a(h, x)
        kept = where(a > 0, a, -math.inf)
        return tanh(maximum(minimum(kept, math.inf), W.b(h)))

    layer = Recurrent(masked, 6, 8)
    x, h = torch.randn(1, 1, 6), torch.randn(1, 1, 8)
    data = json.dumps(layer_data(layer.graphs[0], layer.cells[0]), allow_nan=False)
    case = {"layer": json.loads(data), "x": x.flatten().tolist()}
    (found,) = in_node([{**case, "states": [h.flatten().tolist()]}])["results"]
    expected = layer(x, h)[0].detach().flatten()
    np.testing.assert_allclose(found["output"], expected, rtol=1e-5, atol=1e-5)


def test_the_browser_knows_every_primitive_operation():
    known = set(in_node([])["operations"])
    of_derivatives = {"row_dots", "column_dots", "to_vector"}
    assert known == PRIMITIVES - of_derivatives


@pytest.mark.parametrize(
    ("cell", "learned"), [("lstm", False), ("slstm", True), ("mlstm", False)]
)
def test_a_whole_language_model_gives_the_same_numbers(
    tmp_path: Path, cell: str, learned: bool
):
    """Embedding, two layers, logits: as the model says, which its engine computes."""
    run = make_run(tmp_path, cell)
    inspection = Inspection(run, run.held_out_text(60))
    if learned:
        width = inspection.model.rnn.input_size
        rnn = Recurrent(cell, width, 16, 2, learn_initial_state=True)
        for parameter in rnn.initial_states.parameters():
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        inspection.model.rnn = rnn.eval()
        inspection.reader = Reader(inspection.model)
    case = {
        "report": json.loads(report_json(inspection)),
        "tokens": inspection.reading.tokens.tolist(),
    }
    with torch.no_grad():
        tokens = torch.from_numpy(inspection.reading.tokens)
        logits, _ = inspection.model(tokens[:, None])
    (found,) = in_node([case], "models.mjs")
    assert np.shape(found) == (60, inspection.tokenizer.vocabulary)
    np.testing.assert_allclose(found, logits[:, 0], rtol=1e-5, atol=1e-5)


def test_typing_in_the_browser_is_typing_on_the_server(tmp_path: Path):
    """Two implementations of one thing: the same keys give the same answers."""
    run = make_run(tmp_path)
    inspection = Inspection(run, run.held_out_text(20))
    greedy = ("sample", {"temperature": 0, "top_k": None})
    texts = ["s", "sa", "say", "say(", "say(é", "say(", "say(éü😀"]
    acts = [greedy, ("edit", {"text": ""}), *(("edit", {"text": t}) for t in texts)]
    acts += [greedy, greedy, ("edit", {"text": "say("}), greedy, greedy, greedy]
    acts += [("edit", {"text": "say(no"}), ("edit", {"text": "sy"})]
    acts += [("reset", {"seed": 3}), ("edit", {"text": "if"}), ("show", {"key": "1.c"})]
    live = Live(inspection.reader, inspection.tokenizer)
    expected = []
    for act, options in acts:
        if act != "show":
            getattr(live, act)(**options)
        expected.append(live.show(options.get("key")))
    case = {"report": json.loads(report_json(inspection)), "acts": acts}
    (found,) = in_node([case], "typing.mjs")
    for act, want, shown in zip(acts, expected, found, strict=True):
        assert shown["text"] == want["text"], act
        assert shown["tokens"] == want["tokens"], act
        assert shown["unknown"] == want["unknown"], act
        assert shown["values"] == pytest.approx(want["values"], abs=2e-5), act
        chances = {n["piece"]: n["chance"] for n in want["next"]}
        assert {n["piece"]: n["chance"] for n in shown["next"]} == pytest.approx(
            chances, abs=2e-5
        )
    assert len(expected[-1]["values"]) == 16
