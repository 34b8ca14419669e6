"""`check_cell`: sound cells are sound, unsound ones are found out."""

import dataclasses
import math

import pytest
import torch

import cellwright as cw
from cellwright import cell, sigmoid, tanh
from cellwright.language import OPS
from cellwright.look.check import check_cell

SIZES = {"input_size": 3, "hidden_size": 4, "steps": 12}


@pytest.mark.parametrize("name", sorted(cw.cells.all()))
def test_every_cell_of_the_zoo_is_sound(name):
    found = check_cell(cw.cells.get(name), **SIZES)
    assert found.sound, found.problems
    assert found.autograd_error < 1e-10
    assert found.difference_error < 1e-6
    assert found.silent == []
    assert 0 < found.growth < math.inf
    assert len(found.gradient_norms) == SIZES["steps"] + 1
    assert found.gradient_norms[0] == 1.0
    assert set(found.state_norms) == {s.name for s in cw.cells.get(name).states}
    assert found.graph == cw.cells.get(name).graph.bind(
        **{
            s: 3 if s == "input_size" else 4
            for s in cw.cells.get(name).graph.size_names
        }
    )


def linear(rho, orthogonal):
    """A linear cell whose recurrent matrix is ρ · orthogonal: four fixed weights."""

    @cell
    def rotates(W, x, a, b):
        c, s = rho * math.cos(orthogonal), rho * math.sin(orthogonal)
        return c * a - s * b + W.i(x), s * a + c * b

    return rotates


@pytest.mark.parametrize("rho", [0.5, 0.9, 1.0, 1.1])
@pytest.mark.parametrize("angle", [0.3, 2.0])
def test_a_linear_cell_of_rho_times_orthogonal_has_growth_rho(rho, angle):
    """Every vector's norm changes by ρ per step back: exactly, not on average."""
    found = check_cell(linear(rho, angle), **SIZES)
    assert found.growth == pytest.approx(rho, rel=1e-10)
    for k, norm in enumerate(found.gradient_norms):
        assert norm == pytest.approx(rho**k, rel=1e-10)
    assert found.sound


@pytest.mark.parametrize(
    ("rho", "words"),
    [(0.5, "vanish, halving every 1.0 steps"), (2.0, "explode, doubling every 1.0")],
)
def test_growth_is_put_in_words(rho, words):
    found = check_cell(linear(rho, 0.3), **SIZES)
    assert any(words in r for r in found.remarks), found.remarks


def test_growth_of_one_is_called_neither():
    found = check_cell(linear(1.0, 0.3), **SIZES)
    assert any("neither vanish nor explode" in r for r in found.remarks)


def test_a_trained_matrix_of_rho_times_orthogonal_gives_growth_rho():
    """The same with a real weight: torch's generator is patched to draw it."""

    @cell
    def linear_rnn(W, x, h):
        return W.r(h, bias=False) + W.i(x)

    drawn = {}

    def draw(weights):
        with torch.no_grad():
            for parameter in weights.parameters():
                torch.nn.init.uniform_(parameter, -0.1, 0.1)
            q = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
            weights.r.weight.copy_(0.8 * q)
            drawn["r"] = weights.r.weight

    from cellwright.nn.weights import CellWeights

    original = CellWeights.reset_parameters
    CellWeights.reset_parameters = draw
    try:
        found = check_cell(linear_rnn, **SIZES)
    finally:
        CellWeights.reset_parameters = original
    assert drawn
    assert found.growth == pytest.approx(0.8, rel=1e-10)


def test_an_exploding_cell_is_found():
    @cell
    def explodes(W, x, h):
        return 4 * h + W.a(h, x)

    found = check_cell(explodes, **SIZES)
    assert not found.sound
    assert any("state 'h' explodes" in p for p in found.problems)
    assert found.growth > 3
    assert any("explode, doubling" in r for r in found.remarks)


def test_a_state_that_overflows_is_found():
    @cell
    def overflows(W, x, h):
        return cw.exp(h * h + W.a(h, x) + 2)

    found = check_cell(overflows, **SIZES)
    assert not found.sound
    assert any("explodes" in p for p in found.problems)


def test_a_derivative_wrong_by_a_thousandth_is_found(monkeypatch):
    rule = OPS["tanh"].derivative
    wrong = dataclasses.replace(
        OPS["tanh"], derivative=lambda g, y, v: (1.001 * rule(g, y, v)[0],)
    )
    monkeypatch.setitem(OPS, "tanh", wrong)
    found = check_cell(cw.cells.lstm, **SIZES)
    assert not found.sound
    assert 1e-5 < found.autograd_error < 1e-2
    assert any("derivatives differ" in p for p in found.problems)
    assert found.difference_error < 1e-6  # torch's autograd itself is right


def test_a_wrong_rule_that_only_weights_see_is_found(monkeypatch):
    """A bad cotangent of a vector reaches no state and no input."""

    @cell
    def gained(W, x, h):
        return tanh(W.a(h, x)) + cw.softplus(W.vector("p"))

    assert check_cell(gained, **SIZES).sound
    rule = OPS["softplus"].derivative
    wrong = dataclasses.replace(
        OPS["softplus"], derivative=lambda g, y, v: (1.001 * rule(g, y, v)[0],)
    )
    monkeypatch.setitem(OPS, "softplus", wrong)
    assert not check_cell(gained, **SIZES).sound


def test_a_rule_that_drops_a_gradient_is_found(monkeypatch):
    """No cotangent at all is a wrong one, not one that need not be compared."""

    @cell
    def squashed(W, x, h):
        return cw.softsign(h) + tanh(W.a(x))

    assert check_cell(squashed, **SIZES).sound
    cut = dataclasses.replace(OPS["softsign"], derivative=lambda g, y, v: (None,))
    monkeypatch.setitem(OPS, "softsign", cut)
    found = check_cell(squashed, **SIZES)
    assert not found.sound
    assert found.autograd_error > 0.1


def test_a_jump_is_found_by_finite_differences():
    @cell
    def jumps(W, x, h):
        return tanh(W.a(h, x)) + cw.step(1e7 * W.b(h, x)) * cw.sin(1e6 * cw.sum(x))

    found = check_cell(jumps, **SIZES)
    assert not found.sound
    assert any("finite differences differ" in p for p in found.problems)


def test_a_nan_is_found():
    @cell
    def broken(W, x, h):
        return tanh(cw.log(W.a(h, x)))

    found = check_cell(broken, **SIZES)
    assert not found.sound
    assert any("NaN" in p for p in found.problems)


def test_a_parameter_without_a_gradient_is_found():
    @cell
    def idle(W, x, h):
        unused = sigmoid(W.u(h, x))  # noqa: F841
        return tanh(W.h(h, x))

    found = check_cell(idle, **SIZES)
    assert found.silent == ["u.weight", "u.bias"]
    assert any("'u.weight' gets no gradient" in p for p in found.problems)


def test_a_cell_without_recurrence_has_no_gradient_to_earlier_states():
    @cell
    def forgets(W, x, h):
        return tanh(W.a(x))

    found = check_cell(forgets, **SIZES)
    assert found.gradient_norms[1:] == [0.0] * SIZES["steps"]
    assert any("no gradient reaches" in r for r in found.remarks)


def test_a_growing_state_is_remarked_and_is_no_problem():
    @cell
    def counts(W, x, h, n):
        return tanh(W.h(h, x) + 0.001 * n), n + 1

    found = check_cell(counts, **SIZES | {"steps": 40})
    assert found.sound
    assert any("state 'n' keeps growing" in r for r in found.remarks)


def test_named_inputs_and_outputs_that_are_no_states_are_checked():
    @cell
    def timed(W, x, h, *, dt):
        h = h + dt * tanh(W.a(h, x)) - 0.5 * h
        return W.y(h, size=2), h

    found = check_cell(timed, **SIZES)
    assert found.sound, found.problems


def one_number(W, x, h):
    return sigmoid(W.scalar("a")) * h + tanh(W.b(h, x))


def sum_of_a_number(W, x, h):
    return cw.sum(W.scalar("a")) * h + tanh(W.b(h, x))


def sum_of_a_vector(W, x, h):
    return cw.sum(W.vector("a")) * h + tanh(W.b(h, x))


def functions_of_a_vector(W, x, h):
    gain = cw.softmax(W.vector("a")) + cw.layer_norm(W.vector("b"), heads=2)
    return gain * h * 0.1 + tanh(W.c(h, x))


def vector_as_an_operand(W, x, h):
    return tanh(W.b(W.vector("a"), h, x))


def vector_named_as_the_state(W, x, h):
    return tanh(W.a(x) + W.h * h)


def vector_named_as_the_input(W, x, h):
    return tanh(W.a(h, W.x * x))


def state_named_output(W, x, output):
    output = tanh(W.a(output, x))
    return W.y(output, size=2), output


def one_row_for_all(W, x, h, c):
    return tanh(W.a(h, x) + c), tanh(W.p * 2)


@pytest.mark.parametrize(
    "function",
    [
        one_number,
        sum_of_a_number,
        sum_of_a_vector,
        functions_of_a_vector,
        vector_as_an_operand,
        vector_named_as_the_state,
        vector_named_as_the_input,
        state_named_output,
        one_row_for_all,
    ],
    ids=lambda f: f.__name__,
)
def test_sound_cells_of_unusual_make_are_sound(function):
    found = check_cell(cell(function), **SIZES)
    assert found.sound, found.problems


def test_hyperparameters_and_sizes_are_passed_on():
    slow = check_cell(cw.cells.leaky_rnn, alpha=0.01, **SIZES)
    fast = check_cell(cw.cells.leaky_rnn, alpha=0.9, **SIZES)
    assert slow.growth > fast.growth
    projected = check_cell(cw.cells.lstm_projected, proj_size=2, **SIZES)
    assert projected.graph.parameters()["p.weight"] == (2, 4)


def test_sizes_that_do_not_fit_raise():
    @cell
    def added(W, x, h):
        return tanh(W.a(h)) + x

    with pytest.raises(cw.SizeError):
        check_cell(added, **SIZES)


def test_a_check_repeats_itself_and_leaves_torchs_generator_alone():
    before = torch.get_rng_state()
    a = check_cell(cw.cells.gru, seed=3, **SIZES)
    b = check_cell(cw.cells.gru, seed=3, **SIZES)
    c = check_cell(cw.cells.gru, seed=4, **SIZES)
    assert a.gradient_norms == b.gradient_norms != c.gradient_norms
    assert torch.equal(before, torch.get_rng_state())


# -- the engine that runs it ---------------------------------------------------------


@pytest.mark.parametrize("name", ["lstm", "gru", "child_sum_lstm", "recursive"])
def test_the_default_engine_is_run_and_held_to_the_reference(name):
    pytest.importorskip("cellwright._core")
    found = check_cell(cw.cells.get(name), **SIZES)
    assert found.engine == found.to_dict()["engine"] == "native"
    assert found.engine_error < 1e-12
    assert "native − reference" in str(found)


def test_a_cell_that_the_default_engine_cannot_run_is_unsound(monkeypatch):
    pytest.importorskip("cellwright._core")
    from cellwright.engine.native.sequences import SequenceScan

    def fails(*_, **__):
        raise ValueError("[stage 0] a piece reaches past parameter 2")

    monkeypatch.setattr(SequenceScan, "forward", fails)
    found = check_cell(cw.cells.lstm, **SIZES)
    assert not found.sound
    (problem,) = found.problems
    assert problem.startswith("the native engine fails: ValueError: [stage 0] a piece")
    assert found.to_dict()["engine_error"] is None


def test_a_default_engine_with_another_value_is_found_out(monkeypatch):
    pytest.importorskip("cellwright._core")
    from cellwright.engine.native.sequences import SequenceScan

    right = SequenceScan.backward

    def wrong(self, *arguments):
        *others, last = right(self, *arguments)
        return [*others, last * 1.001]  # of the last weight

    monkeypatch.setattr(SequenceScan, "backward", wrong)
    found = check_cell(cw.cells.lstm, **SIZES)
    assert any("native engine differs from the reference" in p for p in found.problems)


def test_without_the_core_it_says_that_the_reference_runs_it(monkeypatch):
    from cellwright.engine.native import Native

    monkeypatch.setattr(Native, "obstacle", lambda *_: "no core")
    found = check_cell(cw.cells.mgu, **SIZES)
    assert found.sound
    assert found.engine == "reference"
    assert any("runs on the reference" in r for r in found.remarks)


def test_a_weight_vector_alone_in_a_product_is_checked():
    @cell
    def constant(W, x, h):
        return tanh(W.g(W.vector("v", size=3))) + 0.5 * h

    assert check_cell(constant, **SIZES).sound
