"""Rows padded on the left, `starts=`, on every engine.

The oracle is the plain layer on each row by itself, cut out of x; one test more scans a
GRU in a loop of its own.
"""

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_padded_sequence

import cellwright as cw
from cellwright.engine import native, schedule
from cellwright.engine.native import op
from cellwright.engine.native.sequences import SequenceScan
from oracles import (
    assert_close,
    assert_same_values_and_gradients,
    flat,
    leaves_of,
    normal,
    random_cotangents,
    randomise,
)

T, B, X, H = 6, 5, 3, 4
ENGINES = ["native", "torch", "reference"]
needs_core = pytest.mark.skipif(not native.info()["native"], reason="no compiled core")
LENGTHS, STARTS = [2, 6, 0, 4, 1], [1, 0, 6, 2, 3]


def make(name="lstm", engine="reference", **options):
    if engine == "native" and not native.info()["native"]:
        pytest.skip("no compiled core")
    layer = cw.Recurrent(name, X, H, engine=engine, dtype=torch.float64, **options)
    return randomise(layer, scale=0.5)


def some_resets(steps=T, batch=B, p=0.3, seed=5):
    return torch.rand(steps, batch, generator=torch.Generator().manual_seed(seed)) < p


def states_for(layer, batch=B):
    count = layer.num_layers * layer.directions
    sizes = [H] * 2 if isinstance(layer, cw.LSTM) else [H]
    if isinstance(layer, cw.Recurrent):
        sizes = [int(s.size) for s in layer.graphs[0].states]
    return [normal(count, batch, n, seed=70 + k) for k, n in enumerate(sizes)]


def alone(layer, x, states, lengths, starts, resets=None, **inputs):
    """Every row by itself: no padding, no lengths, no starts."""
    steps, batch = x.shape[:2]
    starts = [0] * batch if starts is None else starts
    lengths = [steps - s for s in starts] if lengths is None else lengths
    ys, finals = [], []
    for b, (s, n) in enumerate(zip(starts, lengths, strict=True)):
        old = [v[:, b : b + 1] for v in states]
        if not n:
            ys.append(x.new_zeros(steps, 1, layer.output_size))
            finals.append(old)
            continue
        row = slice(s, s + n), slice(b, b + 1)
        more = {name: v[row] for name, v in inputs.items()}
        if resets is not None:
            more["resets"] = resets[row]
        y, *new = flat(layer(x[row], old[0] if len(old) == 1 else tuple(old), **more))
        ys.append(torch.nn.functional.pad(y, (0, 0, 0, 0, s, steps - s - n)))
        finals.append(new)
    return [
        torch.cat(ys, 1),
        *(torch.cat(c, 1) for c in zip(*finals, strict=True)),
    ]


@cw.cell
def timed(W, x, h, c=0.5, *, dt):
    c = c + dt * cw.tanh(W.f(h, x))
    return cw.tanh(W.y(c, x)), cw.sigmoid(W.g(c, h)) * h, c


CASES = {
    "lstm": ("lstm", {"num_layers": 2, "bidirectional": True}),
    "gru": ("gru_reset_after", {"bidirectional": True}),
    "rnn": ("rnn", {"num_layers": 2}),
    "projected": ("lstm_projected", {"proj_size": 2, "bidirectional": True}),
    "peephole": ("peephole", {"num_layers": 2, "bidirectional": True}),
    "named input, output no state": (
        timed,
        {"inputs": {"dt": 1}, "bidirectional": True},
    ),
    "recompute": ("gru", {"memory": "recompute", "bidirectional": True}),
    "learned": ("lstm", {"learn_initial_state": True, "bidirectional": True}),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("what", ["starts", "lengths", "resets", "all"])
def test_rows_run_as_if_alone(engine, case, what):
    name, options = CASES[case]
    if engine == "torch" and case in list(CASES)[4:7]:
        pytest.skip("torch has no kernel for it")
    if case == "recompute" and engine != "native":
        pytest.skip("the native engine's")
    layer = make(name, engine, **options)
    oracle = make(name, **{**options, "memory": "save"})
    x, states = normal(T, B, X, seed=1), states_for(layer)
    inputs = {"dt": normal(T, B, 1, seed=2)} if case.startswith("named") else {}
    lengths = LENGTHS if what in ("lengths", "all") else None
    resets = some_resets() if what in ("resets", "all") else None
    state = states[0] if len(states) == 1 else tuple(states)
    given = {"lengths": lengths, "starts": STARTS, "resets": resets, **inputs}
    assert layer.engine == engine
    unread = [n for n, _ in layer.named_parameters() if n.startswith("initial_states")]
    assert_same_values_and_gradients(
        lambda: layer(x, state, **given),
        lambda: alone(oracle, x, states, lengths, STARTS, resets, **inputs),
        {**leaves_of(layer, x, states), **inputs},
        {**leaves_of(oracle, x, states), **inputs},
        silent=unread if resets is None else (),
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", [cw.LSTM, cw.GRU, cw.RNN])
def test_drop_ins_scan_rows_as_if_alone(engine, kind):
    if engine == "native" and not native.info()["native"]:
        pytest.skip("no compiled core")
    options = {"num_layers": 2, "bidirectional": True, "dtype": torch.float64}
    layer = randomise(kind(X, H, engine=engine, **options))
    oracle = randomise(kind(X, H, engine="reference", **options))
    x, states = normal(T, B, X, seed=1), states_for(layer)
    state = states[0] if len(states) == 1 else tuple(states)
    resets = some_resets()
    for given in ({"lengths": LENGTHS}, {}, {"lengths": LENGTHS, "resets": resets}):
        assert_same_values_and_gradients(
            lambda given=given: layer(x, state, starts=STARTS, **given),
            lambda given=given: alone(
                oracle, x, states, given.get("lengths"), STARTS, given.get("resets")
            ),
            leaves_of(layer, x, states),
            leaves_of(oracle, x, states),
        )


@pytest.mark.parametrize("engine", ENGINES)
def test_a_gru_in_a_loop_of_its_own(engine):
    """torch's equations, both directions, a row and a step at a time."""
    layer = make("gru_reset_after", engine, bidirectional=True)
    x, h0 = normal(T, B, X, seed=1), normal(2, B, H, seed=2)

    def loop():
        y, h_n = [[0.0] * (2 * B) for _ in range(T)], []
        for k, W in enumerate(layer.cells):
            for b in range(B):
                h = h0[k, b]
                steps = range(STARTS[b], STARTS[b] + LENGTHS[b])
                for t in reversed(steps) if k else steps:
                    z = torch.sigmoid(gate(W.z, h, x[t, b]))
                    r = torch.sigmoid(gate(W.r, h, x[t, b]))
                    n = torch.tanh(gate(W.n, x[t, b]) + r * gate(W.m, h))
                    h = (1 - z) * n + z * h
                    y[t][2 * b + k] = h
                h_n.append(h)
        y = [
            torch.stack([h0.new_zeros(H) if isinstance(v, float) else v for v in row])
            for row in y
        ]
        return torch.stack(y).view(T, B, 2 * H), torch.stack(h_n).view(2, B, H)

    def gate(affine, *operands):
        return affine.weight @ torch.cat(operands) + affine.bias

    assert_same_values_and_gradients(
        lambda: layer(x, h0, lengths=LENGTHS, starts=STARTS),
        loop,
        leaves_of(layer, x, [h0]),
    )


@hypothesis.settings(max_examples=12)
@hypothesis.given(
    data=st.data(), engine=st.sampled_from(ENGINES), bidirectional=st.booleans()
)
def test_any_rows_and_resets(data, engine, bidirectional):
    steps = data.draw(st.integers(1, 7))
    batch = data.draw(st.integers(1, 4))
    starts = data.draw(st.lists(st.integers(0, steps), min_size=batch, max_size=batch))
    lengths = [data.draw(st.integers(0, steps - s)) for s in starts]
    bits = st.lists(st.booleans(), min_size=steps * batch, max_size=steps * batch)
    resets = torch.tensor(data.draw(bits)).view(steps, batch)
    if engine == "native" and not native.info()["native"]:
        engine = "reference"
    layer = make("gru_reset_after", engine, bidirectional=bidirectional)
    oracle = make("gru_reset_after", bidirectional=bidirectional)
    x, states = normal(steps, batch, X, seed=1), states_for(layer, batch)
    found = flat(layer(x, states[0], lengths=lengths, starts=starts, resets=resets))
    expected = alone(oracle, x, states, lengths, starts, resets)
    # rows without a step have no graph
    found, expected = ([r + 0 * x.sum() for r in rs] for rs in (found, expected))
    cotangents = random_cotangents(found)
    pairs = [(found, layer), (expected, oracle)]
    gradients = [
        torch.autograd.grad(
            r,
            [x, *states, *module.parameters()],
            cotangents,
            allow_unused=True,
            materialize_grads=True,
        )
        for r, module in pairs
    ]
    for value, right in zip(
        [*found, *gradients[0]], [*expected, *gradients[1]], strict=True
    ):
        torch.testing.assert_close(value, right, rtol=1e-10, atol=1e-12)


# -- layouts -------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_starts_say_nothing_where_all_begin_at_once(engine):
    layer = make(engine=engine, bidirectional=True)
    x = normal(T, B, X, seed=1, grad=False)
    for given in ({}, {"lengths": LENGTHS}):
        found = flat(layer(x, starts=[0] * B, **given))
        expected = flat(layer(x, **given))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("engine", ENGINES)
def test_batches_first(engine):
    first = make(engine=engine, bidirectional=True, batch_first=True)
    second = make(engine=engine, bidirectional=True)
    x, resets = normal(B, T, X, seed=1, grad=False), some_resets()
    given = {"lengths": LENGTHS, "starts": STARTS}
    y, state = first(x, resets=resets.T, **given)
    expected, expected_state = second(x.transpose(0, 1), resets=resets, **given)
    assert torch.equal(y, expected.transpose(0, 1))
    assert all(torch.equal(a, b) for a, b in zip(state, expected_state, strict=True))


@pytest.mark.parametrize("engine", ENGINES)
def test_what_lies_outside_is_never_read(engine):
    """Not even in the gradient, where 0 · NaN would be NaN."""
    layer = make(engine=engine, num_layers=2, bidirectional=True)
    x, t = normal(T, B, X, seed=1, grad=False), torch.arange(T)[:, None]
    starts = torch.tensor(STARTS)
    outside = (t < starts) | (t >= starts + torch.tensor(LENGTHS))
    spoilt = x.masked_fill(outside[..., None], torch.nan).requires_grad_()
    clean = x.requires_grad_()
    found = []
    for leaf in (spoilt, clean):
        y, state = layer(leaf, lengths=LENGTHS, starts=STARTS)
        assert not y[outside].any()
        loss = y.square().sum() + sum(s.square().sum() for s in state)
        found.append(torch.autograd.grad(loss, [leaf, *layer.parameters()]))
    assert not found[0][0][outside].any()
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@needs_core
@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_has_the_bits_that_it_has_alone(threads):
    layer = cw.Recurrent("lstm", 24, 64)
    steps, batch = 20, 40
    x, starts = torch.randn(steps, batch, 24), torch.randint(0, steps, (batch,))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        with torch.no_grad():
            y, (h, _) = layer(x, starts=starts)
            for b in (0, 7, 39):
                s = int(starts[b])
                expected, (last, _) = layer(x[s:, b])
                assert torch.equal(y[s:, b], expected)
                assert torch.equal(h[:, b], last)
                assert not y[:s, b].any()
    finally:
        torch.set_num_threads(before)


@needs_core
def test_native_scans_the_rows_where_they_lie(monkeypatch):
    """The fast path ran: the core got batch rows and places, and the levels needed."""
    seen = []
    made = schedule.Schedule.core.func

    def core(self):
        seen.append(self)
        return made(self)

    monkeypatch.setattr(schedule.Schedule.core, "func", core)
    layer = make("gru_reset_after", "native", num_layers=2)
    layer(normal(T, B, X, seed=1), lengths=[2, 3, 0, 3, 1], starts=STARTS)
    layer(normal(T, B, X, seed=1), lengths=LENGTHS, starts=[0] * B)
    found, plain = seen  # one schedule serves both layers
    assert found.counts == (4, 3, 2)
    assert found.batch_rows.tolist() == [1, 3, 0, 4]
    assert found.places.tolist() == [1, 2 * B + 3, B, 3 * B + 4]
    assert found.empty.tolist() == [2]
    assert plain.places is None


@needs_core
@pytest.mark.parametrize("places", [[0], [0, 2], [-2, 1], [0, 5], [2, 1], [0, 3]])
def test_the_core_refuses_places_that_are_none(places):
    layer = make("rnn", "native")
    cell = layer.direction(0).bound.programs

    def scan():
        from cellwright import _core as core

        order = core.Schedule(
            offsets=[0, 2],
            counts=[2, 2],
            initial_rows=2,
            batch_rows=[0, 1],
            width=2,
            rows=4,
            places=places,
        )
        known = schedule.Schedule(4, 2, (0, 2), (2, 2), slice(0, 2), slice(0, 2))
        object.__setattr__(known, "core", order)
        parameters = layer.cells[0].in_order(cell.binding.parameters)
        x, h = torch.zeros(2, 2, X).double(), torch.zeros(2, H).double()
        SequenceScan(cell, known).forward([x, h, *parameters], False)

    with pytest.raises(ValueError, match=r"\[schedule\]"):
        scan()


# -- what goes with it ---------------------------------------------------------


@pytest.mark.parametrize("engine", ["native", "reference"])
def test_a_record_is_zero_outside_and_has_its_gradients(engine):
    layer = make(engine=engine, bidirectional=True)
    oracle = make(bidirectional=True)
    x, names = normal(T, B, X, seed=1), ["0.c", "0.f", "1.c"]
    with cw.record(layer, names, gradients=True) as values:
        y, _ = layer(x, lengths=LENGTHS, starts=STARTS)
    cotangent = random_cotangents([y])[0]
    y.backward(cotangent)
    for b, (s, n) in enumerate(zip(STARTS, LENGTHS, strict=True)):
        row = slice(s, s + n)
        outside = torch.ones(T, dtype=torch.bool)
        outside[row] = False
        for name in names:
            assert not values[name][outside, b].any()
            assert not values[name].grad[outside, b].any()
        if not n:
            continue
        with cw.record(oracle, names, gradients=True) as expected:
            oracle(x[row, b : b + 1])[0].backward(cotangent[row, b : b + 1])
        for name in names:
            assert_close(values[name][row, b], expected[name][:, 0])
            assert_close(values[name].grad[row, b], expected[name].grad[:, 0])


@pytest.mark.parametrize("engine", ["native", "reference"])
def test_masks_of_a_sequence_are_its_rows_own(engine):
    """The same rows without their padding on the left, and the same masks."""
    options = {"recurrent_dropout": 0.4, "update_dropout": 0.3, "locked": True}
    layer = make(engine=engine, bidirectional=True, **options)
    x = normal(T, B, X, seed=1)
    shifted = torch.stack([x[:, b].roll(-s, 0) for b, s in enumerate(STARTS)], 1)

    def run(x, **starts):
        torch.manual_seed(3)
        y, state = layer(x, lengths=LENGTHS, **starts)
        if starts:
            rolled = [y[:, b].roll(-s, 0) for b, s in enumerate(STARTS)]
            y = torch.stack(rolled, 1)
        return y, state

    assert_same_values_and_gradients(
        lambda: run(x, starts=STARTS), lambda: run(shifted), leaves_of(layer, x, [])
    )


@needs_core
@pytest.mark.parametrize("options", [{"zoneout": 0.3}, {"update_dropout": 0.3}])
def test_masks_of_steps_are_the_reference_s(options):
    options |= {"dropout": 0.2, "num_layers": 2, "bidirectional": True}
    layers = [make(engine=e, **options) for e in ("native", "reference")]
    x = normal(T, B, X, seed=1)

    def run(layer):
        torch.manual_seed(3)
        return layer(x, lengths=LENGTHS, starts=STARTS, resets=some_resets())

    assert_same_values_and_gradients(
        lambda: run(layers[0]),
        lambda: run(layers[1]),
        leaves_of(layers[0], x, []),
        leaves_of(layers[1], x, []),
    )


def test_penalties_count_real_steps():
    y = normal(T, B, H, seed=1)
    rows = [
        y[s : s + n, b] for b, (s, n) in enumerate(zip(STARTS, LENGTHS, strict=True))
    ]
    given = {"lengths": LENGTHS, "starts": STARTS}
    squares = torch.cat([r.square() for r in rows])
    changes = torch.cat([(r[1:] - r[:-1]).square() for r in rows])
    assert_close(cw.activation_regularisation(y, 3, **given), 3 * squares.mean())
    assert_close(
        cw.temporal_activation_regularisation(y, 3, **given), 3 * changes.mean()
    )
    left = torch.cat([y[s:, b].square() for b, s in enumerate(STARTS)])
    found = cw.activation_regularisation(
        y.mT.mT.transpose(0, 1), 1, starts=STARTS, batch_first=True
    )
    assert_close(found, left.mean())


# -- torch's machinery ---------------------------------------------------------


@needs_core
@pytest.mark.filterwarnings("ignore")  # torch's own, while it traces
def test_compile_and_export_take_starts_whole():
    layer = make(
        "gru_reset_after", "native", bidirectional=True, learn_initial_state=True
    )
    x, resets = normal(T, B, X, seed=1), some_resets()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    tensors = [x, *layer.parameters()]
    for starts in (STARTS, [3, 0, 0, 1, 4]):
        given = {"lengths": torch.tensor(LENGTHS), "starts": torch.tensor(starts)}
        given["resets"] = resets
        found, expected = (
            torch.autograd.grad(module(x, **given)[0].square().sum(), tensors)
            for module in (compiled, layer)
        )
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    given["starts"] = torch.tensor([0, 0, 3, 2, 5])
    exported = torch.export.export(layer, (x.detach(),), given).module()
    given["starts"] = torch.tensor(STARTS)
    assert torch.equal(exported(x.detach(), **given)[0], layer(x, **given)[0])
    with pytest.raises(cw.ArgumentError, match=r"received 5 for row 0, of length 2"):
        compiled(x, **{**given, "starts": torch.tensor([5, 0, 0, 0, 0])})


@needs_core
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("training", [True, False])
def test_opcheck_with_starts(training):
    layer = make("lstm", "native")
    cell = layer.direction(0).bound.programs
    parameters = layer.cells[0].in_order(cell.binding.parameters)
    parameters = [p.detach().clone().requires_grad_(training) for p in parameters]
    inputs = [normal(T, 2, X, seed=1, grad=training)]
    states = [normal(2, H, seed=n, grad=training) for n in (2, 3)]
    # What training saves is not defined where no row is, which opcheck would notice.
    lengths, starts = torch.tensor([T, T]), torch.tensor([0, 0])
    if not training:
        lengths, starts = torch.tensor([2, 3]), torch.tensor([4, 1])
    arguments = (
        inputs,
        states,
        [],
        parameters,
        cell.key,
        [],
        lengths,
        None,
        False,
        False,
        training,
        starts,
    )
    torch.library.opcheck(op._walk_op, arguments)


@pytest.mark.parametrize("engine", ["native", "reference"])
def test_second_derivatives_and_vmap(engine):
    layer = make("gru_reset_after", engine, bidirectional=True)
    x = normal(3, 2, X, seed=1)

    def run(x):
        return layer(x, lengths=[2, 1], starts=[1, 1])[0]

    assert torch.autograd.gradgradcheck(run, (x,), fast_mode=True)
    xs = torch.stack([x, 2 * x]).detach()
    mapped = torch.func.vmap(run)(xs)
    for found, each in zip(mapped, xs, strict=True):
        assert_close(found, run(each))


# -- what does not fit ---------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["recurrent", "drop-in"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"starts": [7, 0, 0, 0, 0]}, r"\[starts\].*received 7 for row 0.*0 … 6"),
        ({"starts": [0, 0, -1, 0, 0]}, r"received -1 for row 2"),
        (
            {"starts": [1] * B, "lengths": [1, 5, 6, 1, 1]},
            r"received 1 for row 2, of length 6 in 6 steps, expected 0 … 0",
        ),
        (
            {"starts": [1, 2]},
            r"\[starts\].*received \(2,\) of torch.int64, expected \(5",
        ),
        ({"starts": [0.5] * B}, r"\[starts\].*expected a tensor or a list of integers"),
        ({"starts": torch.ones(B, dtype=torch.bool)}, r"of torch.bool, expected"),
        ({"starts": torch.ones(B, device="meta").long()}, "on another device than x"),
    ],
)
def test_starts_that_do_not_fit_are_refused(kind, engine, arguments, message):
    if engine == "native" and not native.info()["native"]:
        pytest.skip("no compiled core")
    layer = cw.GRU(X, H, engine=engine)
    if kind == "recurrent":
        layer = cw.Recurrent("gru_reset_after", X, H, engine=engine)
    with pytest.raises(cw.ArgumentError, match=message):
        layer(torch.zeros(T, B, X), **arguments)


def test_starts_go_with_a_padded_batch():
    layer = cw.GRU(X, H)
    packed = pack_padded_sequence(torch.zeros(T, 2, X), [3, 2])
    with pytest.raises(cw.ArgumentError, match=r"PackedSequence.*received starts="):
        layer(packed, starts=[0, 1])
    with pytest.raises(cw.ArgumentError, match=r"\[starts\] a single sequence"):
        layer(torch.zeros(T, X), starts=[1])


def test_an_input_called_starts_is_refused():
    with pytest.raises(cw.ArgumentError, match="'starts': the layer has an argument"):
        cw.Recurrent(
            cw.cell(lambda W, x, h, *, starts: W.f(h, x, starts)),
            X,
            H,
            inputs={"starts": 1},
        )
