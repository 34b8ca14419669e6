"""Weights that torch makes of others: made once a call, the same for every engine.

The oracle is a plain layer that is called with weights computed here, from copies of
the originals.
"""

import copy
import pickle
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.utils import parametrizations, parametrize, prune

import cellwright as cw
from cellwright.engine import native
from oracles import assert_close
from oracles import normal as draw

needs_core = pytest.mark.skipif(not native.info()["native"], reason="no compiled core")
ENGINES = [pytest.param("native", marks=needs_core), "torch", "reference"]
T, B, X, H = 5, 2, 3, 4
normal = partial(draw, grad=False)
# torch itself says that its older normalisations are deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.nn.utils.weight_norm. is dep")


class Half(nn.Module):
    def forward(self, weight):
        return weight / 2

    def right_inverse(self, weight):
        return 2 * weight


class NoWayBack(nn.Module):
    def forward(self, weight):
        return weight.abs()


def add_half(module, name):
    parametrize.register_parametrization(module, name, Half())


def prune_some(module, name):
    prune.random_unstructured(module, name, 0.5)


def prune_twice(module, name):
    prune_some(module, name)
    prune.l1_unstructured(module, name, 1)


# -- what each makes, as its paper says --------------------------------------------


def masked(own, kept):
    return kept["mask"] * own["orig"]


def normed(own, kept):
    return own["g"] * own["v"] / own["v"].norm(dim=1, keepdim=True)


def normed_anew(own, kept):
    return normed({"g": own["original0"], "v": own["original1"]}, kept)


def spectral(own, kept, names=("orig", "u", "v"), v_first=True):
    """One step of the power method, on the kept vectors; the weight by its norm."""
    original, u, v = names
    weight = own[original]
    with torch.no_grad():
        for _ in range(2):  # u, then v; or v, then u
            if v_first:
                kept[v] = F.normalize(weight.mT @ kept[u], dim=0, eps=1e-12)
            else:
                kept[u] = F.normalize(weight @ kept[v], dim=0, eps=1e-12)
            v_first = not v_first
    return weight / (kept[u] @ (weight @ kept[v]))


def spectral_anew(own, kept):
    return spectral(own, kept, ("original", "0._u", "0._v"), v_first=False)


def halved(own, kept):
    return own["original"] / 2


MADE = {
    "prune": (prune_some, masked),
    "prune, twice": (prune_twice, masked),
    "weight_norm": (nn.utils.weight_norm, normed),
    "spectral_norm": (nn.utils.spectral_norm, spectral),
    "parametrizations.weight_norm": (parametrizations.weight_norm, normed_anew),
    "parametrizations.spectral_norm": (parametrizations.spectral_norm, spectral_anew),
    "parametrization": (add_half, halved),
}


def recurrent(engine, **options):
    return cw.Recurrent("lstm", X, H, 2, engine=engine, dtype=torch.float64, **options)


def drop_in(engine):
    return cw.LSTM(X, H, 2, engine=engine, dtype=torch.float64)


PLACES = {  # how a layer is made, and which of its weights is made of others
    "gate": (recurrent, "cells.1.g.weight"),
    "drop-in": (drop_in, "weight_hh_l1"),
    "drop-in's first": (drop_in, "weight_ih_l0"),
}


def owner_of(layer, weight):
    module, _, name = weight.rpartition(".")
    return layer.get_submodule(module), name


def split(tensors, weight):
    """A made weight's own tensors by their short names, and the rest by their names."""
    module, _, name = weight.rpartition(".")
    stem = f"{module}." if module else ""
    heads = f"{stem}{name}_", f"{stem}parametrizations.{name}."
    own = {
        key.removeprefix(head): tensor
        for key, tensor in tensors.items()
        for head in heads
        if key.startswith(head) and tensor is not None
    }
    return own, {k: t for k, t in tensors.items() if not k.startswith(heads)}


def trained(layer, x, params, call, cotangents):
    """Values and gradients of three steps of gradient descent."""
    found = []
    for g in cotangents:
        y = call(x)
        grads = torch.autograd.grad(y, [x, *params], g)
        with torch.no_grad():
            for p, grad in zip(params, grads[1:], strict=True):
                p.sub_(0.3 * grad)
        found += [y, *grads]
    return found


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("how", MADE)
def test_a_made_weight_trains_on_every_engine(how, place, engine):
    (apply, formula), (make, weight) = MADE[how], PLACES[place]
    layer, plain = make(engine), make("reference")
    plain.load_state_dict(layer.state_dict())
    apply(*owner_of(layer, weight))
    params = dict(layer.named_parameters())
    copies = {n: p.detach().clone().requires_grad_() for n, p in params.items()}
    kept, _ = split({n: b.clone() for n, b in layer.named_buffers()}, weight)

    def expected(x):
        own, rest = split(copies, weight)
        return functional_call(plain, {**rest, weight: formula(own, kept)}, (x,))[0]

    x = normal(T, B, X, seed=1).requires_grad_()
    cotangents = [normal(T, B, H, seed=n) for n in range(3)]
    right = trained(plain, x, list(copies.values()), expected, cotangents)
    got = trained(layer, x, list(params.values()), lambda x: layer(x)[0], cotangents)
    assert layer.engine == engine
    for a, b in zip(got, right, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("engine", ["reference", ENGINES[0]])
@pytest.mark.parametrize("how", ["prune", "parametrization"])
@pytest.mark.parametrize(
    "weight", ["cells.0.f.bias", "cells.0.p_f", "initial_states.0.h"]
)
def test_made_biases_vectors_and_initial_states(weight, how, engine):
    (apply, formula) = MADE[how]

    def make(engine):
        options = {"learn_initial_state": True, "dtype": torch.float64}
        return cw.Recurrent("peephole_diagonal", X, H, engine=engine, **options)

    layer, plain = make(engine), make("reference")
    with torch.no_grad():  # the initial states are 0, and would stay it
        for p in layer.parameters():
            p.copy_(torch.randn_like(p))
    plain.load_state_dict(layer.state_dict())
    apply(*owner_of(layer, weight))
    params = dict(layer.named_parameters())
    copies = {n: p.detach().clone().requires_grad_() for n, p in params.items()}
    kept, _ = split(dict(layer.named_buffers()), weight)
    resets = torch.rand(T, B) < 0.3

    def expected(x):
        own, rest = split(copies, weight)
        made = {**rest, weight: formula(own, kept)}
        return functional_call(plain, made, (x,), {"resets": resets})[0]

    x = normal(T, B, X, seed=1).requires_grad_()
    cotangents = [normal(T, B, H, seed=n) for n in range(3)]
    right = trained(plain, x, list(copies.values()), expected, cotangents)
    call = lambda x: layer(x, resets=resets)[0]  # noqa: E731
    got = trained(layer, x, list(params.values()), call, cotangents)
    for a, b in zip(got, right, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("engine", ["reference", ENGINES[0]])
def test_trees_make_theirs_too(engine):
    forest = cw.Forest.from_parents([4, 4, 5, 5, 6, 6, -1])

    def make(engine):
        return cw.TreeRecurrent("binary_lstm", X, H, engine=engine, dtype=torch.float64)

    layer, plain, weight = make(engine), make("reference"), "cells.0.u.weight"
    plain.load_state_dict(layer.state_dict())
    prune_some(*owner_of(layer, weight))
    params = dict(layer.named_parameters())
    copies = {n: p.detach().clone().requires_grad_() for n, p in params.items()}
    kept, _ = split(dict(layer.named_buffers()), weight)

    def expected(x):
        own, rest = split(copies, weight)
        made = {**rest, weight: masked(own, kept)}
        return functional_call(plain, made, (x, forest))[0]

    x = normal(len(forest.inputs), X, seed=1).requires_grad_()
    cotangents = [normal(forest.nodes, H, seed=n) for n in range(2)]
    right = trained(plain, x, list(copies.values()), expected, cotangents)
    call = lambda x: layer(x, forest)[0]  # noqa: E731
    got = trained(layer, x, list(params.values()), call, cotangents)
    for a, b in zip(got, right, strict=True):
        assert_close(a, b)


def made_layer(place="gate", how="prune", engine="native", **options):
    make, weight = PLACES[place]
    layer = make(engine, **options)
    MADE[how][0](*owner_of(layer, weight))
    return layer


def shrink(layer):
    """What an optimiser's step does, without a call after it."""
    with torch.no_grad():
        for p in layer.parameters():
            p.mul_(0.7)


both_places = pytest.mark.parametrize("place", ["gate", "drop-in"])
HOOKED = ["prune", "weight_norm", "spectral_norm"]


@needs_core
@both_places
@pytest.mark.parametrize("how", HOOKED)
def test_whoever_reads_a_made_weight_reads_it_fresh(how, place):
    layer = made_layer(place, how).eval()
    x = normal(T, B, X, seed=1)
    steps = [layer.stepper(B), made_layer(place, how, "reference").eval().stepper(B)]
    steps[1].layer.load_state_dict(layer.state_dict())
    layer(x)
    shrink(layer)
    shrink(steps[1].layer)
    assert steps[0].stale
    if place == "gate":
        taken = cw.to_torch(layer)
    else:
        taken = cw.from_torch(layer)
        views = [layer.cells[1].f.weight_hh.clone(), layer.cells[1].f.weight.clone()]
    for step in steps:
        step.refresh()
    with torch.no_grad():
        y = layer(x)[0]
        assert_close(taken(x)[0], y)
        for step in steps:
            assert_close(torch.stack([step(now) for now in x]), y)
    if place == "drop-in":
        assert torch.equal(views[0], layer.weight_hh_l1[H : 2 * H])
        assert torch.equal(views[1][:, :H], views[0])


@needs_core
@both_places
@pytest.mark.parametrize("how", ["spectral_norm", "parametrizations.spectral_norm"])
def test_making_a_stepper_does_not_make_it_stale(how, place):
    """In training the norms move their buffers whenever a weight is made."""
    step = made_layer(place, how, "native").train().stepper(B)
    assert not step.stale
    step.refresh()
    assert not step.stale


@needs_core
def test_pruning_under_a_stepper_makes_it_stale():
    layer = recurrent("native")
    step = layer.stepper()
    prune_some(layer.cells[0].f, "weight")  # the original keeps its memory
    assert step.stale


@needs_core
@both_places
@pytest.mark.parametrize("how", HOOKED)
def test_layers_with_made_weights_are_copied_and_pickled(how, place):
    layer, x = made_layer(place, how), normal(T, B, X, seed=1)
    layer(x)[0].sum().backward()
    layer.eval()
    y = layer(x)[0]
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x)[0], y)
        shrink(other)
        assert (other(x)[0] - y).abs().max() > 1e-3
        assert torch.equal(layer(x)[0], y)


@needs_core
@both_places
@pytest.mark.parametrize("how", HOOKED)
def test_checkpoints_of_made_weights_are_loaded(how, place):
    layer, other = made_layer(place, how).eval(), made_layer(place, how).eval()
    x = normal(T, B, X, seed=1)
    before = other(x)[0]
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x)[0], layer(x)[0])
    assert not torch.equal(before, layer(x)[0])
    double = made_layer(place, how).float().eval()
    double.load_state_dict(layer.state_dict())
    double.double()  # what the hook made before is float still
    assert_close(double(x)[0], made_as_float(layer)(x)[0])


def made_as_float(layer):
    return copy.deepcopy(layer).float().double()


@needs_core
@both_places
def test_removed_pruning_leaves_a_parameter(place):
    layer, x = made_layer(place), normal(T, B, X, seed=1)
    y = layer(x)[0]
    owner, name = owner_of(layer, PLACES[place][1])
    prune.remove(owner, name)
    assert torch.equal(layer(x)[0], y)
    shrink(layer)
    assert (layer(x)[0] - y).abs().max() > 1e-3


@needs_core
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch's
@both_places
@pytest.mark.parametrize("how", ["prune", "weight_norm"])
def test_ensembles_of_made_weights_are_mapped(how, place):
    models = [made_layer(place, how) for _ in range(3)]
    x = normal(T, B, X, seed=1)
    stacked = stack_module_state(models)
    each = torch.stack([m(x)[0] for m in models])
    mapped = vmap(lambda p, b: functional_call(models[0], (p, b), (x,))[0])(*stacked)
    assert_close(mapped, each)


@needs_core
@pytest.mark.parametrize("how", ["prune", "spectral_norm", "parametrization"])
def test_made_weights_are_compiled(how):
    layer, x = made_layer(how=how).eval(), normal(T, B, X, seed=1)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        assert_close(compiled(x)[0], layer(x)[0])
        shrink(layer)


@needs_core
def test_recording_and_weight_drop_read_what_was_made():
    layers = [made_layer(engine=e, weight_drop=0.4) for e in ("native", "reference")]
    layers[1].load_state_dict(layers[0].state_dict())
    for layer in layers:
        layer(normal(T, B, X, seed=1))
        shrink(layer)
    found = []
    for layer in layers:
        torch.manual_seed(3)
        with cw.record(layer) as values:
            y = layer(normal(T, B, X, seed=1))[0]
        g = normal(T, B, H, seed=2)
        grads = torch.autograd.grad(y, list(layer.parameters()), g)
        found.append([y, values["1.g"], *grads])
    for a, b in zip(*found, strict=True):
        assert_close(a, b)


# -- hooks of the user's -----------------------------------------------------------


def add(module, operands, y):
    return y + 0.3


def raise_bias(layer, gate):
    """The same as `add` of every output, for a layer without hooks."""
    other = copy.deepcopy(layer)
    with torch.no_grad():
        other.get_submodule(gate).bias.add_(0.3)
    return other


reference_now = pytest.warns(UserWarning, match=r"cellwright\.record\(layer\)")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_forward_hook_on_a_gate_runs(engine):
    layer, x = recurrent(engine), normal(T, B, X, seed=1)
    y = layer(x)[0]
    expected = raise_bias(layer, "cells.1.f")(x)[0]
    handle = layer.cells[1].f.register_forward_hook(add)
    assert layer.engine == "reference"
    if engine == "reference":
        assert_close(layer(x)[0], expected)
        return
    assert "hooks" in layer.engine_reason
    with reference_now:
        assert_close(layer(x)[0], expected)
    assert_close(layer(x)[0], expected)  # without another warning
    with cw.record(layer) as values:
        assert_close(layer(x)[0], expected)
    assert_close(values["1.h"], expected)
    step = layer.stepper(B)
    assert step.engine == "reference"
    assert_close(torch.stack([step(now) for now in x]), expected)
    handle.remove()
    assert layer.engine == engine
    assert_close(layer(x)[0], y)


def add_before(module, operands):
    return (operands[0] + 0.3, *operands[1:])


def patched(layer, gate):
    module = layer.get_submodule(gate)
    forward = module.forward
    module.forward = lambda *operands, **options: forward(*operands, **options) + 0.3


def look_back(gate, seen):
    gate.register_full_backward_hook(lambda m, into, out: seen.append(out[0]))


def look_back_before(gate, seen):
    gate.register_full_backward_pre_hook(lambda m, out: seen.append(out[0]))


def change_operands(gate, seen):
    gate.register_forward_pre_hook(add_before)


@needs_core
@pytest.mark.parametrize(
    ("change", "calls"),
    [(look_back, T), (look_back_before, T), (change_operands, 0)],
)
def test_other_hooks_on_a_gate_run(change, calls):
    layer, expected = recurrent("native"), recurrent("reference")
    expected.load_state_dict(layer.state_dict())
    x, g, seen = draw(T, B, X, seed=1), normal(T, B, H, seed=2), []
    change(layer.cells[0].f, seen)
    if not calls:  # h + 0.3 for h: a bias that is raised by 0.3 Σ columns
        with torch.no_grad():
            f = expected.cells[0].f
            f.bias.add_(0.3 * f.weight[:, :H].sum(1))
    with reference_now:
        y = layer(x)[0]
    right = expected(x)[0]
    assert_close(y, right)
    bias = layer.cells[0].f.bias
    _, grad = torch.autograd.grad(y, [x, bias], g)
    assert len(seen) == calls
    if calls:  # the gradient of the bias is the sum of what came by
        assert_close(grad, torch.cat(seen).sum(0))


@needs_core
def test_a_patched_forward_of_a_gate_runs():
    layer, x = recurrent("native"), normal(T, B, X, seed=1)
    expected = raise_bias(layer, "cells.0.o")(x)[0]
    patched(layer, "cells.0.o")
    with reference_now:
        assert_close(layer(x)[0], expected)


class LowRank(nn.Module):
    """A gate that is fine-tuned (Hu et al. 2021)."""

    def __init__(self, gate):
        super().__init__()
        self.gate = gate.requires_grad_(False)
        self.down = nn.Parameter(normal(2, X + H, seed=3))
        self.up = nn.Parameter(normal(H, 2, seed=4))

    def forward(self, *operands, **options):
        change = torch.cat(operands, -1) @ self.down.mT @ self.up.mT
        return self.gate(*operands, **options) + change


@needs_core
def test_a_module_in_a_gates_place_runs():
    layer = cw.Recurrent("lstm", X, H, dtype=torch.float64)
    x, plain = normal(T, B, X, seed=1), copy.deepcopy(layer)
    layer.cells[0].i = gate = LowRank(layer.cells[0].i)
    with torch.no_grad():
        plain.cells[0].i.weight.add_(gate.up @ gate.down)
    with reference_now:
        assert_close(layer(x)[0], plain(x)[0])
    with cw.record(layer) as values:
        layer(x)
    assert_close(values["h"], plain(x)[0])


@needs_core
def test_hooks_run_on_trees_and_with_weight_drop():
    forest = cw.Forest.from_parents([4, 4, 5, 5, 6, 6, -1])
    tree = cw.TreeRecurrent("binary_lstm", X, H, dtype=torch.float64)
    x = normal(len(forest.inputs), X, seed=1)
    expected = raise_bias(tree, "cells.0.i")(x, forest)[0]
    tree.cells[0].i.register_forward_hook(add)
    with reference_now:
        assert_close(tree(x, forest)[0], expected)

    layer, x = recurrent("native", weight_drop=0.4), normal(T, B, X, seed=1)
    other = raise_bias(layer, "cells.0.f")
    torch.manual_seed(3)
    expected = other(x)[0]
    layer.cells[0].f.register_forward_hook(add)
    torch.manual_seed(3)
    with reference_now:
        assert_close(layer(x)[0], expected)


@needs_core
def test_hooks_on_the_layer_choose_no_engine():
    layer, x = recurrent("native"), normal(T, B, X, seed=1)
    y, calls = layer(x)[0], []
    layer.register_forward_hook(lambda m, i, o: calls.append(o))
    assert torch.equal(layer(x)[0], y)
    assert len(calls) == 1
    assert layer.engine == "native"


# -- several processes -------------------------------------------------------------


@pytest.fixture
def mesh(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    yield torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


@needs_core
@pytest.mark.filterwarnings("ignore")  # torch's, of its own FSDP on a CPU
@both_places
def test_sharded_layers_run_and_train(place, mesh):
    from torch.distributed.fsdp import fully_shard

    make, _ = PLACES[place]
    layer, plain = make("native"), make("reference")
    plain.load_state_dict(layer.state_dict())
    fully_shard(layer, mesh=mesh)
    x, g = normal(T, B, X, seed=1), normal(T, B, H, seed=2)
    y, right = layer(x)[0], plain(x)[0]
    assert layer.engine == "native"
    assert_close(y, right)
    y.backward(g)
    right.backward(g)
    expected = dict(plain.named_parameters())
    for name, p in layer.named_parameters():
        assert_close(whole(p.grad), expected[name].grad)
    with pytest.raises(cw.ArgumentError, match=r"DTensor.*layer\.unshard\(\)"):
        layer.stepper()
    layer.unshard()
    assert_close(layer.stepper(B)(x[0]), y.detach()[0])


@needs_core
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("engine", ["native", "reference"])
def test_a_sharded_cell_of_a_layer_is_refused(engine, mesh):
    from torch.distributed.fsdp import fully_shard

    layer = recurrent(engine)
    fully_shard(layer.cells[1], mesh=mesh)
    with pytest.raises(cw.ArgumentError, match=r"fully_shard\(layer\)"):
        layer(normal(T, B, X, seed=1))


@needs_core
def test_tensors_that_are_distributed_are_refused(mesh):
    forest = cw.Forest.from_parents([2, 2, -1])
    tree = cw.TreeRecurrent("binary_lstm", X, H, dtype=torch.float64)
    layers = [recurrent("native"), drop_in("native")]
    calls = [lambda m: m(normal(T, B, X, seed=1))] * 2
    calls += [lambda m: m(normal(len(forest.inputs), X, seed=1), forest)]
    for layer, call in zip([*layers, tree], calls, strict=True):
        torch.distributed.tensor.distribute_module(layer, mesh)
        with pytest.raises(cw.ArgumentError, match="received DTensor"):
            call(layer)


# -- writing -----------------------------------------------------------------------


def gates(layer):
    """f's matrix on [h, x] in every layer, as it is now."""
    layer(normal(T, B, X, seed=1))  # hooks make it in a call
    return [weights.f.weight.detach().clone() for weights in layer.cells]


PLAIN = ["prune", "weight_norm", "parametrizations.weight_norm", "parametrization"]


@pytest.mark.parametrize("engine", ["reference", ENGINES[0]])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("how", PLAIN)
def test_initialisers_write_through_what_makes_a_weight(how, place, engine):
    make, weight = PLACES[place]
    layer, plain = make(engine), make(engine)
    plain.load_state_dict(layer.state_dict())
    owner, name = owner_of(layer, weight)
    MADE[how][0](owner, name)
    for init in (cw.init.glorot_, cw.init.orthogonal_, cw.init.identity_):
        for each in (layer, plain):
            torch.manual_seed(5)
            assert init(each) is each
        layer(normal(T, B, X, seed=1))
        kept = dict(layer.named_buffers()).get(f"{weight}_mask", 1)
        right = getattr(owner_of(plain, weight)[0], name) * kept
        assert_close(getattr(owner, name), right)
        expected = functional_call(plain, {weight: right}, normal(T, B, X, seed=1))[0]
        assert_close(layer(normal(T, B, X, seed=1))[0], expected)


@pytest.mark.parametrize("how", PLAIN)
def test_biases_and_draws_go_through_too(how):
    if "norm" in how:  # of rows; a bias has none
        return
    layer, plain = (recurrent("reference") for _ in range(2))
    gate = layer.cells[1].f
    MADE[how][0](gate, "bias")
    kept = getattr(gate, "bias_mask", 1)
    cw.init.forget_bias_(layer, 1.5)
    assert torch.equal(gate.bias, torch.full((H,), 1.5, dtype=torch.float64) * kept)
    for each in (layer, plain):
        torch.manual_seed(5)
        each.reset_parameters()
    assert_close(gate.bias, plain.cells[1].f.bias * kept)


@pytest.mark.parametrize("how", ["weight_norm", "parametrizations.weight_norm"])
def test_keras_weights_are_written_into_a_made_weight(how):
    arrays = {
        "kernel": normal(X, 4 * H, seed=1).numpy(),
        "recurrent_kernel": normal(H, 4 * H, seed=2).numpy(),
        "bias": normal(4 * H, seed=3).numpy(),
    }
    layer = cw.Recurrent("lstm", X, H, dtype=torch.float64)
    MADE[how][0](layer.cells[0].f, "weight")
    cw.from_keras_weights(layer, arrays)
    x = normal(T, B, X, seed=1)
    assert_close(layer(x)[0], cw.from_keras_weights("lstm", arrays)(x)[0])
    spectral = cw.Recurrent("lstm", X, H, dtype=torch.float64)
    parametrizations.spectral_norm(spectral.cells[0].f, "weight")
    with pytest.raises(cw.ArgumentError, match=r"f\.weight is made of another.*remove"):
        cw.from_keras_weights(spectral, arrays)


def lose(gate):
    made = (gate.weight * 1).detach()
    del gate.weight
    gate.weight = made
    gate.register_forward_pre_hook(lambda m, i: setattr(m, "weight", made * 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda gate: parametrize.register_parametrization(
                gate, "weight", NoWayBack()
            ),
            r"f\.weight is parametrized and cannot be assigned: .*right_inverse",
        ),
        (lose, r"f\.weight is no parameter, and what makes it is not known"),
    ],
)
def test_a_weight_that_cannot_be_written_is_an_error(change, message):
    layer = recurrent("reference")
    change(layer.cells[0].f)
    with pytest.raises(cw.ArgumentError, match=message):
        cw.init.orthogonal_(layer)


@needs_core
@both_places
def test_steppers_see_that_initialisers_wrote(place):
    layer = PLACES[place][0]("native")
    for init in (cw.init.orthogonal_, cw.init.forget_bias_):
        step = layer.stepper()
        assert not step.stale
        init(layer)
        assert step.stale


def test_biases_that_are_made_reach_torch():
    layer = cw.Recurrent("lstm", X, H, dtype=torch.float64, engine="reference")
    for gate in layer.cells[0].children():
        prune_some(gate, "bias")
    x = normal(T, B, X, seed=1)
    assert_close(cw.to_torch(layer)(x)[0], layer(x)[0])
