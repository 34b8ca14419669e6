"""Steps with the values of a trained model: the pictures hold NumPy's numbers."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import cellwright as cw
from cellwright.cli import app
from cellwright.language import ArgumentError
from cellwright.look.diagram import Diagram, Moment
from cellwright.look.diagram.live import short
from cellwright.look.diagram.strips import levels
from cellwright.look.inspection import Inspection
from diagram_geometry import extent, overlap, read, text_box
from test_diagram import measured
from web.runs import make_run

SVG = "{http://www.w3.org/2000/svg}"
T, ROW = 7, 1  # the step and the sequence that are looked at
TREES = [n for n in cw.cells.all_of_trees() if not cw.cells.get(n).graph.many]
LIVE = [*cw.cells.all(), *TREES]


def recorded(name: str) -> tuple[cw.Recurrent, Moment, dict[str, np.ndarray]]:
    """A layer with wide weights, one moment of it, and what was recorded then."""
    torch.manual_seed(3)
    layer = cw.Recurrent(name, 5, 24)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(4)
    x = torch.randn(T + 1, 3, 5)
    with cw.record(layer) as values:
        layer(x)
    states = {s.name: values[s.name][T - 1, ROW] for s in layer.cell.states}
    moment = Moment(layer.cells[0], {"x": x[T, ROW]}, states, "after 'x'", "a title")
    now = {f"{key.split('.')[-1]}_t": v[T, ROW].numpy() for key, v in values.items()}
    return layer, moment, now


def in_code(cell: cw.Cell) -> Diagram:
    """Its picture under the names of the code, which are those of recordings."""
    values = [name for name in cell.notation if not name.startswith("W.")]
    return cell.diagram(names={name: name for name in values})


@pytest.mark.parametrize("name", ["lstm", "gru", "peephole_diagonal", "mgu"])
def test_values_are_those_recorded(name):
    layer, moment, now = recorded(name)
    steps = in_code(layer.cell).steps(moment)
    seen = set()
    for step in steps:
        for label in step.values.keys() & now.keys():
            np.testing.assert_allclose(step.values[label], now[label], atol=1e-6)
            seen.add(label)
    assert seen == now.keys()
    for state, old in moment.states.items():
        np.testing.assert_array_equal(
            next(s.values[f"{state}_t−1"] for s in steps if f"{state}_t−1" in s.values),
            old.numpy(),
        )


def test_products_on_the_way_are_shown():
    layer, moment, now = recorded("lstm")
    values = in_code(layer.cell).steps(moment)[3].values
    assert list(values) == [
        "f_t",
        "c_t−1",
        "i_t",
        "g_t",
        "f_t * c_t−1",
        "i_t * g_t",
        "c_t",
    ]
    kept = now["f_t"] * moment.states["c"].numpy()
    np.testing.assert_allclose(values["f_t * c_t−1"], kept, atol=1e-6)
    np.testing.assert_allclose(values["c_t"], kept + now["i_t"] * now["g_t"], atol=1e-6)


def test_caption_counts_the_units():
    layer, moment, now = recorded("lstm")
    f, c = now["f_t"], now["c_t"]
    steps = in_code(layer.cell).steps(moment)
    high, low = (f > 0.9).mean(), (f < 0.1).mean()
    assert 0 < high < 1
    assert (
        f"After 'x', f_t is {f.mean():.2f} in the mean, above 0.9 in "
        f"{100 * high:.0f}\u00a0% and below 0.1 in {100 * low:.0f}\u00a0% of the "
        "units: c_t−1 is partly kept."
    ) in steps[0].caption
    assert f"{np.abs(c).mean():.2f} after + i_t * g_t." in steps[3].caption
    assert f"its size |h_t| is {np.abs(now['h_t']).mean():.2f}" in steps[5].caption


@pytest.mark.parametrize(
    ("bias", "said"),
    [(9.0, "c_t−1 is mostly kept."), (-9.0, "c_t−1 is mostly deleted.")],
)
def test_verdict_follows_the_gate(bias, said):
    layer, moment, _ = recorded("lstm")
    with torch.no_grad():
        layer.cells[0].f.bias.fill_(bias)
        layer.cells[0].f.weight.mul_(0.1)
    assert in_code(layer.cell).steps(moment)[0].caption.endswith(said)


def test_strips_show_every_unit_once_in_order():
    layer, moment, now = recorded("lstm")
    step = in_code(layer.cell).steps(moment)[3]
    root = ET.fromstring(step.svg)
    strips = [g for g in root.iter(f"{SVG}g") if g.get("data-strip")]
    order = np.argsort(now["f_t"], kind="stable")
    for strip, (label, value) in zip(strips, step.values.items(), strict=True):
        share = label in ("f_t", "i_t")
        found = units(strip)
        assert len(found) == 24
        if share:
            wanted = np.minimum((value * 10).astype(int), 9)
        else:  # ninths of −a to a, as the line beside it says
            a = limits(root)[label]
            wanted = np.clip(np.floor((value / a + 1) / 2 * 9), 0, 8).astype(int)
        np.testing.assert_array_equal(found, wanted[order])


def units(strip: ET.Element) -> list[int]:
    """The colour of each unit of a strip, from left to right."""
    unit, found = float(strip.get("data-unit", 0)), {}
    for path in strip.iter(f"{SVG}path"):
        level = int(re.search(r"\d+", path.get("class", ""))[0])
        for x, wide in re.findall(r"M([0-9.]+) [0-9.]+h([0-9.]+)v", path.get("d", "")):
            for n in range(round(float(wide) / unit)):
                found[round(float(x) + n * unit, 1)] = level
    return [found[x] for x in sorted(found)]


def limits(root: ET.Element) -> dict[str, float]:
    """The a of each line with a sign, by its label."""
    texts = ["".join(t.itertext()) for t in root.iter(f"{SVG}text")]
    at = [n for n, text in enumerate(texts) if text.startswith("a = ")]
    names = {"ct−1": "c_t−1", "gt": "g_t", "ct": "c_t"}
    names |= {"ft * ct−1": "f_t * c_t−1", "it * gt": "i_t * g_t"}
    return {names[texts[n - 1]]: float(texts[n][4:]) for n in at}


def test_numbers_beside_the_strips():
    layer, moment, now = recorded("lstm")
    step = in_code(layer.cell).steps(moment)[3]
    texts = ["".join(t.itertext()) for t in ET.fromstring(step.svg).iter(f"{SVG}text")]
    f, c = now["f_t"], now["c_t"]
    assert f"mean {f.mean():.2f}" in texts
    assert f"mean |·| {np.abs(c).mean():.2f}" in texts
    assert f"from {short(c.min())} to {short(c.max())}" in texts
    assert {"a title", "0", "1", "−a", "a"} <= set(texts)


def any_moment(name: str) -> tuple[cw.Cell, Moment]:
    """A step of a cell of sequences, or of a tree's node, with wide weights."""
    torch.manual_seed(3)
    graph = cw.cells.get(name).graph
    inputs = {i.name: 1 for i in graph.inputs if i.name != "x"}
    tree = bool(graph.children)
    layer = (
        cw.TreeRecurrent(name, 5, 24)
        if tree
        else cw.Recurrent(name, 5, 24, inputs=inputs)
    )
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(4)
    olds = [n for n in graph.nodes if n.op == "state"]
    given = {"x": torch.randn(5)} | {name: torch.rand(1) for name in inputs}
    widths = {"input_size": 5}
    states = {n.label: torch.rand(widths.get(n.size, 24)) for n in olds}
    return layer.cell, Moment(layer.cells[0], given, states)


@pytest.mark.parametrize("name", LIVE)
def test_histograms_count_the_units_and_cover_nothing(name):
    cell, moment = any_moment(name)
    for step in cell.diagram().steps(moment):
        root = ET.fromstring(step.svg)
        chips = [g for g in root.iter(f"{SVG}g") if g.get("data-chip")]
        assert len(chips) == len(step.values)
        boxes = [rectangle(next(chip.iter(f"{SVG}rect"))) for chip in chips]
        pale = next(g for g in root.iter(f"{SVG}g") if g.get("class") == "cw-pale")
        lit = read(f'<svg xmlns="{SVG[1:-1]}">{lit_part(root, pale)}</svg>')
        whole = read(f'<svg xmlns="{SVG[1:-1]}">{ET.tostring(pale, "unicode")}</svg>')
        for n, box in enumerate(boxes):
            assert not any(overlap(box, other, 0) for other in boxes[n + 1 :])
            for shape in lit.shapes + whole.shapes:
                assert not overlap(box, shape.box, 0)
            for label in lit.labels + whole.labels:
                assert not overlap(box, text_box(label, measured), 0), label.text
            for line in lit.lines:
                assert not any(overlap(box, extent(s), 0) for s in line.straight)
        assert lit.shapes
        assert lit.lines
        for chip in chips:
            heights = [
                float(r.get("height", 0)) for r in list(chip.iter(f"{SVG}rect"))[1:]
            ]
            assert max(heights) > 0


def lit_part(root: ET.Element, pale: ET.Element) -> str:
    """What is drawn over the pale picture, histograms left out."""
    group = next(g for g in root if pale in list(g))
    rest = [i for i in group if i is not pale and not i.get("data-chip")]
    return "".join(ET.tostring(item, encoding="unicode") for item in rest)


def rectangle(rect: ET.Element) -> tuple[float, float, float, float]:
    x, y, w, h = (float(rect.get(k, 0)) for k in ("x", "y", "width", "height"))
    return x, y, x + w, y + h


def test_bars_are_the_histogram():
    layer, moment, now = recorded("lstm")
    step = in_code(layer.cell).steps(moment)[0]
    chips = [g for g in ET.fromstring(step.svg).iter(f"{SVG}g") if g.get("data-chip")]
    bars = {
        int(bar.get("class", "").rpartition("g")[2]): float(bar.get("height", 0))
        for bar in list(chips[-1].iter(f"{SVG}rect"))[1:]
    }
    counts = np.bincount(np.minimum((now["f_t"] * 10).astype(int), 9), minlength=10)
    heights = np.array([bars.get(n, 0.0) for n in range(10)])
    np.testing.assert_allclose(
        heights / heights.max(), counts / counts.max(), atol=1e-2
    )


@pytest.mark.parametrize("name", cw.cells.all())
def test_every_cell_of_sequences_has_live_steps(name):
    cell = cw.cells.get(name)
    inputs = {i.name: 1 for i in cell.graph.inputs if i.name != "x"}
    torch.manual_seed(0)
    layer = cw.Recurrent(name, 6, 6, inputs=inputs)
    states = {s.name: torch.rand(6) for s in layer.cell.states}
    given = {"x": torch.randn(6)} | {name: torch.rand(1) for name in inputs}
    for step in layer.cell.diagram().steps(Moment(layer.cells[0], given, states)):
        assert step.values
        assert ET.fromstring(step.svg).tag == f"{SVG}svg"


def test_a_step_of_a_tree():
    layer = cw.TreeRecurrent("binary_lstm", 3, 4)
    states = {f"{c}.{s}": torch.rand(4) for c in ("left", "right") for s in "hc"}
    moment = Moment(layer.cells[0], {"x": torch.rand(3)}, states)
    assert in_code(layer.cell).steps(moment)[0].values
    wide = cw.TreeRecurrent("child_sum_lstm", 3, 4)
    with pytest.raises(ArgumentError, match="any number of children"):
        wide.cell.diagram().steps(moment)


def test_hyperparameters_keep_their_values():
    torch.manual_seed(0)
    layer = cw.Recurrent("leaky_rnn", 3, 4, alpha=0.3)
    h, x = torch.randn(4), torch.randn(3)
    values = layer.cell.diagram().steps(Moment(layer.cells[0], {"x": x}, {"h": h}))
    y, _ = layer(x[None], h[None])
    np.testing.assert_allclose(values[-1].values["h_t"], y[0].detach(), atol=1e-7)


def test_errors_say_what_a_step_needs():
    layer, moment, _ = recorded("lstm")
    diagram = layer.cell.diagram()
    with pytest.raises(ArgumentError, match="known by x, h, c; received x, expected"):
        diagram.steps(Moment(moment.weights, moment.inputs, {}))
    states = {**moment.states, "h": torch.zeros(3, 24)}
    with pytest.raises(ArgumentError, match=r"h of one step .* shape \(3, 24\)"):
        diagram.steps(Moment(moment.weights, moment.inputs, states))


# -- of a run -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


def draw(*words: object):
    return CliRunner().invoke(app, ["draw", *map(str, words)])


@pytest.mark.parametrize("layer", [0, 1])
def test_moment_is_what_the_inspector_reads(run, layer):
    text = 'if (a[0] > "b"):'
    inspection = Inspection(run, text)
    tokens = run.tokenizer.encode(text)
    moment = inspection.reader.moment(tokens, layer)
    graph = inspection.reader.graphs[layer]
    for name, node in graph.values.items():
        told = inspection.reading.values[f"{layer}.{name}"][-1]
        np.testing.assert_allclose(moment.values(graph)[node], told, atol=1e-6)


def test_draw_command_shows_a_run(run, tmp_path):
    path = tmp_path / "steps.svg"
    prompt = 'if (a[0] > "'
    result = draw(
        run.directory, "--steps", "--prompt", prompt, "--layer", 1, "-o", path
    )
    assert result.exit_code == 0, result.output
    assert len(list(tmp_path.iterdir())) == 6
    values = Inspection(run, prompt).reading.values["1.f"][-1]
    drawn = (tmp_path / "steps-1.svg").read_text(encoding="utf-8")
    texts = ["".join(t.itertext()) for t in ET.fromstring(drawn).iter(f"{SVG}text")]
    assert f"mean {values.mean():.2f}" in texts
    assert """run, layer 1, token 11: 'if (a[0] > ', then '"'""" in texts
    result = draw(run.directory, "--steps", "--at", 3, "-o", path)
    assert result.exit_code == 0, result.output
    assert "token 3" in (tmp_path / "steps-1.svg").read_text(encoding="utf-8")
    assert draw(run.directory, "-o", path).exit_code == 0
    assert "concatenate" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--steps", "--prompt", ""], "an empty text"),
        (["--steps", "--prompt", "ab", "--at", "2"], "no token 2 in a text of 2"),
        (["--steps", "--layer", "5"], r"received layer 5, expected 0 to 1"),
        (["--prompt", "ab"], "expected a run's directory and --steps"),
        (["--steps", "--prompt", "a", "--text", "b"], "received --text and --prompt"),
    ],
)
def test_draw_command_explains(run, words, said):
    result = draw(run.directory, *words)
    assert result.exit_code == 1
    assert re.search(said, " ".join(result.stderr.split()))


def test_a_cell_has_no_values():
    result = draw("lstm", "--steps", "--prompt", "a")
    assert result.exit_code == 1
    assert "only the steps of a run have values" in result.stderr


def test_levels_end_where_the_scale_does():
    from cellwright.look.diagram.live import Row

    share = Row(0, (), np.array([0.0, 0.1, 0.55, 0.95, 1.0]), True, 1.0)
    assert levels(share).tolist() == [0, 1, 5, 9, 9]
    signed = Row(0, (), np.array([-9.0, -2.0, 0.0, 2.0, 9.0]), False, 2.0)
    assert levels(signed).tolist() == [0, 0, 4, 8, 8]
