"""The cells with matrix states against steps written by hand, and what a layer of them
does with lengths, resets, masks, steppers, records and files."""

import copy
import inspect
import io
import pickle

import pytest
import torch

import cellwright as cw
import oracles_modern
from cellwright.language.evaluate import evaluate
from cellwright.look.check import check_cell
from oracles import (
    assert_close,
    assert_same_values_and_gradients,
    flat,
    leaves_of,
    normal,
    random_cotangents,
    randomise,
)
from oracles_matrices import STEPS

T, B, X, H = 5, 3, 5, 4
WITHOUT_HEADS = ("selective_ssm", "mc_lstm_hydrology")
CASES = [
    *((name, {"heads": 2}) for name in STEPS if name not in WITHOUT_HEADS),
    ("mc_lstm_hydrology", {}),
    ("selective_ssm", {"state_size": 3, "rank": 2}),
    ("mlstm", {"heads": 1}),
    ("mlstm", {"heads": 4}),
    ("delta_net", {"heads": 2, "negative_eigenvalues": True}),
    ("gated_delta_net", {"heads": 1, "negative_eigenvalues": True}),
    ("retention", {"heads": 4, "gamma": 0.7}),
    ("gla", {"heads": 2, "rank": 3, "tau": 4}),
    ("rwkv6", {"heads": 1, "rank": 3, "decay_rank": 2}),
    ("selective_ssm", {"state_size": 1}),
]
IDS = ["-".join([n, *(f"{k}={v}" for k, v in o.items())]) for n, o in CASES]
STACK = ("num_layers", "bidirectional")


def make(name, seed=3, **options):
    """A layer with asymmetric weights, x, and initial states for it."""
    options = {"engine": "reference", **options}
    layer = cw.Recurrent(cw.cells.get(name), X, H, dtype=torch.float64, **options)
    randomise(layer, seed)
    count = len(layer.cells)
    states = [
        normal(count, B, int(s.size), seed=50 + k)
        for k, s in enumerate(layer.graphs[0].states)
    ]
    if name == "fast_weights":  # a sum of positive keys
        states[1].data.abs_().add_(0.5)
    if name == "mc_lstm_hydrology":
        states[0].data.abs_().add_(0.1)
    return layer, normal(T, B, X, seed=1), states


def as_argument(states):
    return states[0] if len(states) == 1 else tuple(states)


def named(name):
    """The named inputs of a cell, at every step."""
    mass = normal(T, B, 1, seed=8).detach().abs().add(0.2).requires_grad_()
    return {"mass": mass} if name == "mc_lstm_hydrology" else {}


def by_hand(name, layer, x, states, options, inputs):
    steps = {k: v for k, v in options.items() if k not in STACK}
    directions = 1 + options.get("bidirectional", False)
    return oracles_modern.layers(
        STEPS[name], layer.cells, x, states, inputs, directions=directions, **steps
    )


def test_every_cell_with_a_matrix_state_is_held_to_a_step_by_hand():
    assert set(cw.cells.all_with_matrices()) == set(STEPS) <= set(cw.cells.__all__)


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
@pytest.mark.parametrize("layers", [1, 2])
def test_values_and_every_gradient_equal_the_hand_written_loop(name, options, layers):
    """One layer forward; then two layers in both directions."""
    options = {**options, "num_layers": layers, "bidirectional": layers > 1}
    if name == "rwkv6":  # a state of the input's size is one of one layer
        options["num_layers"] = 1
    layer, x, states = make(name, **options)
    inputs = named(name)
    assert_same_values_and_gradients(
        lambda: layer(x, as_argument(states), **inputs),
        lambda: by_hand(name, layer, x, states, options, inputs),
        {**leaves_of(layer, x, states), **inputs},
    )


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_the_function_its_text_and_its_graph_are_one_cell(name, options):
    layer, x, states = make(name, **options)
    W, cell, graph = layer.cells[0], layer.cell, layer.graphs[0]
    again = cw.Cell.from_text(cell.to_text())
    assert again.graph == cell.graph
    assert cell.to_text().startswith("# cellwright cell 3\n")
    olds = [s[0] for s in states]
    inputs = {label: value[0] for label, value in named(name).items()}
    expected = flat(cell(W, x[0], *olds, **inputs))
    labelled = dict(zip([s.name for s in graph.states], olds, strict=True))
    values = evaluate(graph, W, {"x": x[0], **inputs}, labelled)
    for number, by_function in zip(graph.returned, expected, strict=True):
        assert_close(values[number], by_function)
    for value, by_function in zip(
        flat(again(W, x[0], *olds, **inputs)), expected, strict=True
    ):
        assert_close(value, by_function)


@pytest.mark.parametrize("name", STEPS)
def test_the_tables_derivatives_and_finite_differences_agree_with_autograd(name):
    found = check_cell(cw.cells.get(name), 3, 4, steps=5, seed=1)
    assert found.autograd_error < 1e-10
    assert found.difference_error < 1e-5
    assert not found.silent


@pytest.mark.parametrize("name", STEPS)
def test_a_cell_is_at_most_a_dozen_lines_and_names_its_source(name):
    cell = cw.cells.get(name)
    body = inspect.getsource(cell.function).split('"""')[-1].strip().splitlines()
    assert len([line for line in body if line.strip()]) <= 12
    assert any(digit in cell.__doc__ for digit in "12")  # a year, an equation


@pytest.mark.parametrize("name", STEPS)
def test_the_last_state_depends_on_every_initial_state(name):
    layer, x, states = make(name)
    if name == "rwkv6":  # slow enough that the first state is seen in the last
        layer.cells[0].decay.bias.data.sub_(3)
    _, finals = layer(x, as_argument(states), **named(name))
    last = flat(finals)[0]
    cotangent = random_cotangents([last])[0]
    found = torch.autograd.grad(last, states, cotangent, allow_unused=True)
    for state, g in zip(layer.cell.states, found, strict=True):
        if state.name not in ("past", "z", "n"):  # the matrix does not read these
            assert float(g.norm() / cotangent.norm()) > 1e-4, state.name


def test_mass_is_conserved_and_lost_where_nothing_of_a_row_is_left():
    layer, x, states = make("mc_lstm_hydrology")
    mass = named("mc_lstm_hydrology")["mass"]
    layer.cells[0].r.bias.data += 20  # no row is all zeros
    y, c = layer(x, states[0], mass=mass)
    before = states[0][0].sum(-1) + mass.sum((0, 2))
    assert_close(y.sum((0, 2)) + c[0].sum(-1), before)
    layer.cells[0].r.bias.data[:H] -= 100  # none of the first unit's is
    y, c = layer(x[:1], states[0], mass=mass[:1])
    lost = states[0][0, :, 0]
    now = y[0].sum(-1) + c[0].sum(-1)
    assert_close(now + lost, states[0][0].sum(-1) + mass[0, :, 0])


# -- what a layer does with them ---------------------------------------------------

SOME = ["mlstm", "gated_delta_net", "selective_ssm"]


def heads(name):
    return {} if name == "selective_ssm" else {"heads": 2}


@pytest.mark.parametrize("name", SOME)
def test_lengths_zero_among_them_and_resets(name):
    """Each row alone, cut where it starts anew."""
    layer, x, states = make(name, **heads(name))
    lengths = torch.tensor([3, 0, 5])
    starts = torch.zeros(T, B, dtype=torch.bool)
    starts[2, 0] = starts[1, 2] = starts[4, 2] = True
    pairs = zip(states, layer.cell.states, strict=True)
    own = [torch.full_like(s[:, :1], i.init) for s, i in pairs]

    def rows():
        y, finals = layer(x, as_argument(states), lengths=lengths, resets=starts)
        return y, finals

    def one_by_one():
        outputs, ends = [], []
        for b, length in enumerate(lengths.tolist()):
            current = [s[:, b : b + 1] for s in states]
            parts = [x.new_zeros(T - length, 1, H)]
            found = []
            for t in range(length):
                if starts[t, b]:
                    current = own
                y, current = layer(x[t : t + 1, b : b + 1], as_argument(current))
                current = flat(current)
                found.append(y)
            outputs.append(torch.cat([*found, *parts]))
            ends.append(current)
        finals = [torch.cat(parts, 1) for parts in zip(*ends, strict=True)]
        return torch.cat(outputs, 1), finals

    assert_same_values_and_gradients(rows, one_by_one, leaves_of(layer, x, states))


@pytest.mark.parametrize("name", SOME)
def test_a_stepper_takes_the_layers_steps(name):
    layer, x, _ = make(name, num_layers=2, **heads(name))
    y, finals = layer(x)
    step = layer.stepper(batch_size=B)
    for t in range(T):
        assert_close(step(x[t]), y[t].detach())
    for state, final in zip(flat(step.state), flat(finals), strict=True):
        assert_close(state, final.detach())


def test_a_record_has_every_matrix_of_every_step():
    layer, x, _ = make("gated_delta_net", heads=2)
    with cw.record(layer) as values:
        _, final = layer(x)
    size = layer.graphs[0].states[0].size
    assert values["S"].shape == (T, B, H * H // 2)
    assert size.blocks == (2, 2, 2)
    assert torch.equal(values["S"][-1], final[0])
    blocks = values["S"].unflatten(-1, size.blocks)
    k = layer.cells[0].k.weight.new_ones(T, B, 2, 2)
    assert (blocks @ k[..., None]).shape == (T, B, 2, 2, 1)


@pytest.mark.parametrize("name", SOME)
def test_a_layer_is_copied_pickled_and_loaded(name):
    layer, x, states = make(name, **heads(name))
    expected = layer(x, as_argument(states))[0]
    fresh, *_ = make(name, seed=4, **heads(name))
    saved = io.BytesIO()
    torch.save(layer.state_dict(), saved)
    fresh.load_state_dict(torch.load(io.BytesIO(saved.getvalue())))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), fresh):
        assert torch.equal(other(x, as_argument(states))[0], expected)


def test_gradients_of_gradients():
    layer, x, states = make("gated_delta_net", heads=2)
    short = x[:2, :1].detach().requires_grad_()
    state = states[0][:, :1].detach().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x, s: layer(x, s), (short, state))


def test_a_layer_under_vmap_autocast_and_compile():
    layer, x, states = make("delta_net", heads=2)
    expected = layer(x, states[0])[0]
    many = torch.vmap(lambda x, s: layer(x, s)[0])(x[None], states[0][None])
    assert_close(many[0], expected)
    exported = torch.export.export(layer, (x, states[0]))
    assert_close(exported.module()(x, states[0])[0], expected)
    single = copy.deepcopy(layer).float()
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = single(x.float(), states[0].float())
    assert torch.allclose(y.double(), expected, atol=0.1)


def test_a_weight_matrix_has_the_shape_of_its_blocks():
    ssm, *_ = make("selective_ssm", state_size=3)
    assert ssm.cells[0].log_A.shape == (H, 3)
    assert ssm.cell.graph.parameters()["log_A"] == ("hidden_size", 3)


@pytest.mark.parametrize("name", SOME)
def test_it_runs_natively(name):
    layer = cw.Recurrent(cw.cells.get(name), X, H)
    assert layer.engine == "native"


@pytest.mark.parametrize(
    "option", [{"zoneout": {"C": 0.1}}, {"recurrent_dropout": 0.1}]
)
def test_masks_of_matrices_are_refused(option):
    with pytest.raises(cw.ArgumentError, match=r"masks are of vectors; received .*_C"):
        cw.Recurrent(cw.cells.mlstm, X, H, **option)
    zoned = cw.Recurrent(cw.cells.mlstm, X, H, zoneout={"n": 0.5})
    y, _ = zoned(torch.randn(T, B, X))
    assert y.isfinite().all()
