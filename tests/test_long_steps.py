"""Steps of many operations: no walk of a graph takes a path twice, or recurses."""

import pytest
import torch

import cellwright as cw
from cellwright import cell, layer_norm, tanh
from cellwright.compiler.explain import explain
from cellwright.engine.torch_layout import find_layout
from cellwright.language import builder
from cellwright.look.check import check_cell
from cellwright.look.diagram import DrawingError
from cellwright.look.formula import mathml
from oracles import assert_same_values_and_gradients, normal, randomise


def repeated(count, once, scale=1.0):
    """A cell whose step does one thing many times."""

    def long_step(W, x, h):
        v = W.a(h, x)
        for place in range(count):
            v = once(W, v, h, place)
        return tanh(v * scale)

    return cell(long_step)


LONG = {
    "doubled": lambda: repeated(60, lambda W, v, h, k: v + v, 2.0**-60),
    "squared": lambda: repeated(40, lambda W, v, h, k: v + 0.1 * cw.cos(v * v)),
    "normed": lambda: repeated(40, lambda W, v, h, k: v + 0.5 * layer_norm(v), 0.01),
    "residual": lambda: repeated(
        30, lambda W, v, h, k: v + 0.1 * tanh(getattr(W, f"w{k}")(v))
    ),
    "shared": lambda: repeated(30, lambda W, v, h, k: v + 0.1 * tanh(W.s(v))),
    "branched": lambda: repeated(30, lambda W, v, h, k: cw.where(v > h, 0.9 * v, -v)),
    "chained": lambda: repeated(150, lambda W, v, h, k: tanh(0.99 * v + 0.01 * h)),
}


@pytest.mark.parametrize("name", LONG)
def test_a_long_step_is_read_written_and_explained(name):
    graph = LONG[name]().graph
    text = graph.to_text()
    assert cw.Graph.from_text(text) == graph
    assert max(map(len, text.split("\n"))) < 2_000
    long = cw.Cell.from_graph(graph)
    assert "long" not in long.latex()
    assert mathml(long).startswith("<math")
    assert "FLOPs" in explain(long, 3, 4)
    assert find_layout(graph) is None


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("memory", ["save", "recompute"])
def test_a_long_step_trains_on_the_native_engine(name, memory):
    def layer(engine, **options):
        return randomise(
            cw.Recurrent(
                LONG[name](), 3, 4, engine=engine, dtype=torch.float64, **options
            )
        )

    native, reference = layer("native", memory=memory), layer("reference")
    reference.load_state_dict(native.state_dict())
    x, h = normal(3, 2, 3, seed=1), normal(1, 2, 4, seed=2)
    names = [n for n, _ in native.named_parameters()]
    assert_same_values_and_gradients(
        lambda: native(x, h),
        lambda: reference(x, h),
        {"x": x, "h": h, **dict(native.named_parameters())},
        {"x": x, "h": h, **{n: reference.get_parameter(n) for n in names}},
    )


def test_a_sum_of_doubled_numbers_is_taken_apart_once():
    """The gradient of a learned number that is doubled again and again."""

    def doubled(W, x, h):
        s = W.scalar("s", init=0.3)
        for _ in range(40):
            s = s + s
        return tanh(W.a(h, x) + 2.0**-40 * s)

    layers = [
        randomise(cw.Recurrent(cell(doubled), 3, 4, engine=e, dtype=torch.float64))
        for e in ("native", "reference")
    ]
    layers[1].load_state_dict(layers[0].state_dict())
    x = normal(3, 2, 3, seed=1)
    wanted = [{"x": x, **dict(layer.named_parameters())} for layer in layers]
    assert_same_values_and_gradients(
        lambda: layers[0](x), lambda: layers[1](x), *wanted
    )


def test_a_chain_of_5_000_operations_needs_no_recursion():
    long = repeated(2_500, lambda W, v, h, k: tanh(1.01 * v))
    assert len(long.graph.nodes) > 5_000
    assert cw.Graph.from_text(long.to_text()) == long.graph
    assert long.latex().startswith(r"\begin{aligned}")
    assert "FLOPs" in explain(long, 3, 4)
    layer = cw.Recurrent(long, 3, 4)
    assert layer.engine == "reference"
    assert "operations" in layer.engine_reason
    layer(torch.randn(1, 1, 3))[0].sum().backward()
    with pytest.raises(cw.ArgumentError, match=r"native engine cannot.*operations"):
        cw.Recurrent(long, 3, 4, engine="native")


def test_the_longest_step_of_the_native_engine_fits_the_core():
    """As many reads in one stage as there can be."""
    long = repeated(245, lambda W, v, h, k: v + 0.1 * tanh(W.s(v)))
    assert 950 < len(long.graph.nodes) <= 1_000
    layer = cw.Recurrent(long, 3, 4, engine="native")
    layer(torch.randn(1, 1, 3))[0].sum().backward()
    assert layer.get_parameter("cells.0.s.weight").grad.abs().max() > 0


def test_a_step_without_end_is_an_error():
    def endless(W, x, h):
        v = W.a(h, x)
        while True:
            v = v + h

    with pytest.raises(
        cw.CellError, match=rf"test_long_steps.*{builder.MOST_NODES:,} operations"
    ):
        cell(endless)


def test_a_text_that_is_nested_too_deep_is_an_error_of_one_line():
    for nested in ("tanh(" * 3_000 + "h" + ")" * 3_000, "h" + " + h" * 5_000):
        text = f"# cellwright cell 1\ndef c(W, x, h):\n    return {nested}\n"
        with pytest.raises(cw.CellError, match="printed cell"):
            cw.Graph.from_text(text)


def test_a_long_step_is_checked_by_derivatives():
    long = repeated(25, lambda W, v, h, k: v + 0.1 * tanh(W.s(v)))
    assert check_cell(long, 3, 4, steps=5).problems == []


def test_a_step_too_long_for_a_picture_is_told_so():
    long = repeated(200, lambda W, v, h, k: v + h)
    with pytest.raises(DrawingError, match=r"too large for a picture.*at most 120"):
        long.diagram()
    shown = long._repr_mimebundle_()
    assert "<math" in shown["text/html"]
    assert "image/svg+xml" not in shown


def test_doublings_are_drawn():
    assert LONG["doubled"]().diagram().svg.startswith("<svg")
