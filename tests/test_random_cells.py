"""Random cells: what is recorded is what runs, prints, parses, differentiates."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings

import cellwright as cw
from cellwright.language import verify
from cellwright.language.evaluate import evaluate
from oracles import gradients, normal, random_cotangents, randomise
from strategies import HIDDEN, INPUT, make_cell, sources, table_gradients

B = 3
examples = settings(
    max_examples=100, deadline=None, suppress_health_check=list(HealthCheck)
)


def make(source):
    cell = make_cell(source)
    layer = cw.Recurrent(cell, INPUT, HIDDEN, engine="reference", dtype=torch.float64)
    randomise(layer)
    inputs = cell.graph.inputs[1:]
    leaves = {"x": normal(B, INPUT, seed=1)}
    leaves |= {i.name: normal(B, i.size, seed=7) for i in inputs}
    for k, state in enumerate(layer.graphs[0].states):
        leaves[state.name] = normal(B, int(state.size), seed=2 + k)
    return cell, layer, leaves


def step(cell, W, leaves):
    named = {i.name: leaves[i.name] for i in cell.graph.inputs[1:]}
    results = cell(W, leaves["x"], *(leaves[s.name] for s in cell.states), **named)
    return list(results) if isinstance(results, tuple) else [results]


def assert_near(value, expected, what, source):
    """To 1e-10 of the largest entry, or of 1: gradients here may cancel to zero."""
    expected = torch.zeros_like(value) if expected is None else expected.detach()
    value = torch.zeros_like(expected) if value is None else value.detach()
    assert value.shape == expected.shape, f"{what}\n{source}"
    scale = max(float(expected.abs().max()), 1.0)
    error = float((value - expected).abs().max())
    assert error <= 1e-10 * scale, f"{what}: error {error}\n{source}"


@examples
@given(sources() | sources(matrices=True))
def test_the_recorded_graph_computes_what_the_function_computes(source):
    cell, layer, leaves = make(source)
    W, graph = layer.cells[0], cell.graph

    def by_graph():
        states = {s.name: leaves[s.name] for s in cell.states}
        inputs = {i.name: leaves[i.name] for i in graph.inputs}
        values = evaluate(graph, W, inputs, states)
        extra = [] if graph.output_is_state else [values[graph.output]]
        return [*extra, *(values[n] for n in graph.updates)]

    wanted = {**leaves, **dict(W.named_parameters())}
    values, found = gradients(by_graph, wanted)
    expected_values, expected = gradients(lambda: step(cell, W, leaves), wanted)
    for value, by_function in zip(values, expected_values, strict=True):
        assert_near(value, by_function, "value", source)
    for name in wanted:
        if found[name] is not None or expected[name] is not None:
            assert_near(found[name], expected[name], name, source)


@settings(examples, max_examples=300)
@given(sources() | sources(unread=True) | sources(matrices=True))
def test_printing_and_parsing_gives_an_equal_cell_that_runs_the_same(source):
    cell, layer, leaves = make(source)
    again = cw.Cell.from_text(cell.to_text())
    assert again.graph == cell.graph
    assert again.to_text() == cell.to_text()
    bound = layer.graphs[0]
    assert cw.Graph.from_text(bound.to_text()) == bound
    verify(again.graph, after="parsing")
    by_text = step(again, layer.cells[0], leaves)
    by_function = step(cell, layer.cells[0], leaves)
    for value, expected in zip(by_text, by_function, strict=True):
        assert_near(value, expected, "value", source)


@examples
@given(sources() | sources(matrices=True))
def test_the_derivative_by_the_table_is_autograds(source):
    cell, layer, leaves = make(source)
    W = layer.cells[0]
    results = step(cell, W, leaves)
    cotangents = random_cotangents(results)
    wanted = {**leaves, **dict(W.named_parameters())}
    expected = torch.autograd.grad(
        results, list(wanted.values()), cotangents, allow_unused=True
    )
    found = table_gradients(layer.graphs[0], W, leaves, cotangents)
    for name, by_autograd in zip(wanted, expected, strict=True):
        assert_near(found[name], by_autograd, name, source)


@settings(examples, max_examples=20)
@given(sources() | sources(matrices=True))
def test_a_layer_of_the_parsed_cell_is_the_layer_of_the_function(source):
    cell, layer, _ = make(source)
    again = cw.Recurrent(
        cw.Cell.from_text(cell.to_text()),
        INPUT,
        HIDDEN,
        engine="reference",
        dtype=torch.float64,
    )
    again.load_state_dict(layer.state_dict())
    x = normal(4, B, INPUT, seed=9)
    inputs = cell.graph.inputs[1:]
    named = {i.name: normal(4, B, i.size, seed=8) for i in inputs}
    (y, finals), (expected_y, expected) = again(x, **named), layer(x, **named)
    assert_near(y, expected_y, "y", source)
    finals, expected = (f if isinstance(f, tuple) else (f,) for f in (finals, expected))
    for value, by_function in zip(finals, expected, strict=True):
        assert_near(value, by_function, "final state", source)


def test_the_generator_reaches_every_part_of_the_language():
    """Or the tests above would test less than they say."""
    texts = []

    @settings(examples, max_examples=200, database=None)
    @given(sources())
    def collect(source):
        texts.append(source)

    collect()
    everything = "\n".join(texts)
    for part in (
        "heads=2",
        "bias=False",
        "bias=1.0",
        "where(",
        "maximum(",
        "layer_norm(",
        "softmax(",
        "sum(",
        "W.scalar(",
        "W.vector(",
        "name(",
        "def random_cell(W, x, h, c, m",
        "=0.5",
        "*, dt: 1",
        "size=1",
        " * dt",
    ):
        assert part in everything, part
    shared = [t for t in texts if t.count("W.w0(") > 1]
    assert len(shared) > 5
    stages = [t for t in texts if any(f"({v}" in t for v in ("g0, ", "u0, "))]
    assert len(stages) > 5
    outputs = [t for t in texts if t.rsplit("return ", 1)[1].startswith("s0 *")]
    assert len(outputs) > 5


def test_a_drawn_cell_that_misuses_the_language_would_be_noticed():
    with pytest.raises(cw.CellError):
        make_cell("def random_cell(W, x, h):\n    return tanh(W.h(h, x)) * W.h")
