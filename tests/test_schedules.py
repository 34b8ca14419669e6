"""Lengths, packed sequences, resets and learned initial states, on every engine.

The oracle scans each piece of each row by itself, a step at a time, with the steps of
`oracles.py`: it knows no batch, no padding and no reset.
"""

import copy
import gc
import itertools
import weakref

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import cellwright as cw
import oracles
from cellwright.engine import native, schedule
from cellwright.engine.call import Call
from cellwright.engine.choice import ENGINES as BY_NAME
from cellwright.engine.native import op
from cellwright.engine.native.sequences import SequenceScan
from cellwright.engine.schedule import SequenceBatch
from oracles import (
    assert_close,
    assert_same_values_and_gradients,
    flat,
    leaves_of,
    normal,
    randomise,
)

T, B, X, H = 6, 5, 3, 4
ENGINES = ["native", "torch", "reference"]
needs_core = pytest.mark.skipif(not native.info()["native"], reason="no compiled core")
LENGTHS = [2, 6, 0, 4, 1]


def make(name="lstm", engine="reference", **options):
    if engine == "native" and not native.info()["native"]:
        pytest.skip("no compiled core")
    layer = cw.Recurrent(name, X, H, engine=engine, dtype=torch.float64, **options)
    layer = randomise(layer, scale=0.5)
    assert layer.engine == engine
    return layer


def some_resets(steps=T, batch=B, p=0.3, seed=5):
    return torch.rand(steps, batch, generator=torch.Generator().manual_seed(seed)) < p


def states_for(layer, batch=B):
    count = layer.num_layers * layer.directions
    sizes = [int(s.size) for s in layer.graphs[0].states]
    return [normal(count, batch, n, seed=70 + k) for k, n in enumerate(sizes)]


# -- the oracle ----------------------------------------------------------------


def scan_row(layer, k, x, olds, own, resets, reverse):
    """One row of one direction: (steps, input) -> (steps, output), the last states."""
    step, W = getattr(oracles, layer.cell.name), layer.cells[k]
    cuts = [0, *(t for t in range(1, len(x)) if resets[t]), len(x)]
    segments = list(itertools.pairwise(cuts))
    outputs = {}
    for begin, end in reversed(segments) if reverse else segments:
        given = end == len(x) if reverse else begin == 0 and not resets[0]
        states = olds if given else own
        for t in reversed(range(begin, end)) if reverse else range(begin, end):
            outputs[t], states = step(W, x[t : t + 1], *states)
    return torch.cat([outputs[t] for t in range(len(x))]), states


def by_hand(layer, x, states, lengths=None, resets=None, own=None):
    """Every row by itself; `own` are its initial values, for each direction."""
    steps, batch = x.shape[:2]
    lengths = [steps] * batch if lengths is None else [int(n) for n in lengths]
    if resets is None:
        resets = torch.zeros(steps, batch, dtype=torch.bool)
    if own is None:
        own = [[s.new_zeros(s.shape[-1]) for s in states]] * len(layer.cells)
    finals = []
    for level in range(layer.num_layers):
        outputs = []
        for k in range(level * layer.directions, (level + 1) * layer.directions):
            rows, lasts = [], []
            for b, length in enumerate(lengths):
                olds = [s[k, b : b + 1] for s in states]
                y, last = x.new_zeros(0, int(layer.graphs[k].output_size)), olds
                if length:
                    y, last = scan_row(
                        layer,
                        k,
                        x[:length, b],
                        olds,
                        [f[None] for f in own[k]],
                        resets[:, b],
                        bool(k % layer.directions),
                    )
                rows.append(torch.cat([y, y.new_zeros(steps - length, y.shape[1])]))
                lasts.append(last)
            outputs.append(torch.stack(rows, 1))
            finals.append([torch.cat(c) for c in zip(*lasts, strict=True)])
        x = torch.cat(outputs, -1)
    return x, *(torch.stack(c) for c in zip(*finals, strict=True))


# -- lengths -------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lstm", {}),
        ("lstm", {"num_layers": 2, "bidirectional": True}),
        ("gru_reset_after", {"bidirectional": True}),
        ("rnn", {"num_layers": 2}),
        ("lstm_projected", {"proj_size": 2, "bidirectional": True}),
        ("peephole", {"num_layers": 2, "bidirectional": True}),
    ],
)
@pytest.mark.parametrize("what", ["lengths", "resets", "both"])
def test_rows_run_as_if_alone_and_cut(engine, name, options, what):
    if engine == "torch" and name == "peephole":
        pytest.skip("torch has no kernel for it")
    layer = make(name, engine, **options)
    x, states = normal(T, B, X, seed=1), states_for(layer)
    lengths = None if what == "resets" else LENGTHS
    resets = None if what == "lengths" else some_resets()
    state = states[0] if len(states) == 1 else tuple(states)
    assert_same_values_and_gradients(
        lambda: layer(x, state, lengths=lengths, resets=resets),
        lambda: by_hand(layer, x, states, lengths, resets),
        leaves_of(layer, x, states),
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", [list, tuple, torch.tensor])
def test_lengths_come_in_any_order_and_layout(engine, kind):
    first = make(engine=engine, bidirectional=True, batch_first=True)
    second = make(engine=engine, bidirectional=True)
    second.load_state_dict(first.state_dict())
    x, resets = normal(B, T, X, seed=1, grad=False), some_resets()
    y, state = first(x, lengths=kind(LENGTHS), resets=resets.T)
    expected, expected_state = second(
        x.mT.mT.transpose(0, 1),
        lengths=torch.tensor(LENGTHS, dtype=torch.int32),
        resets=resets,
    )
    assert torch.equal(y, expected.transpose(0, 1))
    assert all(torch.equal(a, b) for a, b in zip(state, expected_state, strict=True))


@pytest.mark.parametrize("engine", ENGINES)
def test_what_lies_past_the_end_is_never_read(engine):
    """Not even in the gradient, where 0 · NaN would be NaN."""
    layer = make(engine=engine, num_layers=2, bidirectional=True)
    x = normal(T, B, X, seed=1, grad=False)
    past = torch.arange(T)[:, None] >= torch.tensor(LENGTHS)
    spoilt = x.masked_fill(past[..., None], torch.nan).requires_grad_()
    clean = x.requires_grad_()
    found = []
    for leaf in (spoilt, clean):
        y, state = layer(leaf, lengths=LENGTHS)
        assert not y[past].any()
        loss = y.square().sum() + sum(s.square().sum() for s in state)
        found.append(torch.autograd.grad(loss, [leaf, *layer.parameters()]))
    assert not found[0][0][past].any()
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("bidirectional", [True, False])
def test_rows_of_no_steps_keep_their_state(engine, bidirectional):
    layer = make(engine=engine, bidirectional=bidirectional)
    x, states = normal(T, B, X, seed=1), states_for(layer)
    y, finals = layer(x, tuple(states), lengths=[0] * B, resets=some_resets())
    assert not y.any()
    assert all(torch.equal(a, b) for a, b in zip(finals, states, strict=True))
    found = torch.autograd.grad([f.sum() for f in finals], states)
    assert all(torch.equal(g, torch.ones_like(g)) for g in found)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_empty_batch_of_lengths_and_resets(engine):
    layer = make(engine=engine, bidirectional=True)
    x = torch.randn(T, 0, X, dtype=torch.float64, requires_grad=True)
    y, (h, _) = layer(x, lengths=[], resets=torch.zeros(T, 0, dtype=torch.bool))
    assert y.shape == (T, 0, 2 * H)
    assert h.shape == (2, 0, H)


@pytest.mark.parametrize("engine", ENGINES)
def test_named_inputs_have_lengths_and_resets_too(engine):
    if engine == "torch":
        pytest.skip("torch's cells have no further inputs")

    @cw.cell
    def timed(W, x, h, *, dt):
        return h + dt * cw.tanh(W.f(h, x))

    layer = make(timed, engine, inputs={"dt": 1}, bidirectional=True)
    x, dt = normal(T, B, X, seed=1), normal(T, B, 1, seed=2)
    states, resets = states_for(layer), some_resets()

    def segments():
        """The layer itself, a piece at a time: it has no lengths and no resets then."""
        rows, lasts = [], []
        for b, length in enumerate(LENGTHS):
            halves, ends = [], []
            for k in (0, 1):
                zero = torch.zeros(1, H, dtype=torch.float64)
                cuts = [t for t in range(1, length) if resets[t, b]]
                spans = list(itertools.pairwise([0, *cuts, length])) if length else []
                outs, state = {}, states[0][k, b : b + 1]
                for begin, end in reversed(spans) if k else spans:
                    anew = end < length if k else begin > 0 or resets[0, b]
                    initial = [(zero if anew else state)[None]]
                    call = Call(
                        x[begin:end, b : b + 1],
                        {"dt": dt[begin:end, b : b + 1]},
                        initial,
                        (),
                        SequenceBatch(end - begin, 1),
                        bool(k),
                    )
                    found = BY_NAME["reference"].run(layer.direction(k), call)
                    outs[begin], ((state,),) = found
                pad = x.new_zeros(T - length, 1, H)
                halves.append(torch.cat([*(outs[s[0]] for s in spans), pad]))
                ends.append(state)
            rows.append(torch.cat(halves, -1))
            lasts.append(torch.stack(ends))
        return torch.cat(rows, 1), torch.cat(lasts, 1)

    assert_same_values_and_gradients(
        lambda: layer(x, states[0], lengths=LENGTHS, resets=resets, dt=dt),
        segments,
        {**leaves_of(layer, x, states), "dt": dt},
    )


# -- packed sequences ----------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("enforce_sorted", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("cell", ["lstm", "gru_reset_after", "lstm_projected"])
def test_packed_in_packed_out_as_torch(engine, enforce_sorted, batch_first, cell):
    options = {"num_layers": 2, "bidirectional": True}
    extra = {"proj_size": 2} if cell == "lstm_projected" else {}
    kind = nn.GRU if cell.startswith("gru") else nn.LSTM
    oracle = kind(
        X, H, batch_first=batch_first, dtype=torch.float64, **options, **extra
    )
    layer = cw.from_torch(randomise(oracle), engine=engine)
    lengths = [6, 5, 5, 2, 1] if enforce_sorted else [2, 6, 1, 4, 5]
    x = normal(*((B, T) if batch_first else (T, B)), X, seed=1)
    states = states_for(layer)
    state = states[0] if len(states) == 1 else tuple(states)

    def run(module):
        packed = pack_padded_sequence(
            x, torch.tensor(lengths), batch_first, enforce_sorted=enforce_sorted
        )
        y, finals = module(packed, state)
        assert torch.equal(y.batch_sizes, packed.batch_sizes)
        padded, found = pad_packed_sequence(y, batch_first)
        assert found.tolist() == lengths
        return y.data, padded, finals

    leaves = leaves_of(layer, x, states)
    inputs = {n: v for n, v in leaves.items() if n == "x" or n.startswith("state")}
    assert_same_values_and_gradients(lambda: run(layer), lambda: run(oracle), inputs)


def test_packed_without_a_state_and_named_inputs():
    @cw.cell
    def timed(W, x, h, *, dt):
        return h + dt * cw.tanh(W.f(h, x))

    lengths = [2, 6, 1, 4, 5]
    x, dt = normal(T, B, X, seed=1, grad=False), normal(T, B, 1, seed=2, grad=False)
    pack = lambda v: pack_padded_sequence(v, lengths, enforce_sorted=False)  # noqa: E731
    for engine in ("native", "reference"):
        layer = make(timed, engine, inputs={"dt": 1}, bidirectional=True)
        y, h = layer(pack(x), dt=pack(dt))
        expected, expected_h = layer(x, dt=dt, lengths=lengths)
        assert torch.equal(pad_packed_sequence(y)[0], expected)
        assert torch.equal(h, expected_h)
        with pytest.raises(cw.ArgumentError, match=r"so is every named input.*dt="):
            layer(pack(x), dt=pack_padded_sequence(dt, [6, 5, 4, 2, 1]))
        with pytest.raises(cw.ArgumentError, match=r"so is every named input.*dt="):
            layer(pack(x), dt=pack(dt).data)


@pytest.mark.parametrize("engine", ["native", "reference"])
def test_regularisers_mask_packed_rows_as_padded_ones(engine):
    layer = make(
        "lstm",
        engine,
        num_layers=2,
        bidirectional=True,
        input_dropout=0.2,
        dropout=0.3,
        recurrent_dropout=0.3,
        update_dropout=0.2,
        zoneout=0.2,
        locked=["dropout", "input_dropout"],
    )
    x, lengths, found = normal(T, B, X, seed=1, grad=False), [6, 5, 5, 2, 1], []
    for packed in (True, False):
        torch.manual_seed(3)
        if packed:
            y = pad_packed_sequence(layer(pack_padded_sequence(x, lengths))[0])[0]
        else:
            y = layer(x, lengths=lengths)[0]
        found.append(y)
    assert_close(*found)


# -- the drop-ins --------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_drop_ins_take_lengths_and_resets(engine, name):
    options = {"num_layers": 2, "bidirectional": True, "dtype": torch.float64}
    layer = randomise(getattr(cw, name)(X, H, engine=engine, **options))
    oracle = cw.from_torch(layer)
    x, states = normal(T, B, X, seed=1), states_for(oracle)
    state = states[0] if len(states) == 1 else tuple(states)
    resets = some_resets()
    assert_same_values_and_gradients(
        lambda: layer(x, state, lengths=LENGTHS, resets=resets),
        lambda: by_hand(oracle, x, states, LENGTHS, resets),
        {"x": x, **{f"state {k}": s for k, s in enumerate(states)}},
    )
    plain = layer(x, state)[0]
    assert_close(layer(x, state, lengths=[T] * B)[0], plain)
    one, own = x[:, 0], [s[:, 0] for s in states]
    own = own[0] if len(own) == 1 else tuple(own)
    assert_close(
        layer(one, own, resets=resets[:, 0])[0],
        layer(x, state, resets=resets)[0][:, 0],
    )


# -- resets --------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("steps", "unused"),  # directions whose own initial state nothing starts from
    [(slice(0), (0, 1)), (0, (1,)), (slice(T), ()), (-1, ())],
    ids=["never", "first", "always", "last"],
)
def test_resets_at_no_step_at_the_first_and_at_all(engine, steps, unused):
    layer = make(engine=engine, bidirectional=True, learn_initial_state=True)
    x, states = normal(T, B, X, seed=1), states_for(layer)
    initial = [[own["h"], own["c"]] for own in layer.initial_states]
    resets = torch.zeros(T, B, dtype=torch.bool)
    resets[steps] = True
    assert_same_values_and_gradients(
        lambda: layer(x, tuple(states), resets=resets),
        lambda: by_hand(layer, x, states, None, resets, initial),
        leaves_of(layer, x, states),
        silent=[f"initial_states.{k}.{s}" for k in unused for s in "hc"],
    )


def test_the_first_reset_overrides_the_given_state():
    layer = make("gru_reset_after", "native")
    x, h = normal(T, B, X, seed=1, grad=False), normal(1, B, H, seed=2)
    resets = torch.zeros(T, B, dtype=torch.bool)
    resets[0, 1] = True
    y, _ = layer(x, h, resets=resets)
    assert torch.equal(y[:, 1], layer(x)[0][:, 1])
    assert torch.equal(y[:, 0], layer(x, h)[0][:, 0])
    (gradient,) = torch.autograd.grad(y.sum(), h)
    assert not gradient[:, 1].any()
    assert gradient[:, 0].abs().max() > 1e-3


@pytest.mark.parametrize("engine", ["native", "reference"])
def test_resets_start_from_the_declared_value(engine):
    @cw.cell
    def counts(W, x, h, n=1.0):
        return cw.tanh(W.f(h, x)) / n, n + 1

    layer = make(counts, engine)
    resets = torch.zeros(T, 1, dtype=torch.bool)
    resets[3] = True
    _, (_, n) = layer(normal(T, 1, X, seed=1), resets=resets)
    assert torch.equal(n, torch.full_like(n, 1 + T - 3))


def test_a_state_that_is_minus_infinity_starts_so_again():
    layer = make("slstm", "native")
    oracle = make("slstm", "reference")
    oracle.load_state_dict(layer.state_dict())
    x = normal(T, B, X, seed=1)
    resets = some_resets()
    found = []
    for module in (layer, oracle):
        y, _ = module(x, resets=resets, lengths=LENGTHS)
        found.append((y, torch.autograd.grad(y.square().sum(), x)[0]))
    for value, expected in zip(*found, strict=True):
        assert_close(value, expected)


def test_a_reset_carries_no_gradient_across():
    layer = make("gru_reset_after", "native")
    x = normal(T, B, X, seed=1)
    resets = torch.zeros(T, B, dtype=torch.bool)
    resets[3] = True
    y, _ = layer(x, resets=resets)
    (gradient,) = torch.autograd.grad(y[3:].sum(), x)
    assert not gradient[:3].any()
    assert gradient[3:].abs().max() > 1e-3


# -- any schedule --------------------------------------------------------------


@st.composite
def schedules(draw):
    steps, batch = draw(st.integers(1, 7)), draw(st.integers(0, 6))
    lengths = [draw(st.integers(0, steps)) for _ in range(batch)]
    rows = st.lists(st.booleans(), min_size=batch, max_size=batch)
    resets = [draw(rows) for _ in range(steps)]
    return lengths, torch.tensor(resets, dtype=torch.bool).view(steps, batch)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(schedules(), st.sampled_from(ENGINES), st.booleans())
@example(([0, 0], torch.ones(2, 2).bool()), "native", True)
def test_any_lengths_and_resets(case, engine, bidirectional):
    lengths, resets = case
    steps, batch = resets.shape
    layer = make("gru_reset_after", engine, bidirectional=bidirectional)
    x, states = normal(steps, batch, X, seed=1), states_for(layer, batch)
    results = flat(layer(x, states[0], lengths=lengths, resets=resets))
    if not batch:
        return
    nothing = 0 * x.sum()  # a batch of empty rows has no graph
    expected = [r + nothing for r in by_hand(layer, x, states, lengths, resets)]
    tensors = [x, *states, *layer.parameters()]
    cotangents = oracles.random_cotangents(results)
    found = [
        torch.autograd.grad(
            r, tensors, cotangents, allow_unused=True, materialize_grads=True
        )
        for r in (results, expected)
    ]
    for value, right in zip([*results, *found[0]], [*expected, *found[1]], strict=True):
        torch.testing.assert_close(value, right, rtol=1e-10, atol=1e-12)


@needs_core
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_threads_share_uneven_rows_and_change_no_bit(threads):
    layer = cw.Recurrent("lstm", 24, 64, bidirectional=True)
    steps, batch = 40, 50
    x = torch.randn(steps, batch, 24)
    lengths = torch.randint(0, steps + 1, (batch,))
    resets = some_resets(steps, batch, 0.1)

    def everything():
        leaf = x.clone().requires_grad_()
        y, state = layer(leaf, lengths=lengths, resets=resets)
        loss = y.square().sum() + state[0].square().sum()
        return [y, *state, *torch.autograd.grad(loss, [leaf, *layer.parameters()])]

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = everything()
        torch.set_num_threads(threads)
        found = everything()
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    alone = layer(x[: lengths[7], 7], resets=resets[: lengths[7], 7])[0]
    assert torch.equal(expected[0][: lengths[7], 7], alone)


@needs_core
def test_native_scans_the_rows_that_live_and_no_other(monkeypatch):
    """The fast path ran: the core got batch rows and starts, and nothing was packed."""
    seen = []
    made = schedule.Schedule.core.func

    def core(self):
        seen.append(self)
        return made(self)

    monkeypatch.setattr(schedule.Schedule.core, "func", core)
    layer = make("gru_reset_after", "native", num_layers=2)
    layer(normal(T, B, X, seed=1), lengths=LENGTHS, resets=some_resets())
    (found,) = seen  # one schedule serves both layers
    assert found.counts == (4, 3, 2, 2, 1, 1)
    assert found.batch_rows.tolist() == [1, 3, 0, 4]
    assert found.empty.tolist() == [2]
    assert found.resets is not None


@needs_core
@pytest.mark.parametrize(
    "arguments",
    [
        {"batch_rows": [0, 0], "width": 2, "rows": 4},
        {"batch_rows": [0, 2], "width": 2, "rows": 4},
        {"batch_rows": [0, 1], "width": 2, "rows": 5},
        {"batch_rows": [0], "width": 2, "rows": 4},
        {"resets": torch.tensor([[0, 2, 0, 0]])},
        {"resets": torch.tensor([[2, 0, 0, 0]])},
        {"resets": torch.tensor([[0, 0, 9, 0]])},
        {"resets": torch.tensor([[0, 0, 0, 9]])},
        {"resets": torch.tensor([[0, 0, 0, 1]])},
        {"resets": torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0]])},
        {"resets": torch.tensor([[1, 0, 0, 0], [1, 0, 0, 0]])},
    ],
)
def test_the_core_refuses_a_schedule_that_is_none(arguments):
    layer = make("rnn", "native")
    programs = layer.direction(0).bound.programs
    from cellwright import _core as core

    order = core.Schedule(offsets=[0, 2], counts=[2, 2], initial_rows=2, **arguments)
    found = schedule.Schedule(4, 2, (0, 2), (2, 2), slice(0, 2), slice(0, 2))
    object.__setattr__(found, "core", order)
    parameters = layer.cells[0].in_order(programs.binding.parameters)
    x, h = torch.zeros(2, 2, X).double(), torch.zeros(2, H).double()
    with pytest.raises(ValueError, match=r"\[schedule\]"):
        SequenceScan(programs, found).forward([x, h, *parameters], False)


# -- learned initial states ----------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("given_state", [True, False])
def test_learned_initial_states_get_the_gradient_of_every_start(engine, given_state):
    layer = make(
        engine=engine, num_layers=2, bidirectional=True, learn_initial_state=True
    )
    x, given = normal(T, B, X, seed=1), states_for(layer)
    resets = some_resets()
    initial = [[own["h"], own["c"]] for own in layer.initial_states]

    def oracle():
        states = given
        if not given_state:
            own = [torch.stack([f[n] for f in initial]) for n in (0, 1)]
            states = [s[:, None].expand(-1, B, -1) for s in own]
        return by_hand(layer, x, states, LENGTHS, resets, initial)

    state = tuple(given) if given_state else None
    assert_same_values_and_gradients(
        lambda: layer(x, state, lengths=LENGTHS, resets=resets),
        oracle,
        leaves_of(layer, x, given if given_state else []),
    )


def test_learned_initial_states_are_parameters_at_their_declared_values():
    @cw.cell
    def counts(W, x, h=0.5, n=1.0):
        return cw.tanh(W.f(h, x)) / n, n + 1

    layer = cw.Recurrent(counts, X, H, num_layers=2, learn_initial_state=True)
    assert "initial_states.1.n" in layer.state_dict()
    assert layer.initial_states[1]["n"].tolist() == [1.0] * H
    assert "learn_initial_state=True" in repr(layer)
    with torch.no_grad():
        cw.init.initial_state_(layer, h=0.25, n=torch.arange(1.0, H + 1))
    assert layer.initial_states[0]["h"].tolist() == [0.25] * H
    assert layer.initial_states[1]["n"].tolist() == list(range(1, H + 1))
    assert torch.equal(
        copy.deepcopy(layer).initial_states[0]["h"], layer.initial_states[0]["h"]
    )
    layer.reset_parameters()
    assert layer.initial_states[0]["h"].tolist() == [0.5] * H
    with pytest.raises(cw.ArgumentError, match=r"no initial state 'm'.*expected h, n"):
        cw.init.initial_state_(layer, m=1.0)
    with pytest.raises(cw.ArgumentError, match="learn_initial_state=True"):
        cw.init.initial_state_(cw.Recurrent(counts, X, H), h=1.0)


def test_learned_initial_states_are_exported_or_refused():
    runtime = pytest.importorskip("onnxruntime")
    layer = make("lstm", bidirectional=True, learn_initial_state=True).float()
    x = normal(T, B, X, seed=1, grad=False).float()
    for operators in (True, False):
        model = cw.export_onnx(layer, operators=operators)
        session = runtime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        y = torch.from_numpy(session.run(None, {"x": x.numpy()})[0])
        torch.testing.assert_close(y, layer(x)[0], rtol=1e-5, atol=1e-6)
    for convert in (cw.to_torch, cw.to_keras_weights):
        with pytest.raises(cw.ArgumentError, match="no place for learned initial"):
            convert(layer)


def test_an_infinite_initial_value_is_not_learned():
    layer = cw.Recurrent("slstm", X, H, learn_initial_state=True)
    assert set(layer.initial_states[0]) == {"h", "c", "n"}
    y, _ = layer(torch.randn(T, B, X), resets=some_resets())
    y.sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.initial_states.parameters())


# -- carried state -------------------------------------------------------------


@pytest.mark.parametrize("kind", ["recurrent", "drop-in", "learned"])
def test_rows_of_a_carried_state_start_anew(kind):
    options = {"learn_initial_state": True} if kind == "learned" else {}
    if kind == "drop-in":
        layer = randomise(cw.LSTM(X, H, dtype=torch.float64))
    else:
        layer = make("lstm", **options)
    x = normal(T, B, X, seed=1)
    _, state = layer(x)
    rows = torch.tensor([True, False, False, True, False])
    found = cw.reset_rows(layer, cw.detach(state), rows)
    own = layer(x, cw.reset_rows(layer, state, torch.ones(B, dtype=torch.bool)))
    assert_close(own[0], layer(x)[0])
    resets = torch.zeros(T, B, dtype=torch.bool)
    resets[0] = rows
    assert_close(layer(x, found)[0], layer(x, cw.detach(state), resets=resets)[0])
    for new, old in zip(found, state, strict=True):
        assert torch.equal(new[:, 1], old[:, 1])
    if kind == "learned":
        loss = found[0].sum()
        (gradient,) = torch.autograd.grad(loss, layer.initial_states[0]["h"])
        assert torch.equal(gradient, torch.full_like(gradient, 2))
    assert cw.reset_rows(layer, None, rows) is None
    with pytest.raises(cw.ArgumentError, match=r"\(5,\) of torch.bool"):
        cw.reset_rows(layer, state, torch.tensor([0, 3]))


# -- torch's machinery ---------------------------------------------------------


@needs_core
@pytest.mark.filterwarnings("ignore")  # torch's own, while it traces
def test_compile_and_export_take_lengths_and_resets_whole():
    layer = make(
        "gru_reset_after", "native", bidirectional=True, learn_initial_state=True
    )
    x, resets = normal(T, B, X, seed=1), some_resets()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    tensors = [x, *layer.parameters()]
    quiet = torch.zeros_like(resets)  # nothing starts anew: no gradient of its start
    for lengths, resets_ in (
        (torch.tensor(LENGTHS), resets),
        (torch.tensor([6, 1, 2, 3, 4]), resets),
        (torch.full((B,), T), quiet),
    ):
        found, expected = (
            torch.autograd.grad(
                module(x, lengths=lengths, resets=resets_)[0].square().sum(), tensors
            )
            for module in (compiled, layer)
        )
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    arguments = {"lengths": torch.tensor(LENGTHS), "resets": resets}
    exported = torch.export.export(layer, (x.detach(),), arguments).module()
    arguments["lengths"] = torch.tensor([6, 1, 2, 3, 4])
    assert torch.equal(exported(x.detach(), **arguments)[0], layer(x, **arguments)[0])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("engine", ["torch", "reference"])
def test_other_engines_break_the_graph_and_go_on(engine):
    layer = make("gru_reset_after", engine)
    compiled = torch.compile(layer, backend="eager")
    x, lengths = normal(3, B, X, seed=1, grad=False), [1, 3, 0, 2, 1]
    found = compiled(x, lengths=torch.tensor(lengths))[0]
    assert torch.equal(found, layer(x, lengths=lengths)[0])


@needs_core
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("training", [True, False])
def test_opcheck_with_lengths_and_resets(training):
    layer = make("lstm", "native")
    cell = layer.direction(0).bound.programs
    parameters = layer.cells[0].in_order(cell.binding.parameters)
    parameters = [p.detach().clone().requires_grad_(training) for p in parameters]
    inputs = [normal(T, B, X, seed=1, grad=training)]
    states = [normal(B, H, seed=n, grad=training) for n in (2, 3)]
    own = [normal(H, seed=n, grad=training) for n in (4, 5)]
    # What training saves is not defined where no row is, which opcheck would notice.
    lengths = torch.tensor([T] * B if training else LENGTHS)
    arguments = (
        inputs,
        states,
        own,
        parameters,
        cell.key,
        [],
        lengths,
        some_resets(),
        False,
        training,
        training,
    )
    torch.library.opcheck(op._walk_op, arguments)


def test_double_backward_through_lengths_and_resets():
    layer = make("gru_reset_after", "native", learn_initial_state=True)
    x, resets = normal(3, 2, X, seed=1), some_resets(3, 2)
    own = layer.initial_states[0]["h"]

    def run(x, _):
        return layer(x, lengths=[2, 3], resets=resets)[0]

    assert torch.autograd.gradgradcheck(run, (x, own))


# -- what does not fit ---------------------------------------------------------


@pytest.mark.parametrize("kind", ["recurrent", "drop-in"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lengths": [7, 1, 1, 1, 1]}, r"\[lengths\].*received 7 for row 0.*0 … 6"),
        ({"lengths": [1, 1, -1, 1, 1]}, r"received -1 for row 2"),
        ({"lengths": [1, 2]}, r"received \(2,\) of torch.int64, expected \(5,\)"),
        ({"lengths": torch.ones(B)}, r"received \(5,\) of torch.float32"),
        ({"lengths": torch.ones(B, dtype=torch.bool)}, r"of torch.bool, expected"),
        ({"lengths": [1.5] * B}, r"expected a tensor or a list of integers"),
        ({"lengths": torch.ones(B, device="meta").long()}, "on another device than x"),
        ({"resets": torch.zeros(B, T).bool()}, r"received \(5, 6\).*\(T, B\) = \(6, 5"),
        ({"resets": torch.zeros(T, B)}, r"received \(6, 5\) of torch.float32"),
        ({"resets": [[True]]}, r"received list, expected \(T, B\)"),
        ({"resets": torch.zeros(T, B, device="meta").bool()}, "on another device"),
    ],
)
def test_lengths_and_resets_that_do_not_fit_are_refused(kind, arguments, message):
    layer = cw.GRU(X, H) if kind == "drop-in" else cw.Recurrent("gru", X, H)
    with pytest.raises(cw.ArgumentError, match=message):
        layer(torch.zeros(T, B, X), **arguments)


@pytest.mark.parametrize("kind", ["recurrent", "drop-in"])
def test_a_packed_sequence_has_its_own_lengths(kind):
    layer = cw.GRU(X, H) if kind == "drop-in" else cw.Recurrent("gru", X, H)
    packed = pack_padded_sequence(torch.zeros(T, 2, X), [3, 2])
    with pytest.raises(cw.ArgumentError, match=r"PackedSequence.*received lengths="):
        layer(packed, lengths=[3, 2])
    with pytest.raises(cw.ArgumentError, match=r"PackedSequence.*received resets="):
        layer(packed, resets=torch.zeros(T, 2).bool())


def test_a_packed_sequence_of_the_wrong_width_or_type_is_refused():
    layer = cw.Recurrent("gru", X, H)
    with pytest.raises(cw.ArgumentError, match=r"packed x.*received \(5, 4\)"):
        layer(pack_padded_sequence(torch.zeros(T, 2, X + 1), [3, 2]))
    with pytest.raises(cw.ArgumentError, match="another dtype"):
        layer(pack_padded_sequence(torch.zeros(T, 2, X).double(), [3, 2]))
    with pytest.raises(
        cw.ArgumentError, match=r"received \(1, 5, 4\), expected \(1, 2"
    ):
        layer(pack_padded_sequence(torch.zeros(T, 2, X), [3, 2]), torch.zeros(1, B, H))


def test_a_single_sequence_has_resets_and_no_lengths():
    layer = make("gru_reset_after")
    x, resets = normal(T, 1, X, seed=1), some_resets(batch=1)
    y, h = layer(x[:, 0], resets=resets[:, 0])
    expected, expected_h = layer(x, resets=resets)
    assert torch.equal(y, expected[:, 0])
    assert torch.equal(h, expected_h[:, 0])
    with pytest.raises(cw.ArgumentError, match="a single sequence is as long as it is"):
        layer(x[:, 0], lengths=[T])


# -- what is kept ----------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_only_short_schedules_are_kept(packed):
    def make(steps):
        return schedule.packed((2,) * steps) if packed else schedule.dense(steps, 2)

    assert make(100) is make(100)
    many, wide = weakref.ref(make(5000)), weakref.ref(schedule.packed((5000, 1)))
    gc.collect()
    assert many() is wide() is None
