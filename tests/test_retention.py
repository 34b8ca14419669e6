"""What multiplies a state's old value, as the graph tells; the memory it implies."""

import numpy as np
import pytest
import torch

import cellwright as cw
from cellwright import cell, sigmoid, tanh
from cellwright.language.evaluate import evaluate
from cellwright.look.inspection import Inspection, saturation_beside
from cellwright.look.retention import retentions
from cellwright.look.saturation import implied_memory
from cellwright.nn.weights import CellWeights
from oracles import assert_close, normal, randomise
from web.runs import make_run

ZOO = cw.cells.all()
FACTORS = {
    "lstm": {"c": "f"},
    "lstm_projected": {"c": "f"},
    "peephole_diagonal": {"c": "f"},
    "layer_norm_lstm": {"c": "f"},
    "coupled": {"c": "f"},
    "cifg": {"c": "1 − i"},
    "nfg": {"c": "1"},
    "gru": {"h": "1 − z"},
    "gru_reset_after": {"h": "z"},  # torch's z keeps
    "mgu": {"h": "1 − f"},
    "janet": {"c": "f"},
    "ugrnn": {"h": "g"},
    "leaky_rnn": {"h": "0.9"},
    "slstm": {"c": "f", "n": "f"},
    "lem": {"y": "1 − t", "z": "1 − s"},
    "rnn": {},
    "indrnn": {},
    "star": {},
    "cfn": {},
    "mc_lstm": {},
}


def told(graph):
    return {r.state: r.factor for r in retentions(graph)}


@pytest.mark.parametrize("name", FACTORS)
def test_the_factor_of_the_old_state(name):
    assert told(ZOO[name].graph) == FACTORS[name]


def increment(W, x, h):
    z, n = sigmoid(W.z(h, x)), tanh(W.n(h, x))
    return h + 0.5 * z * (n - h)


def named_share(W, x, h):
    keep = cw.name("keep", 1 - sigmoid(W.z(h, x)))
    return keep * h - -tanh(W.n(x))


def divided(W, x, h):
    return tanh(W.n(h, x)) - -h / 4


def two_gates(W, x, h):
    return sigmoid(W.a(x)) * sigmoid(W.b(x)) * h + tanh(W.n(x))


def square(W, x, h):
    return sigmoid(W.a(x)) * h * h + tanh(W.n(x))


def largest(W, x, h):
    return sigmoid(W.a(x)) * h + cw.maximum(h, tanh(W.n(x)))


def over_itself(W, x, h):
    return h / (1 + cw.abs(h)) + tanh(W.n(x))


def learned(W, x, h):
    return W.p * h + tanh(W.n(x))


def deep(W, x, h):
    v = h
    for _ in range(400):
        v = v + v
    return 2.0**-401 * v + tanh(W.n(x))


USERS = {
    increment: {"h": "1 − 0.5 z"},
    named_share: {"h": "keep"},
    divided: {"h": "0.25"},
    two_gates: {},
    square: {},
    largest: {},
    over_itself: {},
    learned: {},
    deep: {"h": "0.5"},
}


@pytest.mark.parametrize("function", USERS, ids=lambda f: f.__name__)
def test_the_factor_in_a_users_cell(function):
    assert told(cell(function).graph) == USERS[function]


@pytest.mark.parametrize(
    "graph",
    [c.graph for c in ZOO.values()] + [cell(f).graph for f in USERS],
    ids=lambda graph: graph.name,
)
def test_the_factor_is_the_derivative_past_gates_and_matrices(graph):
    """By autograd, where no gradient goes through a gate or a matrix."""
    graph = graph.bind(**dict.fromkeys(graph.size_names, 4))
    W = randomise(CellWeights(graph, 4, dtype=torch.float64))
    inputs = {
        i.name: normal(3, int(i.size), seed=1 + k) for k, i in enumerate(graph.inputs)
    }
    states = {s.name: normal(3, 4, seed=20 + k) for k, s in enumerate(graph.states)}
    affines = {n for n, node in enumerate(graph.nodes) if node.op == "affine"}
    # A new state that is arithmetic alone is no gate: what it keeps counts.
    sums = {n for n in graph.updates if graph.nodes[n].op in ("add", "sub")}
    for kept in retentions(graph):
        own = graph.values[kept.state]
        cut = (affines | set(graph.values.values())) - {own, *sums}
        values = evaluate(
            graph,
            W,
            inputs,
            states,
            visit=lambda n, v, cut=cut: v.detach() if n in cut else v,
        )
        (found,) = torch.autograd.grad(values[own].sum(), states[kept.state])
        gate = values[graph.values[kept.gate]] if kept.gate else torch.zeros_like(found)
        assert_close(found, kept.constant + kept.slope * gate, kept.state)


def test_memory_by_hand():
    """A GRU whose z is 0.98 replaces nearly all at every step: 1.02 steps."""
    (kept,) = retentions(cw.cells.gru.graph)
    mean = kept.constant + kept.slope * np.array([0.98, 0.02, 0.0])
    np.testing.assert_allclose(implied_memory(mean), [1 / 0.98, 50, np.inf])


def test_the_inspector_tells_the_memory_of_the_gate_that_keeps(tmp_path):
    run = make_run(tmp_path, "gru", layers=1)
    inspection = Inspection(run, "say(1)\n" * 20)
    gates = {gate["key"]: gate for gate in inspection.saturation()}
    assert set(gates) == {"0.z", "0.r"}
    assert gates["0.r"]["memory"] == []
    (kept,) = gates["0.z"]["memory"]
    assert (kept["state"], kept["factor"]) == ("h", "1 − z")
    mean = inspection.values("0.z").mean(0, dtype=np.float64)
    np.testing.assert_allclose(kept["steps"], 1 / mean)
    assert saturation_beside(inspection, None)["constant"] == {"run": []}
