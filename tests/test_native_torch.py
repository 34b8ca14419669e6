"""The native engine among torch's machinery: compile, export, autograd, threads."""

import copy
import gc
import os
import pickle
import subprocess
import sys
import threading

import pytest
import torch
from torch import nn

import cellwright as cw
from cellwright.engine.native import op
from native_cases import make_layer, make_leaves

core = pytest.importorskip("cellwright._core")


def tensors(state):
    return list(state) if isinstance(state, tuple) else [state]


@pytest.fixture
def layer():
    return cw.Recurrent("gru", 5, 8, 2, bidirectional=True, dtype=torch.float64)


@pytest.fixture
def x():
    return torch.randn(6, 3, 5, dtype=torch.float64, requires_grad=True)


def test_native_is_the_default_on_the_cpu_and_says_so(layer):
    assert layer.engine == "native"
    assert "compiled core" in layer.engine_reason
    assert cw.LSTM(3, 4).engine == "native"
    assert cw.Recurrent("gru", 3, 4, dtype=torch.bfloat16).engine == "native"
    assert cw.Recurrent("gru", 3, 4, dtype=torch.float16).engine == "reference"


def test_a_request_that_cannot_be_met_says_why():
    with pytest.raises(
        cw.language.ArgumentError, match=r"float64 and bfloat16.*float16"
    ):
        cw.Recurrent("gru", 3, 4, engine="native", dtype=torch.float16)
    with pytest.raises(cw.language.ArgumentError, match="received 'fast'"):
        cw.LSTM(3, 4, engine="fast")


def test_the_engine_follows_the_parameters():
    layer = cw.Recurrent("gru", 3, 4)
    assert layer.to(torch.float64).engine == "native"
    assert layer.to(torch.bfloat16).engine == "native"
    assert layer.to(torch.float16).engine == "reference"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("LSTM", {}),
        ("LSTM", {"bias": False}),
        ("LSTM", {"proj_size": 5}),
        ("LSTM", {"num_layers": 2, "bidirectional": True}),
        ("GRU", {}),
        ("GRU", {"bias": False, "batch_first": True}),
        ("RNN", {}),
        ("RNN", {"nonlinearity": "relu", "bidirectional": True}),
    ],
    ids=str,
)
@pytest.mark.parametrize("lengths", [None, [2, 5, 3]])
def test_drop_ins_are_torch_nn(name, options, lengths):
    """Values and gradients; padded and packed."""
    own = getattr(cw, name)(7, 11, dtype=torch.float64, engine="native", **options)
    theirs = getattr(nn, name)(7, 11, dtype=torch.float64, **options)
    theirs.load_state_dict(own.state_dict())
    first = options.get("batch_first", False)
    data = torch.randn(*((3, 5) if first else (5, 3)), 7, dtype=torch.float64)
    found = []
    for module in (own, theirs):
        leaf = data.clone().requires_grad_()
        source = leaf
        if lengths:
            source = nn.utils.rnn.pack_padded_sequence(
                leaf, torch.tensor(lengths), first, enforce_sorted=False
            )
        y, state = module(source)
        results = [y.data if lengths else y, *tensors(state)]
        torch.manual_seed(1)
        cotangents = [torch.randn_like(r) for r in results]
        wanted = [leaf, *module.parameters()]
        found.append([*results, *torch.autograd.grad(results, wanted, cotangents)])
        with torch.no_grad():
            again = module(source)[1]
        for value, expected in zip(tensors(again), results[1:], strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    for value, expected in zip(*found, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)


def test_ten_optimiser_steps_are_torchs():
    torch.manual_seed(3)
    own = cw.LSTM(6, 9)
    theirs = nn.LSTM(6, 9)
    theirs.load_state_dict(own.state_dict())
    x, target = torch.randn(8, 4, 6), torch.randn(8, 4, 9)
    losses = []
    for module in (own, theirs):
        optimiser = torch.optim.Adam(module.parameters(), lr=0.01)
        losses.append([])
        for _ in range(10):
            loss = (module(x)[0] - target).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses[-1].append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


# -- tracing ---------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # torch's own, while it traces
def test_torch_compile_sees_one_op(layer, x):
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    (expected,) = torch.autograd.grad(layer(x)[0].sum(), x)
    (found,) = torch.autograd.grad(compiled(x)[0].sum(), x)
    assert torch.equal(found, expected)
    with torch.no_grad():
        assert torch.equal(compiled(x)[0], layer(x)[0])


@pytest.mark.filterwarnings("ignore")
def test_torch_export(layer, x):
    exported = torch.export.export(layer.eval(), (x.detach(),))
    assert torch.equal(exported.module()(x.detach())[0], layer(x)[0])
    assert any("cellwright.walk" in str(n.target) for n in exported.graph.nodes)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_opcheck(training, packed):
    layer = make_layer("lstm", 5, 8)
    cell = layer.direction(0).bound.programs
    parameters = layer.cells[0].in_order(cell.binding.parameters)
    parameters = [p.detach().clone().requires_grad_(training) for p in parameters]
    shape = (5,) if packed else (4, 2)
    inputs = [torch.randn(*shape, 5, dtype=torch.float64, requires_grad=training)]
    states = [
        torch.randn(2, 8, dtype=torch.float64, requires_grad=training) for _ in range(2)
    ]
    sizes = [2, 2, 1] if packed else []
    sequences = sizes, None, None, False, False  # no lengths, no resets
    arguments = (inputs, states, [], parameters, cell.key, *sequences, training)
    torch.library.opcheck(op._walk_op, arguments)


@pytest.mark.filterwarnings("ignore")
def test_torch_func_goes_to_the_reference(x):
    layer = cw.Recurrent("lstm", 5, 8, dtype=torch.float64)
    xs = torch.randn(3, 4, 2, 5, dtype=torch.float64)
    mapped = torch.func.vmap(lambda v: layer(v)[0])(xs)
    torch.testing.assert_close(mapped[1], layer(xs[1])[0])


# -- autograd --------------------------------------------------------------------------


@cw.cell
def of_weights_of_one_unit(W, x, h):
    return cw.tanh(W.g(W.vector("v", size=1), 2 * W.scalar("a", init=0.5), x, h))


@pytest.mark.parametrize("cell", [cw.cells.lstm, of_weights_of_one_unit])
def test_double_backward_is_right(cell):
    layer = cw.Recurrent(cell, 3, 4, dtype=torch.float64)
    x = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: layer(x)[0], (x,))


def test_backward_twice_gives_the_same_and_writes_nothing_saved(layer, x):
    y, _ = layer(x)
    loss = y.square().sum()
    first = torch.autograd.grad(loss, [x, *layer.parameters()], retain_graph=True)
    again = torch.autograd.grad(loss, [x, *layer.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_an_output_that_is_changed_in_place_is_noticed(x):
    y, _ = cw.Recurrent("lstm", 5, 8, dtype=torch.float64)(x)
    y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_outputs_share_no_memory(x):
    layer = cw.Recurrent("lstm", 5, 8, dtype=torch.float64)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            y, (h, c) = layer(x)
        places = {t.untyped_storage().data_ptr() for t in (y, h, c)}
        assert len(places) == 3


@pytest.mark.parametrize("which", ["y", "h", "c"])
def test_a_loss_on_one_result_alone(which):
    layer = cw.Recurrent("lstm", 5, 8, dtype=torch.float64)
    oracle = cw.Recurrent("lstm", 5, 8, dtype=torch.float64, engine="reference")
    oracle.load_state_dict(layer.state_dict())
    x = torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True)
    found = []
    for module in (layer, oracle):
        y, (h, c) = module(x)
        found.append(torch.autograd.grad({"y": y, "h": h, "c": c}[which].sum(), x)[0])
    torch.testing.assert_close(*found)


def test_frozen_parts_cost_no_error(layer, x):
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    (gradient,) = torch.autograd.grad(layer(x)[0].sum(), x)
    assert gradient.abs().max() > 0


# -- memory and shapes -----------------------------------------------------------------


def test_non_contiguous_expanded_and_empty_inputs(layer):
    wide = torch.randn(5, 3, 12, dtype=torch.float64)[:, :, ::2][:, :, :5]
    assert not wide.is_contiguous()
    assert torch.equal(layer(wide)[0], layer(wide.contiguous())[0])
    thin = torch.randn(5, 1, 5, dtype=torch.float64).expand(5, 4, 5)
    assert torch.equal(layer(thin)[0], layer(thin.contiguous())[0])
    y, state = layer(torch.randn(5, 0, 5, dtype=torch.float64, requires_grad=True))
    assert y.shape == (5, 0, 16)
    y.sum().backward()
    assert state.shape == (4, 0, 8)


def test_autocast_and_inference_mode():
    layer = cw.Recurrent("lstm", 5, 8)
    x = torch.randn(4, 2, 5)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x.bfloat16())[0]
    assert y.dtype == torch.bfloat16
    expected = layer(x.bfloat16().float())[0]
    torch.testing.assert_close(y.float(), expected, atol=0.01, rtol=0.01)
    with torch.inference_mode():
        assert torch.equal(layer(x)[0], layer(x)[0])


def test_pickle_and_deepcopy(layer, x):
    for other in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert other.engine == "native"
        assert torch.equal(other(x)[0], layer(x)[0])


def resident():
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_no_leak_over_ten_thousand_calls():
    layer = cw.Recurrent("lstm", 8, 16)
    x = torch.randn(3, 2, 8)

    def some(count):
        for _ in range(count):
            layer(x)[0].sum().backward()

    some(500)
    gc.collect()
    before = resident()
    some(9500)
    gc.collect()
    assert resident() - before < 4 << 20


def test_several_threads_at_once():
    layer = make_layer("lstm", 16, 64, torch.float32)
    leaves = make_leaves(layer, 20, 32, torch.float32)
    x = leaves["x"].detach()
    with torch.no_grad():
        expected = layer(x)[0]
    wrong = []

    def work():
        with torch.no_grad():
            for _ in range(20):
                if not torch.equal(layer(x)[0], expected):
                    wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_after_a_fork():
    layer = make_layer("lstm", 16, 64, torch.float32)
    x = make_leaves(layer, 10, 32, torch.float32)["x"].detach()
    with torch.no_grad():
        expected = layer(x)[0]
        pid = os.fork()
        if pid == 0:  # the pool's threads are gone here
            os._exit(0 if torch.equal(layer(x)[0], expected) else 1)
    assert os.waitpid(pid, 0)[1] == 0


_ON_A_POOL = """
import hashlib, torch, cellwright as cw
from cellwright.engine.native import info
torch.set_num_threads(2)
torch.manual_seed(0)
layer, x = cw.Recurrent("lstm", 24, 64), torch.randn(30, 40, 24, requires_grad=True)
y, _ = layer(x)
y.square().sum().backward()
tensors = [y.detach(), x.grad, *(p.grad for p in layer.parameters())]
data = b"".join(t.numpy().tobytes() for t in tensors)
print(info()["pool"], hashlib.sha256(data).hexdigest())
"""


def test_torchs_threads_and_a_pool_of_our_own_give_the_same_bits():
    def run(pool):
        command = [sys.executable, "-c", _ON_A_POOL]
        environment = {**os.environ, "CELLWRIGHT_POOL": pool}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.rsplit(maxsplit=1)

    (theirs, shared), (own, alone) = run(""), run("own")
    assert (theirs, own) == ("torch's", "own")
    assert shared == alone
