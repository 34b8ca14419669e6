"""Recording: every value of every step, and its gradient, against loops by hand."""

import copy
import gc
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import cellwright as cw
from cellwright.engine import native
from cellwright.language.names import recordable
from native_cases import EXTRA_SIZES
from oracles import flat, normal, random_cotangents, randomise

needs_core = pytest.mark.skipif(not native.info()["native"], reason="no compiled core")
ENGINES = [pytest.param("native", marks=needs_core), "reference"]


def make(cell="lstm", X=5, H=7, layers=1, engine="native", **more):
    cell = cw.cells.get(cell) if isinstance(cell, str) else cell
    extra = {n: v for n, v in EXTRA_SIZES.items() if n in cell.graph.size_names}
    more = {"dtype": torch.float64, **more}
    layer = cw.Recurrent(cell, X, H, layers, engine=engine, **extra, **more)
    randomise(layer, scale=0.4)
    return layer


def close(found, expected, tolerance=1e-10):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


class Model(nn.Module):
    """Two recurrent layers, one of them a drop-in, and others around."""

    def __init__(self, engine="auto"):
        super().__init__()
        self.embed = nn.Linear(3, 5)
        self.rnn = cw.Recurrent("gru", 5, 6, 2, engine=engine)
        self.out = nn.ModuleDict({"last": cw.LSTM(6, 4, engine=engine)})
        self.double()

    def forward(self, x):
        y, _ = self.rnn(self.embed(x))
        return self.out["last"](y)[0]


def lstm_by_hand(layer, x):
    """Gates, states and what the gates' activations saw: a list of steps each."""
    W = layer.cells[0]
    h = c = torch.zeros(x.shape[1], layer.hidden_size, dtype=x.dtype)
    kept = {}

    def keep(name, value):
        kept.setdefault(name, []).append(value)
        if value.requires_grad:
            value.retain_grad()
        return value

    def affine(gate, operands):
        value = operands @ getattr(W, gate).weight.T + getattr(W, gate).bias
        return keep(f"{gate}.pre", value)

    for xt in x:
        old = torch.cat([h, xt], -1)
        f = keep("f", affine("f", old).sigmoid())
        i = keep("i", affine("i", old).sigmoid())
        g = keep("g", affine("g", old).tanh())
        c = keep("c", f * c + i * g)
        o = keep("o", affine("o", old).sigmoid())
        h = keep("h", o * c.tanh())
    return torch.stack(kept["h"]), kept


# -- values and gradients --------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_every_value_and_gradient_of_an_lstm_by_hand(engine):
    layer, x = make(engine=engine), normal(6, 3, 5, seed=1)
    names = ["*", "*.pre"]
    with cw.record(layer, names, gradients=True) as values:
        y, _ = layer(x)
    assert set(values) == {f"0.{n}{p}" for n in "figo" for p in ("", ".pre")} | {
        "0.h",
        "0.c",
    }
    cotangents = {
        n: normal(*v.shape, seed=9 + i, grad=False)
        for i, (n, v) in enumerate(values.items())
    }
    own = normal(*y.shape, seed=3, grad=False)
    loss = (y * own).sum() + sum((v * cotangents[n]).sum() for n, v in values.items())
    wanted = [x, *layer.parameters()]
    loss.backward()
    found = [t.grad.clone() for t in wanted]
    for t in wanted:
        t.grad = None

    y, kept = lstm_by_hand(layer, x)
    loss = (y * own).sum()
    loss = loss + sum(
        (torch.stack(kept[n[2:]]) * c).sum() for n, c in cotangents.items()
    )
    loss.backward()
    for mine, theirs in zip(found, (t.grad for t in wanted), strict=True):
        close(mine, theirs)
    for name, value in values.items():
        steps = kept[name[2:]]
        close(value.detach(), torch.stack(steps).detach())
        close(value.grad, torch.stack([s.grad for s in steps]))
    assert values["h"].grad[0].abs().max() > 1e-3  # it goes through time


@pytest.mark.parametrize("engine", ENGINES)
def test_the_gradient_of_a_state_is_through_all_later_steps(engine):
    """∂loss/∂h_t of a loss that sees the last step only."""
    layer, x = make(engine=engine), normal(6, 3, 5, seed=1)
    with cw.record(layer, ["h", "c"], gradients=True) as values:
        y, _ = layer(x)
    own = normal(3, 7, seed=3, grad=False)
    (y[-1] * own).sum().backward()
    y, kept = lstm_by_hand(layer, x.detach())
    (y[-1] * own).sum().backward()
    for name in ("h", "c"):
        expected = torch.stack([s.grad for s in kept[name]])
        close(values[name].grad, expected)
        assert expected[0].abs().max() > 1e-6


@needs_core
@pytest.mark.parametrize(
    ("cell", "memory"),
    [(cell, "save") for cell in cw.cells.all()]
    + [(cell, "recompute") for cell in ("lstm", "gru", "slstm", "mc_lstm")],
)
def test_native_records_what_the_reference_does(cell, memory):
    """All values of all cells: themselves, what flows into them, what comes out."""
    found = {}
    for engine in ("native", "reference"):
        kept = memory if engine == "native" else "save"
        layer = make(cell, engine=engine, bidirectional=True, memory=kept)
        sources = {
            i.name: normal(4, 3, i.size, seed=5 + n)
            for n, i in enumerate(layer.graphs[0].inputs)
        }
        x = sources.pop("x")
        # away from 0 and −∞: the sLSTM's value there is no finite number
        olds = [
            0.3 + 0.5 * normal(2, 3, s.size, seed=60 + n, grad=False).abs()
            for n, s in enumerate(layer.graphs[0].states)
        ]
        state = olds[0] if len(olds) == 1 else tuple(olds)
        labels = recordable(layer.cell.graph)
        names = ["*", "*.pre"] if any(".pre" in n for n in labels) else ["*"]
        with cw.record(layer, names, gradients=True) as values:
            results = flat(layer(x, state, **sources))
        assert len(values) == 2 * len(recordable(layer.cell.graph))
        parts = [*results, *values.values()]
        loss = sum(
            (r * c).sum() for r, c in zip(parts, random_cotangents(parts), strict=True)
        )
        loss.backward()
        named = {**dict(layer.named_parameters()), "x": x, **sources}
        found[engine] = {
            **{f"result {i}": r.detach() for i, r in enumerate(results)},
            **{f"d.{n}": p.grad for n, p in named.items()},
            **{n: v.detach() for n, v in values.items()},
            **{f"total d.{n}": v.grad for n, v in values.items()},
        }
    for name, expected in found["reference"].items():
        scale = max(1.0, float(expected.abs().max()))
        close(found["native"][name] / scale, expected / scale)


@pytest.mark.parametrize("engine", ENGINES)
def test_values_that_are_numbers_inputs_or_feed_nothing(engine):
    @cw.cell
    def odd(W, x, h):
        cw.name("unused", cw.tanh(W.u(h, x)))
        cw.name("seen", x)
        cw.name("old", h)
        share = cw.name("share", cw.sum(cw.sigmoid(W.s(h, x))))
        gain = cw.name("gain", cw.exp(W.vector("a", init=0.1)))
        return cw.tanh(W.k(h, x) / share) * gain

    layer, x = make(odd, engine=engine), normal(5, 2, 5, seed=1)
    with cw.record(layer, gradients=True) as values:
        y, _ = layer(x)
    assert values["share"].shape == (5, 2, 1)
    assert torch.equal(values["seen"], x)
    assert torch.equal(values["old"][1:], y[:-1])
    assert torch.equal(values["gain"][0, 0], layer.cells[0].a.exp())
    tensors = [x, *layer.parameters()]
    seeds = random_cotangents([y, *values.values()])
    parts = zip([y, *values.values()], seeds, strict=True)
    found = torch.autograd.grad(sum((v * s).sum() for v, s in parts), tensors)

    W, h, loss = layer.cells[0], torch.zeros(2, 7, dtype=torch.float64), 0.0
    order = ["y", *(k.removeprefix("0.") for k in values)]
    seeds = dict(zip(order, seeds, strict=True))
    for t in range(5):
        s = W.s(h, x[t]).sigmoid()
        k = W.k(h, x[t])
        share = s.sum(-1, keepdim=True)
        gain = W.a.exp().expand(2, 7)
        new = (k / share).tanh() * gain
        step = {
            "y": new,
            "h": new,
            "old": h,
            "seen": x[t],
            "share": share,
            "gain": gain,
            "unused": W.u(h, x[t]).tanh(),
            "s": s,
            "k": k,
        }
        assert set(step) == set(seeds)
        loss = loss + sum((step[n] * seeds[n][t]).sum() for n in step)
        h = new
    for mine, theirs in zip(found, torch.autograd.grad(loss, tensors), strict=True):
        close(mine, theirs)


@needs_core
@pytest.mark.parametrize("training", [False, True])
def test_recording_changes_no_bit_of_the_layer(training):
    layer, x = make("gru", layers=2), normal(6, 3, 5, seed=1, grad=False)
    with torch.set_grad_enabled(training):
        y, h = layer(x)
        with cw.record(layer, ["*", "*.pre"]) as values:
            again, state = layer(x)
    assert torch.equal(again, y)
    assert torch.equal(state, h)
    assert torch.equal(values["1.h"], y)
    assert not any(v.requires_grad for v in values.values())
    if training:
        plain = torch.autograd.grad(y.sum(), list(layer.parameters()))
        watched = torch.autograd.grad(again.sum(), list(layer.parameters()))
        for mine, theirs in zip(watched, plain, strict=True):
            assert torch.equal(mine, theirs)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_regularised_layer_in_training(engine):
    """What is recorded is what this call computed, with its masks and weights."""
    more = {"zoneout": 0.3, "update_dropout": 0.2, "weight_drop": 0.2}
    layer = make(engine=engine, locked=["update_dropout"], **more)
    x = normal(6, 3, 5, seed=1)
    torch.manual_seed(1)
    y, (_, c) = layer(x)
    torch.manual_seed(1)
    with cw.record(layer, gradients=True) as values:
        again, _ = layer(x)
    assert torch.equal(again, y)
    close(values["h"], y)
    close(values["c"][-1], c[0])
    wanted = list(layer.parameters())
    plain = torch.autograd.grad(y.square().sum(), wanted)
    watched = torch.autograd.grad(values["h"].square().sum(), wanted)
    for mine, theirs in zip(watched, plain, strict=True):
        close(mine, theirs)


@pytest.mark.parametrize("engine", ENGINES)
def test_double_backward_through_recorded_values(engine):
    layer, x = make("ugrnn", X=2, H=3, engine=engine), normal(3, 2, 2, seed=1)

    def loss(x):
        with cw.record(layer, "h", gradients=True) as values:
            y, _ = layer(x)
        return y.square().sum() + values["h"].pow(3).sum()

    assert torch.autograd.gradcheck(loss, (x,))
    assert torch.autograd.gradgradcheck(loss, (x,))


# -- shapes ----------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", [cw.LSTM, cw.GRU, cw.RNN])
def test_values_are_laid_out_as_y_is(engine, kind):
    layer = kind(5, 6, dtype=torch.float64, engine=engine)
    first = kind(5, 6, dtype=torch.float64, engine=engine, batch_first=True)
    first.load_state_dict(layer.state_dict())
    x = normal(4, 3, 5, seed=1, grad=False)
    with cw.record(layer) as values, cw.record(first) as others:
        y, _ = layer(x)
        y_first, _ = first(x.transpose(0, 1))
    assert torch.equal(values["h"], y)
    assert torch.equal(others["h"], y_first)
    for name, value in values.items():
        assert torch.equal(others[name], value.transpose(0, 1))
    with cw.record(layer, gradients=True) as alone:
        y, _ = layer(x[:, 1])
    y.square().sum().backward()
    for name, value in values.items():
        close(alone[name].detach(), value[:, 1])
        assert alone[name].grad.shape == (4, value.shape[-1])


@needs_core
@pytest.mark.parametrize("batch_first", [False, True])
def test_packed_sequences_are_padded_with_zeros(batch_first):
    layer = cw.LSTM(5, 6, bidirectional=True, batch_first=batch_first).double()
    lengths = [2, 4, 1]
    rows = [normal(n, 5, seed=n, grad=False) for n in lengths]
    packed = nn.utils.rnn.pack_sequence(rows, enforce_sorted=False)
    with cw.record(layer, ["h", "c", "f"], gradients=True) as values:
        y, _ = layer(packed)
    padded, _ = nn.utils.rnn.pad_packed_sequence(y, batch_first)
    assert torch.equal(torch.cat([values["0.h"], values["1.h"]], -1), padded)
    (values["0.c"].square().sum() + padded.sum()).backward()
    for row, (x, length) in enumerate(zip(rows, lengths, strict=True)):
        with cw.record(layer, ["h", "c", "f"], gradients=True) as alone:
            y, _ = layer(x)
        (alone["0.c"].square().sum() + y.sum()).backward()
        for name, value in values.items():
            value, grad = (
                v if batch_first else v.transpose(0, 1) for v in (value, value.grad)
            )
            close(value[row, :length], alone[name])
            close(grad[row, :length], alone[name].grad)
            assert not value[row, length:].any()
            assert not grad[row, length:].any()


# -- keys ------------------------------------------------------------------------------


def test_keys_are_path_number_and_name():
    model, x = Model(), normal(4, 2, 3, seed=1, grad=False)
    with cw.record(model) as values:
        assert not values
        y = model(x)
    assert set(values) == {
        *(f"rnn.{k}.{n}" for k in (0, 1) for n in ("z", "r", "n", "h")),
        *(f"out.last.0.{n}" for n in ("f", "i", "g", "o", "h", "c")),
    }
    assert torch.equal(values["c"], values["out.last.0.c"])
    assert torch.equal(values["last.0.h"], y)
    assert torch.equal(values["1.h"], values["rnn.1.h"])
    assert "c" in values
    assert "nothing" not in values
    with pytest.raises(
        cw.UnknownValueError, match=r"called 'h': rnn.0.h, rnn.1.h, out"
    ):
        values["h"]
    with pytest.raises(KeyError, match=r"'rnn.0.k'. Did you mean 'rnn.0.z'"):
        values["rnn.0.k"]
    with pytest.raises(cw.ArgumentError, match=r"no recorded value is called 'f.pre'"):
        values["f.pre"]
    assert "out.last.0.c: (4, 2, 4)" in repr(values)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("c", {"out.last.0.c"}),
        ("h", {"rnn.0.h", "rnn.1.h", "out.last.0.h"}),
        ("rnn.*.h", {"rnn.0.h", "rnn.1.h"}),
        ("f.pre", {"out.last.0.f.pre"}),
        (["0.z", "*.o"], {"rnn.0.z", "out.last.0.o"}),
        ([], set()),
    ],
)
def test_names_choose(names, found):
    model = Model()
    with cw.record(model, names) as values:
        model(torch.zeros(2, 1, 3, dtype=torch.float64))
    assert set(values) == found


def test_wrong_names_are_told_what_there_is():
    with pytest.raises(cw.ArgumentError, match=r"fits 'ff'.* Did you mean 'f'"):
        cw.record(Model(), ["h", "ff"])
    with pytest.raises(cw.ArgumentError, match="received Linear, which has none"):
        cw.record(nn.Linear(2, 2))
    tree = cw.TreeRecurrent("recursive", 3, 4)
    with pytest.raises(cw.ArgumentError, match="of a TreeRecurrent are not recorded"):
        cw.record(tree)
    both = nn.ModuleDict({"tree": tree, "rnn": make()})
    cw.record(both, "rnn.0.c")
    with pytest.raises(cw.ArgumentError, match="received str"):
        cw.record("model")
    values = cw.record(Model())
    with pytest.raises(cw.UnknownValueError, match="call the model inside of the with"):
        values["c"]
    assert repr(values) == "<record of nothing yet>"


# -- when ------------------------------------------------------------------------------


def is_off(model):
    layers = [m for m in model.modules() if hasattr(m, "watchers")]
    return layers and not any(m.watchers for m in layers)


def test_nothing_is_left_behind_also_after_an_exception():
    model, x = Model(), torch.zeros(2, 1, 3, dtype=torch.float64)
    values = cw.record(model)

    def fail():
        with values:
            model(x)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert is_off(model)
    kept = values["c"].clone()
    model(x + 1)
    assert torch.equal(values["c"], kept)


def test_of_several_calls_the_last_is_held():
    layer, x = make(), normal(2, 4, 3, 5, seed=1, grad=False)
    with cw.record(layer) as values:
        layer(x[0])
        y, _ = layer(x[1, :2])
    assert torch.equal(values["h"], y)


def test_nested_records_see_their_own():
    model, x = Model(), normal(4, 2, 3, seed=1, grad=False)
    with cw.record(model, "c", gradients=True) as outer:
        with cw.record(model.rnn, "z") as inner:
            model(x)
        first = outer["c"]
        model(x)
    assert is_off(model)
    assert set(inner) == {"0.z", "1.z"}
    assert not inner["0.z"].requires_grad
    assert set(outer) == {"out.last.0.c"}
    assert outer["c"].requires_grad
    assert outer["c"] is not first


def test_a_copy_does_not_record():
    model, x = Model(), torch.ones(2, 1, 3, dtype=torch.float64)
    with cw.record(model) as values:
        twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        for twin in twins:
            twin(x)
            assert is_off(twin) or not twin.rnn.watchers
        assert not values
        with cw.record(twins[0]) as others:
            twins[0](x)
        assert not values
    assert torch.equal(others["c"], others["out.last.0.c"])


@pytest.mark.parametrize("engine", ENGINES)
def test_without_gradients_no_graph_is_made(engine):
    layer, x = make(engine=engine), normal(3, 2, 5, seed=1)
    with torch.no_grad(), cw.record(layer, gradients=True) as values:
        layer(x)
    assert not any(v.requires_grad for v in values.values())
    layer.requires_grad_(False)
    with cw.record(layer, "f", gradients=True) as values:
        layer(x.detach())
    values["f"].sum().backward()
    assert values["f"].grad.shape == (3, 2, 7)


def test_values_are_freed_with_their_record():
    layer, x = make(), normal(3, 2, 5, seed=1)
    with cw.record(layer, gradients=True) as values:
        y, _ = layer(x)
    known = weakref.ref(values["f"])
    del values, y
    gc.collect()
    assert known() is None


@needs_core
def test_torchs_kernel_gives_way_and_says_so():
    layer = cw.LSTM(5, 6, engine="torch").double()
    own = cw.Recurrent("gru_reset_after", 5, 6, engine="torch", dtype=torch.float64)
    x = normal(3, 2, 5, seed=1, grad=False)
    for rnn in (layer, own):
        y, _ = rnn(x)
        with (
            pytest.warns(UserWarning, match="torch's kernel.* the native engine"),
            cw.record(rnn) as values,
        ):
            watched, _ = rnn(x)
        close(watched, y)
        assert torch.equal(values["h"], watched)
        assert rnn.engine == "torch"


@needs_core
@torch.no_grad()
def test_a_compiled_model_steps_outside_of_its_graph():
    torch._dynamo.reset()
    model, x = Model(), normal(4, 2, 3, seed=1, grad=False)
    compiled = torch.compile(model, backend="eager")
    y = compiled(x)
    with cw.record(compiled, "c") as values:
        again = compiled(x)
    assert torch.equal(again, y)
    assert set(values) == {"out.last.0.c"}
    assert values["c"].shape == (4, 2, 4)
    torch._dynamo.reset()
    strict = torch.compile(model, backend="eager", fullgraph=True)
    with cw.record(model), pytest.raises(Exception, match=r"\[record\] values cannot"):
        strict(x)


@needs_core
def test_inside_torch_func_it_is_refused():
    layer, x = make(), normal(2, 3, 2, 5, seed=1, grad=False)
    with (
        cw.record(layer),
        pytest.raises(
            cw.ArgumentError, match=r"\[record\] values cannot leave torch.f"
        ),
    ):
        torch.func.vmap(lambda x: layer(x)[0])(x)


def test_threads_record_their_own_calls():
    """What two threads record of one layer at once is each its own."""
    layer, both = cw.GRU(3, 5).double(), threading.Barrier(2, timeout=60)
    xs = [torch.randn(4, batch, 3, dtype=torch.float64) for batch in (1, 6)]

    def recorded(x: torch.Tensor) -> list[torch.Tensor]:
        with cw.record(layer) as values:
            both.wait()  # both are recording
            y, _ = layer(x)
            both.wait()  # both have run
        return [values["h"], y.detach()]

    with ThreadPoolExecutor(2) as threads:
        for found, y in threads.map(recorded, xs):
            assert torch.equal(found, y)
    layer(xs[0])
    assert not layer.watchers
