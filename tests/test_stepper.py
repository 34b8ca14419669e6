"""Steppers: the layer's own values, step by step; states, copies, threads, errors."""

import copy
import io
import pickle
import runpy
import threading
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest
import torch

import cellwright as cw
from cellwright import cell, tanh
from cellwright.engine import native
from native_cases import EXTRA_SIZES
from oracles import normal, randomise

needs_core = pytest.mark.skipif(not native.info()["native"], reason="no compiled core")
ENGINES = [pytest.param("native", marks=needs_core), "reference"]
ISAS = native.info().get("isas", [])


def make(cell="lstm", X=5, H=7, layers=1, engine="native", dtype=torch.float64, **more):
    cell = cw.cells.get(cell) if isinstance(cell, str) else cell
    extra = {n: v for n, v in EXTRA_SIZES.items() if n in cell.graph.size_names}
    layer = cw.Recurrent(
        cell, X, H, layers, engine=engine, dtype=dtype, **extra, **more
    )
    randomise(layer, scale=0.3)
    return layer


def sources(layer, T, B, dtype=torch.float64):
    """x and the named inputs, (T, B, size) each."""
    return {
        i.name: normal(T, B, i.size, seed=5 + n, grad=False).to(dtype)
        for n, i in enumerate(layer.graphs[0].inputs)
    }


def run(step, given):
    """Every step's output, stacked; the input goes by position."""
    T = len(given["x"])
    named = [{n: v[t] for n, v in given.items() if n != "x"} for t in range(T)]
    return torch.stack([step(given["x"][t], **named[t]) for t in range(T)])


def as_tuple(state):
    return (state,) if isinstance(state, torch.Tensor) else tuple(state)


# -- values ------------------------------------------------------------------------


@needs_core
@pytest.mark.parametrize("cell", cw.cells.all())
def test_every_cell_steps_to_the_bits_of_its_layer(cell):
    layer = make(cell)
    given = sources(layer, 6, 2)
    with torch.no_grad():
        y, finals = layer(given["x"], **{n: v for n, v in given.items() if n != "x"})
    step = layer.stepper(2)
    assert step.engine == "native"
    assert torch.equal(run(step, given), y)
    for found, expected in zip(as_tuple(step.state), as_tuple(finals), strict=True):
        assert torch.equal(found, expected)


@needs_core
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(1, 3, 33), (1, 70, 16), (3, 16, 50), (9, 1, 1)])
def test_every_instruction_set_and_type(isa, dtype, size, monkeypatch):
    B, X, H = size
    monkeypatch.setenv("CELLWRIGHT_ISA", isa)
    layer = make("lstm", X, H, layers=2, dtype=dtype)
    given = sources(layer, 4, B, dtype)
    with torch.no_grad():
        y, _ = layer(given["x"])
    assert torch.equal(run(layer.stepper(B), given), y)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("cell", ["lstm", "gru", "lstm_projected", "mc_lstm"])
def test_layers_of_either_engine(engine, cell):
    layer = make(cell, X=4, H=4, layers=3, engine=engine)
    given = sources(layer, 5, 2)
    with torch.no_grad():
        y, _ = layer(given["x"], **{n: v for n, v in given.items() if n != "x"})
    step = layer.stepper(2)
    assert step.engine == engine
    torch.testing.assert_close(run(step, given), y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", [cw.LSTM, cw.GRU, cw.RNN])
def test_drop_ins_step_like_torch(engine, kind):
    layer = kind(5, 6, 2, dropout=0.5, dtype=torch.float64, engine=engine)
    theirs = getattr(torch.nn, kind.__name__)(5, 6, 2, dtype=torch.float64)
    theirs.load_state_dict(layer.state_dict())
    x = normal(7, 3, 5, seed=1, grad=False)
    y, finals = theirs(x)
    step = layer.stepper(3)  # in training mode, too, it evaluates
    torch.testing.assert_close(run(step, {"x": x}), y, rtol=1e-12, atol=1e-12)
    for found, expected in zip(as_tuple(step.state), as_tuple(finals), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_where_native_cannot_run_the_reference_steps():
    layer = cw.Recurrent("gru", 3, 4, dtype=torch.float16)
    step = layer.stepper()
    assert step.engine == "reference"
    assert step(torch.zeros(1, 3, dtype=torch.float16)).dtype == torch.float16


# -- calls -------------------------------------------------------------------------


@needs_core
def test_with_out_nothing_is_allocated_and_without_it_is_fresh():
    layer = make(X=7, H=7)
    x, y = normal(2, 1, 7, seed=1, grad=False), torch.empty(1, 7, dtype=torch.float64)
    step, same = layer.stepper(), layer.stepper()
    x0 = x[0]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as p:
        assert step(x0, out=y) is y
    assert not [event for event in p.events() if event.name.startswith("aten::")]
    first = same(x0)
    assert torch.equal(first, y)
    second = same(x[1])
    assert torch.equal(first, y)
    assert second.data_ptr() != first.data_ptr()
    assert not second.requires_grad
    z = x[1].clone()
    assert torch.equal(step(z, out=z), second)  # also into x itself


@pytest.mark.parametrize("engine", ENGINES)
def test_a_result_that_autograd_keeps_cannot_be_overwritten_unseen(engine):
    layer = make(X=7, H=7, engine=engine)
    x, w = normal(2, 1, 7, seed=1, grad=False), normal(1, 7, seed=2)
    step = layer.stepper()
    for out, row in ((torch.zeros(1, 7, dtype=x.dtype), x[1]), (x[1, 0], x[0, 0])):
        loss = (w * out).sum()
        step(row, out=out)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
    with torch.inference_mode():  # whose tensors count no versions
        out = torch.empty_like(x[0])
        assert step(x[0], out=out) is out


@pytest.mark.parametrize("engine", ENGINES)
def test_a_row_may_come_without_its_batch_and_with_strides(engine):
    layer = make(engine=engine)
    x = normal(5, 4, seed=1, grad=False).T  # rows are not contiguous
    y, _ = layer(x.contiguous())
    step = layer.stepper()
    assert torch.equal(torch.stack([step(v) for v in x]), y)
    step.reset()
    out = torch.empty(7, dtype=torch.float64)
    assert step(x[0], out=out) is out
    assert torch.equal(out, y[0])


def test_gradients_are_not_recorded():
    layer = make()
    x = normal(1, 5, seed=1)
    assert layer.stepper()(x).grad_fn is None


@pytest.mark.parametrize("engine", ENGINES)
def test_errors_say_what_was_expected(engine):
    layer = make("mc_lstm", engine=engine)
    x = sources(layer, 1, 2)
    name = next(n for n in x if n != "x")
    step = layer.stepper(2)
    good, named = x["x"][0], {name: x[name][0]}
    step(good, **named)
    for bad, message in [
        (good[:1], r"x has the wrong shape; received \(1, 5\), expected \(2, 5\)"),
        (good.float(), r"x is torch.float32 on cpu; expected torch.float64"),
        ([1.0], r"x is no tensor; received list"),
        (good.numpy(), r"x is no tensor; received ndarray, expected a tensor \(2, 5\)"),
    ]:
        with pytest.raises(cw.ArgumentError, match=message):
            step(bad, **named)
    with pytest.raises(cw.ArgumentError, match=f"takes the input '{name}'"):
        step(good)
    with pytest.raises(cw.ArgumentError, match="no input 'nass'"):
        step(good, nass=good)
    with pytest.raises(cw.ArgumentError, match=rf"{name} has the wrong shape"):
        step(good, **{name: good[:, :0]})
    with pytest.raises(cw.ArgumentError, match="out has the wrong shape"):
        step(good, out=good, **named)
    strided = torch.empty(7, 2, dtype=torch.float64).T
    with pytest.raises(cw.ArgumentError, match="expected a contiguous tensor"):
        step(good, out=strided, **named)


def test_what_cannot_be_stepped_is_refused():
    with pytest.raises(cw.ArgumentError, match="reads the end of the sequence first"):
        cw.GRU(3, 4, bidirectional=True).stepper()
    for size in (0, True, 1.5):
        with pytest.raises(cw.ArgumentError, match="expected a positive integer"):
            cw.GRU(3, 4).stepper(size)
    with pytest.raises(cw.ArgumentError, match="a tree is walked whole"):
        cw.TreeRecurrent("recursive", 3, 4).stepper()


@needs_core
def test_the_core_reads_and_writes_no_null():
    step = make().stepper()
    with pytest.raises(ValueError, match="no memory"):
        step._advance(torch.empty(0), (), torch.empty(0))


@cell
def delay(W, x, h, d):
    return tanh(W.a(d, x)), h


@cell
def old_out(W, x, h):
    return h, tanh(W.a(h, x))


@cell
def number(W, x, h, d: 1):
    return tanh(W.a(h, d, x)), 0.5


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("cell", [delay, old_out, number], ids=lambda c: c.name)
def test_what_is_returned_may_be_an_old_state_or_a_number(engine, cell):
    layer = make(cell, layers=2, engine=engine)
    given, step = sources(layer, 5, 3), layer.stepper(3)
    y, finals = layer(given["x"])
    torch.testing.assert_close(run(step, given), y.detach(), rtol=0, atol=1e-12)
    for mine, final in zip(as_tuple(step.state), as_tuple(finals), strict=True):
        torch.testing.assert_close(mine, final.detach(), rtol=0, atol=1e-12)


# -- states ------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_a_stepper_of_inference_mode_goes_on_outside(engine):
    with torch.inference_mode():
        layer = make(engine=engine)
        step = layer.stepper()
        y = step(torch.ones(5, dtype=torch.float64))
    assert not step.stale
    step.reset()
    assert torch.equal(step(torch.ones(5, dtype=torch.float64)), y)
    step.state = step.copy().state


@pytest.mark.parametrize("engine", ENGINES)
def test_states_are_set_saved_copied_and_reset(engine, tmp_path):
    layer = make("slstm", layers=2, engine=engine)
    x = sources(layer, 9, 3)["x"]
    with torch.no_grad():
        whole, _ = layer(x)
        _, middle = layer(x[:4])
    step = layer.stepper(3)
    step.state = middle
    assert torch.equal(step(x[4]), whole[4])
    torch.save(step.state_dict(), tmp_path / "state.pt")
    twins = [step.copy(), copy.deepcopy(step), layer.stepper(3)]
    twins[2].load_state_dict(torch.load(tmp_path / "state.pt"))
    for other in (step, *twins):
        assert torch.equal(other(x[5]), whole[5])
    before = step.state
    step(x[6])
    for mine, kept in zip(step.state, before, strict=True):
        assert not torch.equal(mine, kept)
    step.reset([0, 2])
    fresh = layer.stepper(3)
    for mine, kept, first in zip(step.state, twins[0].state, fresh.state, strict=True):
        assert torch.equal(mine[:, [0, 2]], first[:, [0, 2]])
        assert not torch.equal(mine[:, 1], kept[:, 1])
    step.reset()
    for mine, first in zip(step.state, fresh.state, strict=True):
        assert torch.equal(mine, first)
    assert torch.equal(step(x[0]), whole[0])


def test_states_that_do_not_fit_are_refused():
    step = make().stepper()
    h, c = step.state
    with pytest.raises(cw.ArgumentError, match=r"2 state\(s\); received 1"):
        step.state = h
    with pytest.raises(cw.ArgumentError, match="state 'c' has the wrong shape"):
        step.state = h, c[..., :-1]
    with pytest.raises(cw.ArgumentError, match=r"expected \['c', 'h'\]"):
        step.load_state_dict({"h": h})
    step.state = h[:, 0] + 1, c[:, 0]  # of an unbatched layer
    assert torch.equal(step.state[0], h + 1)


@needs_core
def test_weights_are_kept_until_refresh():
    layer = make()
    x = normal(1, 5, seed=1, grad=False)
    step, old = layer.stepper(), layer.stepper()
    assert not step.stale
    with torch.no_grad():
        layer.cells[0].f.weight.mul_(2)
        layer.cells[0].o.bias.add_(1)
        expected, _ = layer(x[None])
    assert step.stale
    before = step(x)
    assert torch.equal(before, old(x))
    assert not torch.equal(before, expected[0])
    step.reset()
    step.refresh()
    assert not step.stale
    assert torch.equal(step(x), expected[0])
    state = step.state
    layer.float()
    assert step.stale
    step.refresh()
    assert step.state[0].dtype == torch.float32
    assert torch.equal(step.state[0], state[0].float())


# -- copies ------------------------------------------------------------------------

LAYERS = [
    lambda engine: make("slstm", X=5, engine=engine),
    lambda engine: cw.LSTM(5, 7, 2, engine=engine, dtype=torch.float64),
]


class Net(torch.nn.Module):
    """A model that holds a layer and its stepper."""

    def __init__(self, layer):
        super().__init__()
        self.rnn = layer
        self.step = layer.stepper(2)


class Own(cw.GRU):
    """A layer that holds its own stepper."""

    def __init__(self, **options):
        super().__init__(5, 7, dtype=torch.float64, **options)
        self.step = self.stepper(2)


def reload(module):
    """Through a file."""
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def through_processes(module):
    """As multiprocessing sends it to another process."""
    return pickle.loads(bytes(ForkingPickler.dumps(module)))


def change(layer):
    with torch.no_grad():
        for p in layer.parameters():
            p.mul_(1.5)


def goes_on(step, layer, x, state):
    """Whether a stepper goes on from a state as a layer does."""
    with torch.no_grad():
        y, _ = layer(x[None], state)
    torch.testing.assert_close(step(x), y[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("other", [copy.deepcopy, reload, through_processes])
@pytest.mark.parametrize("make_layer", LAYERS, ids=["Recurrent", "LSTM"])
def test_a_models_copy_steps_with_its_own_layer(make_layer, other, engine):
    net = Net(make_layer(engine))
    x = normal(3, 2, 5, seed=1, grad=False)
    net.step(x[0])
    state = net.step.state
    ema = other(net)
    change(net.rnn)
    assert ema.step.layer is ema.rnn
    assert ema.step.engine == engine
    goes_on(ema.step, ema.rnn, x[1], state)
    for mine, kept in zip(as_tuple(net.step.state), as_tuple(state), strict=True):
        assert torch.equal(mine, kept)  # the copy moved on by itself
    change(ema.rnn)
    assert ema.step.stale is (engine == "native")
    state = ema.step.state
    ema.step.refresh()
    goes_on(ema.step, ema.rnn, x[2], state)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("other", [copy.deepcopy, reload])
def test_a_layer_that_holds_its_stepper_is_copied(other, engine):
    layer = Own(engine=engine)
    twin = other(layer)
    assert twin.step.layer is twin
    change(layer)
    x = normal(2, 5, seed=1, grad=False)
    goes_on(twin.step, twin, x, None)


@needs_core
def test_the_average_of_a_model_has_a_stepper_of_its_own():
    net = Net(make())
    average = torch.optim.swa_utils.AveragedModel(net)
    change(net.rnn)
    average.update_parameters(net)
    change(net.rnn)
    average.update_parameters(net)
    twin = average.module
    twin.step.refresh()
    goes_on(twin.step, twin.rnn, normal(2, 5, seed=1, grad=False), None)
    assert not torch.equal(twin.rnn.cells[0].f.weight, net.rnn.cells[0].f.weight)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("other", [copy.copy, lambda step: step.copy()])
def test_a_copy_is_of_the_same_layer_with_weights_as_they_are(other, engine):
    layer = make(engine=engine)
    step = layer.stepper(2)
    x = normal(2, 2, 5, seed=1, grad=False)
    step(x[0])
    state = step.state
    change(layer)
    twin = other(step)
    assert twin.layer is layer
    assert not twin.stale
    goes_on(twin, layer, x[1], state)
    assert torch.equal(step.state[0], state[0])


def test_a_copied_stepper_has_no_other_attributes():
    step = cw.Recurrent("gru", 3, 4).stepper()
    for each in (step, copy.deepcopy(step)):
        assert not hasattr(each, "weights")
        assert each.engine == step.engine


@needs_core
def test_a_layer_that_left_the_engine_is_told():
    layer = make(engine="auto")
    step = layer.stepper()
    layer.half()
    with pytest.raises(cw.ArgumentError, match="has left the native engine"):
        step.refresh()


def test_a_reference_stepper_sees_its_weights():
    layer = make(engine="reference")
    x = normal(1, 5, seed=1, grad=False)
    step = layer.stepper()
    with torch.no_grad():
        layer.cells[0].f.weight.mul_(2)
        expected, _ = layer(x[None])
    assert not step.stale
    assert torch.equal(step(x), expected[0])


def test_a_reference_stepper_begins_where_the_layer_begins_now():
    layer = make("lstm", learn_initial_state=True, engine="reference")
    x = normal(2, 5, seed=1, grad=False)
    step = layer.stepper(batch_size=2)
    with torch.no_grad():
        for parameter in layer.initial_states.parameters():
            parameter.uniform_(0.5, 1.0)
        expected, _ = layer(x[None])
    assert not step.stale
    step.reset([1])
    found = step(x)
    assert torch.equal(found[1], expected[0, 1])
    assert not torch.equal(found[0], expected[0, 0])
    step.reset()
    assert torch.equal(step(x), expected[0])


# -- threads -----------------------------------------------------------------------


@needs_core
def test_steppers_of_one_layer_run_in_several_threads():
    layer = make(H=40, layers=2)
    xs = [normal(200, 1, 5, seed=n, grad=False) for n in range(3)]
    with torch.no_grad():
        expected = [layer(x)[0] for x in xs]
    found = [None] * len(xs)

    def work(n):
        found[n] = run(layer.stepper(), {"x": xs[n]})

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(xs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine, theirs)


@needs_core
def test_two_threads_at_one_stepper_are_told():
    layer = make(X=512, H=512, layers=4)
    step, x = layer.stepper(8), torch.zeros(8, 512, dtype=torch.float64)
    y = torch.empty(8, 512, dtype=torch.float64)
    errors, stop = [], threading.Event()

    def work(out):
        while not stop.is_set():
            try:
                step(x, out=out)
            except RuntimeError as error:
                errors.append(str(error))
                stop.set()

    threads = [threading.Thread(target=work, args=(y.clone(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    stop.wait(10)
    stop.set()
    for thread in threads:
        thread.join()
    assert "two threads step it at once" in errors[0]


@needs_core
def test_the_example_streams_to_the_same_bits(capsys, monkeypatch):
    path = Path(__file__).parents[1] / "examples" / "stream.py"
    monkeypatch.setattr("sys.argv", [str(path)])
    runpy.run_path(str(path), run_name="__main__")
    printed = capsys.readouterr().out
    assert "300 steps of 160 samples" in printed
    assert "over the whole file: yes" in printed
