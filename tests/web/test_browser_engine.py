"""The graph in the browser's engine equals the graph in torch, for every cell."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cellwright import Recurrent, cells
from cellwright.language import OPS, ArgumentError
from cellwright.language.evaluate import evaluate
from cellwright.language.expand import PRIMITIVES
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


def test_every_cell_gives_the_same_numbers():
    cases, expected = [], []
    zoo = [c for c in cells.all().values() if len(c.graph.inputs) == 1]
    assert len(zoo) > 30
    for cell in zoo:
        layer = Recurrent(cell, 6, 8)
        graph, weights = layer.graphs[0], layer.cells[0]
        x = torch.randn(1, 6)
        states = {s.name: 0.5 + torch.rand(1, int(s.size)) for s in graph.states}
        with torch.no_grad():
            values = evaluate(graph, weights, {"x": x}, states)
        expected.append({n: values[i].flatten().tolist() for n, i in graph.names})
        cases.append(
            {
                "layer": layer_data(graph, weights),
                "x": x[0].tolist(),
                "states": [states[s.name][0].tolist() for s in graph.states],
            }
        )
    for cell, want, found in zip(zoo, expected, in_node(cases)["results"], strict=True):
        for name, value in want.items():
            np.testing.assert_allclose(
                found[name], value, rtol=1e-5, atol=1e-5, err_msg=f"{cell.name} {name}"
            )


def test_the_browser_knows_every_primitive_operation():
    known = set(in_node([])["operations"])
    of_matrices = {n for n, op in OPS.items() if op.kind == "matrix"}
    of_derivatives = {"row_dots", "column_dots", "to_matrix", "to_vector"}
    assert known == PRIMITIVES - of_matrices - of_derivatives


@pytest.mark.parametrize("name", ["mlstm", "retention", "selective_ssm"])
def test_a_report_refuses_matrices(name):
    layer = Recurrent(cells.get(name), 6, 8)
    with pytest.raises(ArgumentError, match="expected a cell of vectors"):
        layer_data(layer.graphs[0], layer.cells[0])


@pytest.mark.parametrize(("cell", "learned"), [("lstm", False), ("slstm", True)])
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
    typed = [("type", {"text": key}) for key in "say(é"]
    acts = [greedy, ("back", {}), *typed, ("back", {}), greedy, greedy, ("back", {})]
    acts += [("type", {"text": "no"}), *[("back", {})] * 4, ("reset", {"seed": 3})]
    acts += [("back", {}), ("type", {"text": "if"}), ("show", {"key": "1.c"})]
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
        assert shown["values"] == pytest.approx(want["values"], abs=2e-5), act
        chances = {n["piece"]: n["chance"] for n in want["next"]}
        assert {n["piece"]: n["chance"] for n in shown["next"]} == pytest.approx(
            chances, abs=2e-5
        )
    assert len(expected[-1]["values"]) == 16
