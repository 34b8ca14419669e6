"""cw.LSTM, cw.GRU, cw.RNN against torch.nn's, on both engines."""

import copy
import itertools
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import cellwright as cw
import oracles
from cellwright.engine.native import info
from oracles import assert_close, assert_same_values_and_gradients, normal, randomise

T, B, X, H, P = 4, 3, 5, 4, 3
NAMES = ("LSTM", "GRU", "RNN")
ENGINES = ("torch", "reference")


def pair(name, *, engine, **options):
    """A drop-in and torch's module, with equal asymmetric parameters."""
    options = {"dtype": torch.float64, **options}
    ours = getattr(cw, name)(X, H, engine=engine, **options)
    torchs = getattr(nn, name)(X, H, **options)
    return randomise(ours), randomise(torchs)


def initial(name, module, batch=B):
    """Random initial states, as torch's module takes them, in a list."""
    count = module.num_layers * (2 if module.bidirectional else 1)
    sizes = [module.proj_size or H] + ([H] if name == "LSTM" else [])
    shape = (count, batch) if batch else (count,)
    return [normal(*shape, s, seed=50 + k) for k, s in enumerate(sizes)]


def as_argument(name, states):
    return tuple(states) if name == "LSTM" else states[0]


def hold_to_torch(name, ours, torchs, x, states):
    leaves = oracles.leaves_of(ours, x, states)
    assert_same_values_and_gradients(
        lambda: ours(x, as_argument(name, states)),
        lambda: torchs(x, as_argument(name, states)),
        leaves,
        oracles.leaves_of(torchs, x, states),
    )


_GRID = [
    dict(zip(("num_layers", "bias", "batch_first", "bidirectional"), v, strict=True))
    for v in itertools.product((1, 2), (True, False), (False, True), (False, True))
]
_CASES = [(name, {}) for name in NAMES]
_CASES += [("LSTM", {"proj_size": P}), ("RNN", {"nonlinearity": "relu"})]


def _identify(value):
    if isinstance(value, dict):
        return ",".join(f"{k}={v}" for k, v in value.items()) or "plain"
    return str(value)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", _GRID, ids=_identify)
@pytest.mark.parametrize(("name", "more"), _CASES, ids=_identify)
def test_values_and_every_gradient_are_torchs(name, more, options, engine):
    ours, torchs = pair(name, engine=engine, **options, **more)
    assert ours.engine == engine
    shape = (B, T, X) if options["batch_first"] else (T, B, X)
    hold_to_torch(name, ours, torchs, normal(*shape, seed=1), initial(name, ours))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("name", "more"), _CASES, ids=_identify)
def test_unbatched_input_is_torchs(name, more, engine):
    options = {"num_layers": 2, "bidirectional": True, **more}
    ours, torchs = pair(name, engine=engine, **options)
    x, states = normal(T, X, seed=1), initial(name, ours, batch=0)
    hold_to_torch(name, ours, torchs, x, states)
    y, _ = ours(x)
    assert y.dim() == 2


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", NAMES)
def test_without_states_they_start_from_zero_as_torchs(name, engine):
    ours, torchs = pair(name, engine=engine, num_layers=2, bidirectional=True)
    x = normal(T, B, X, seed=1)
    for found, expected in zip(
        oracles.flat(ours(x)), oracles.flat(torchs(x)), strict=True
    ):
        assert_close(found, expected)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", NAMES)
def test_the_last_state_depends_on_the_initial_one(name, engine):
    ours, _ = pair(name, engine=engine)
    states = initial(name, ours)
    _, finals = ours(normal(T, B, X, seed=1), as_argument(name, states))
    last = oracles.flat(finals)[0]
    cotangent = oracles.random_cotangents([last])[0]
    found = torch.autograd.grad(last, states, cotangent)
    assert all(float(g.norm() / cotangent.norm()) > 1e-3 for g in found)


# -- parameters ----------------------------------------------------------------


@pytest.mark.parametrize(("name", "more"), _CASES, ids=_identify)
@pytest.mark.parametrize("bias", [True, False])
def test_one_seed_draws_the_same_parameters_in_the_same_order(name, more, bias):
    made = []
    for library in (cw, nn):
        torch.manual_seed(4)
        module = getattr(library, name)(X, H, 2, bias=bias, bidirectional=True, **more)
        made.append((list(module.named_parameters()), torch.get_rng_state()))
    (ours, state), (torchs, torchs_state) = made
    assert [n for n, _ in ours] == [n for n, _ in torchs]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(ours, torchs, strict=True))
    assert torch.equal(state, torchs_state)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("name", "more"), _CASES, ids=_identify)
def test_state_dicts_load_both_ways(name, more, engine):
    options = {"num_layers": 2, "bidirectional": True, "dtype": torch.float64, **more}
    ours = getattr(cw, name)(X, H, engine=engine, **options)
    torchs = getattr(nn, name)(X, H, **options)
    x = normal(T, B, X, seed=1)
    ours.load_state_dict(torchs.state_dict())
    assert_close(ours(x)[0], torchs(x)[0])
    randomise(ours)
    torchs.load_state_dict(ours.state_dict())
    assert list(ours.state_dict()) == list(torchs.state_dict())
    assert_close(ours(x)[0], torchs(x)[0])


def test_they_are_torchs_modules():
    for name in NAMES:
        module = getattr(cw, name)(X, H)
        assert isinstance(module, nn.RNNBase)
        assert not isinstance(module, getattr(nn, name))  # torch.compile refuses those
        assert repr(module) == repr(getattr(nn, name)(X, H))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9),
    ],
    ids=["AdamW", "SGD"],
)
@pytest.mark.parametrize("name", NAMES)
def test_ten_optimiser_steps_match_torch_loss_by_loss(name, make, engine):
    ours, torchs = pair(name, engine=engine, num_layers=2, bidirectional=True)
    x, target = normal(T, B, X, seed=1, grad=False), normal(T, B, 2 * H, seed=2)
    losses = {}
    for label, module in (("ours", ours), ("torch", torchs)):
        optimiser = make(module.parameters())
        losses[label] = []
        for _ in range(10):
            optimiser.zero_grad()
            loss = (module(x)[0] - target.detach()).square().mean()
            loss.backward()
            optimiser.step()
            losses[label].append(loss.detach())
    assert_close(torch.stack(losses["ours"]), torch.stack(losses["torch"]))
    assert losses["torch"][-1] < 0.9 * losses["torch"][0]
    for (n, a), (_, b) in zip(
        ours.named_parameters(), torchs.named_parameters(), strict=True
    ):
        assert float((a - b).abs().max().detach()) < 1e-9, n


# -- dropout -------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", NAMES)
def test_dropout_acts_in_training_only(name, engine):
    ours, torchs = pair(name, engine=engine, num_layers=2, dropout=0.5)
    x = normal(T, B, X, seed=1)
    assert not torch.equal(ours(x)[0], ours(x)[0])
    ours.eval(), torchs.eval()
    assert torch.equal(ours(x)[0], ours(x)[0])
    assert_close(ours(x)[0], torchs(x)[0])


def test_dropout_on_torchs_kernel_draws_torchs_masks():
    ours, torchs = pair("LSTM", engine="torch", num_layers=2, dropout=0.5)
    x, found = normal(T, B, X, seed=1), []
    for module in (ours, torchs):
        torch.manual_seed(8)
        found.append(module(x)[0])
    assert torch.equal(*found)


# -- named gates ---------------------------------------------------------------

_ROWS = {
    "LSTM": ({"i": 0, "f": 1, "g": 2, "o": 3}, {"i": 0, "f": 1, "g": 2, "o": 3}),
    "GRU": ({"r": 0, "z": 1, "n": 2}, {"r": 0, "z": 1, "m": 2}),
    "RNN": ({"h": 0}, {"h": 0}),
}
_SUFFIXES = ("l0", "l0_reverse", "l1", "l1_reverse")


@pytest.mark.parametrize("name", NAMES)
def test_named_gates_are_views_of_torchs_rows(name):
    ours, _ = pair(name, engine="torch", num_layers=2, bidirectional=True)
    for_x, for_h = _ROWS[name]
    assert len(ours.cells) == 4
    for k, suffix in enumerate(_SUFFIXES):
        W = ours.cells[k]
        assert set(W.names) == {*for_x, *for_h}
        for kind, rows in (("ih", for_x), ("hh", for_h)):
            for gate, row in rows.items():
                part = slice(row * H, (row + 1) * H)
                weight = getattr(ours, f"weight_{kind}_{suffix}")[part]
                bias = getattr(ours, f"bias_{kind}_{suffix}")[part]
                view = getattr(W, gate)
                assert torch.equal(getattr(view, f"weight_{kind}"), weight)
                assert torch.equal(getattr(view, f"bias_{kind}"), bias)
                assert getattr(view, f"weight_{kind}").data_ptr() == weight.data_ptr()


def test_what_is_written_to_a_view_is_written_to_the_layer():
    ours, torchs = pair("LSTM", engine="torch")
    with torch.no_grad():
        ours.cells[0].f.weight_ih.fill_(0.25)
        ours.cells[0].o.bias_hh.zero_()
        torchs.weight_ih_l0[H : 2 * H] = 0.25
        torchs.bias_hh_l0[3 * H :] = 0
    assert torch.equal(ours.weight_ih_l0, torchs.weight_ih_l0)
    assert torch.equal(ours.bias_hh_l0, torchs.bias_hh_l0)
    x = normal(T, B, X, seed=1)
    assert_close(ours(x)[0], torchs(x)[0])


def test_a_gate_gives_its_matrix_on_h_x_and_the_sum_of_its_biases():
    ours, _ = pair("LSTM", engine="torch")
    gate = ours.cells[0].f
    assert torch.equal(gate.weight, torch.cat([gate.weight_hh, gate.weight_ih], 1))
    assert_close(gate.bias, gate.bias_ih + gate.bias_hh)
    assert ours.cells[0].i.weight.shape == (H, H + X)


def test_a_layer_without_biases_has_gates_without_biases():
    ours, _ = pair("GRU", engine="torch", bias=False)
    gate = ours.cells[0].z
    assert gate.bias is gate.bias_ih is gate.bias_hh is None


def test_the_projection_is_a_gate_of_its_own():
    ours, _ = pair("LSTM", engine="torch", proj_size=P)
    assert torch.equal(ours.cells[0].p.weight, ours.weight_hr_l0)
    assert ours.cells[0].p.bias is None


def test_an_unknown_gate_is_an_attribute_error_that_lists_the_gates():
    with pytest.raises(AttributeError, match=r"no gate 'k'.*'i', 'f', 'g', 'o'"):
        cw.LSTM(X, H).cells[0].k  # noqa: B018


def test_the_oracles_step_runs_on_named_gates():
    """cells[k] is a W for a hand-written step, too."""
    for name, step in (("LSTM", "lstm"), ("GRU", "gru_reset_after"), ("RNN", "rnn")):
        ours, _ = pair(name, engine="torch", num_layers=2, bidirectional=True)
        x, states = normal(T, B, X, seed=1), initial(name, ours)
        assert_same_values_and_gradients(
            lambda: ours(x, as_argument(name, states)),  # noqa: B023
            lambda: oracles.layers(
                oracles.STEPS[step],  # noqa: B023
                ours.cells,  # noqa: B023
                x,  # noqa: B023
                states,  # noqa: B023
                bidirectional=True,
            ),
            oracles.leaves_of(ours, x, states),
        )


# -- engines -------------------------------------------------------------------


def test_the_engine_that_runs_is_named_with_its_reason():
    auto, torchs = cw.LSTM(X, H), cw.LSTM(X, H, engine="torch")
    reference = cw.LSTM(X, H, engine="reference")
    native = info()["native"]  # a pure Python build has no compiled core
    assert auto.engine == ("native" if native else "torch")
    assert (torchs.engine, reference.engine) == ("torch", "reference")
    assert ("default" if native else "torch's") in auto.engine_reason
    assert "asked for" in torchs.engine_reason
    assert "asked for" in reference.engine_reason


def test_the_reference_engine_really_runs_the_cells_function(monkeypatch):
    calls = []
    from cellwright.engine.reference import Reference

    original = Reference.run
    monkeypatch.setattr(
        Reference, "run", lambda *a, **k: calls.append(1) or original(*a, **k)
    )
    x = torch.randn(T, B, X)
    cw.LSTM(X, H, engine="reference")(x)
    assert calls == [1]
    cw.LSTM(X, H)(x)
    assert calls == [1]


@pytest.mark.parametrize("engine", ["cuda", None])
def test_engines_that_are_not_there_are_refused(engine):
    expected = "expected one of auto, native, torch, triton, reference"
    with pytest.raises(cw.ArgumentError, match=expected):
        cw.GRU(X, H, engine=engine)


def test_the_native_engine_is_refused_with_the_reason_where_it_cannot_run():
    with pytest.raises(cw.ArgumentError, match=r"native engine cannot run.*float16"):
        cw.GRU(X, H, engine="native", dtype=torch.float16)


def test_the_reference_engine_can_be_differentiated_twice():
    for name in NAMES:
        module = randomise(
            getattr(cw, name)(2, 2, engine="reference", dtype=torch.float64)
        )
        x = normal(2, 1, 2, seed=1)
        assert torch.autograd.gradgradcheck(lambda x: module(x)[0], x)  # noqa: B023


def test_packed_sequences_go_through_torchs_kernel():
    ours, torchs = pair("LSTM", engine="torch", bidirectional=True)
    x = normal(T, B, X, seed=1)
    packed = pack_padded_sequence(x, [4, 3, 1])
    found, (h, c) = ours(packed)
    expected, (torchs_h, torchs_c) = torchs(packed)
    assert_close(pad_packed_sequence(found)[0], pad_packed_sequence(expected)[0])
    assert_close(h, torchs_h)
    assert_close(c, torchs_c)


# -- errors: as torch's --------------------------------------------------------


def outcome(run):
    """What happens: ("ok", shapes), or the error's type and message."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = run()
        except Exception as error:
            return type(error), str(error)
    messages = [(w.category, str(w.message)) for w in caught]
    if isinstance(found, nn.Module):
        return "ok", repr(found), messages
    return "ok", [tuple(t.shape) for t in oracles.flat(found)], messages


_CONSTRUCTIONS = {
    "hidden 0": ((X, 0), {}),
    "hidden negative": ((X, -1), {}),
    "hidden text": ((X, "a"), {}),
    "no layers": ((X, H, 0), {}),
    "dropout 2": ((X, H, 2), {"dropout": 2.0}),
    "dropout -1": ((X, H, 2), {"dropout": -1.0}),
    "dropout text": ((X, H, 2), {"dropout": "a"}),
    "dropout bool": ((X, H, 2), {"dropout": True}),
    "dropout in one layer": ((X, H), {"dropout": 0.5}),
    "projection of all": ((X, H), {"proj_size": H}),
    "projection negative": ((X, H), {"proj_size": -1}),
    "nonlinearity": ((X, H), {"nonlinearity": "gelu"}),
    "unknown option": ((X, H), {"colour": 1}),
    "nothing": ((), {}),
    "positional": ((X, H, 2, False, True), {}),
}


@pytest.mark.parametrize("case", _CONSTRUCTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_what_torch_refuses_or_warns_of_when_made_is_the_same(name, case):
    args, options = _CONSTRUCTIONS[case]
    torchs = outcome(lambda: getattr(nn, name)(*args, **options))
    assert outcome(lambda: getattr(cw, name)(*args, **options)) == torchs


def _states(name, *shape):
    """States of a shape, as the module takes them."""
    tensor = torch.zeros(*shape, dtype=torch.float64)
    return (tensor, tensor.clone()) if name == "LSTM" else tensor


_CALLS = {
    "width": lambda m, n, x: m(x(T, B, X + 1)),
    "one dimension": lambda m, n, x: m(x(X)),
    "four dimensions": lambda m, n, x: m(x(1, T, B, X)),
    "another batch in h": lambda m, n, x: m(x(T, B, X), _states(n, 1, B + 1, H)),
    "more layers in h": lambda m, n, x: m(x(T, B, X), _states(n, 2, B, H)),
    "another width of h": lambda m, n, x: m(x(T, B, X), _states(n, 1, B, H + 1)),
    "h without batch": lambda m, n, x: m(x(T, B, X), _states(n, 1, H)),
    "h with batch, x without": lambda m, n, x: m(x(T, X), _states(n, 1, 1, H)),
    "width of h, unbatched": lambda m, n, x: m(x(T, X), _states(n, 1, H + 1)),
    "no steps": lambda m, n, x: m(x(0, B, X)),
    "no rows": lambda m, n, x: m(x(T, 0, X)),
    "dtype": lambda m, n, x: m(x(T, B, X).float()),
    "integers": lambda m, n, x: m(x(T, B, X).long()),
}


@pytest.mark.parametrize("case", _CALLS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("engine", ENGINES)
def test_what_torch_refuses_when_called_is_refused_in_the_same_words(
    engine, name, case
):
    ours, torchs = pair(name, engine=engine)

    def x(*shape):
        return torch.zeros(*shape, dtype=torch.float64)

    found = outcome(lambda: _CALLS[case](ours, name, x))
    assert found == outcome(lambda: _CALLS[case](torchs, name, x))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_wrong_cell_state_is_named_as_torch_names_it(engine):
    ours, torchs = pair("LSTM", engine=engine)
    x = torch.zeros(T, B, X, dtype=torch.float64)
    start = (torch.zeros(1, B, H).double(), torch.zeros(1, B, H + 1).double())
    assert outcome(lambda: ours(x, start)) == outcome(lambda: torchs(x, start))


# -- whole layers --------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", NAMES)
def test_pickle_and_deepcopy_keep_a_drop_in_whole(name, engine):
    ours, _ = pair(name, engine=engine, num_layers=2)
    x = normal(T, B, X, seed=1)
    for again in (pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours)):
        assert again.engine == engine
        assert torch.equal(again(x)[0], ours(x)[0])
        with torch.no_grad():
            next(again.parameters()).zero_()
        assert next(ours.parameters()).any()


def test_flatten_parameters_and_double_keep_working():
    module = cw.GRU(X, H).double()
    module.flatten_parameters()
    assert module(normal(T, B, X, seed=1))[0].dtype == torch.float64


def test_output_size_counts_directions_and_projection():
    assert cw.LSTM(X, H).output_size == H
    assert cw.LSTM(X, H, bidirectional=True, proj_size=P).output_size == 2 * P
