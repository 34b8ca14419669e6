"""The native engine beside the reference: one case, every value and gradient."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

import cellwright as cw
from cellwright.engine.call import Call
from cellwright.engine.choice import ENGINES
from cellwright.engine.programs import Programs
from cellwright.engine.schedule import SequenceBatch
from oracles import flat, normal, random_cotangents, randomise

EXTRA_SIZES = {"proj_size": 6}
# A step of several layers: each amplifies the rounding of the one before.
SMALLER = {"cfc": 0.25}


def make_layer(cell, X, H, dtype=torch.float64, isa="", scale=0.25, **options):
    """A native layer with asymmetric weights, on one instruction set."""
    cell = cw.cells.get(cell) if isinstance(cell, str) else cell
    extra = {n: v for n, v in EXTRA_SIZES.items() if n in cell.graph.size_names}
    layer = cw.Recurrent(cell, X, H, engine="native", dtype=dtype, **extra, **options)
    scale *= SMALLER.get(cell.name, 1.0)
    randomise(layer, scale=scale / max(1.0, (H / 8) ** 0.5))
    replace_programs(layer, isa=isa)
    return layer


def replace_programs(layer, binding=None, **options) -> None:
    """Run a `Recurrent` on other programs: other options, or another binding."""
    for cells in (layer._modes.evaluation, layer._modes.training):
        for k, bound in enumerate(cells):
            programs = bound.programs.variant(**options)
            if binding is not None:
                programs = Programs(bound.graph, binding, **options)
            cells[k] = replace(bound, programs=programs)


def make_leaves(layer, T, B, dtype=torch.float64) -> dict[str, Tensor]:
    """x, the named inputs and the initial states, all with gradients."""
    graph = layer.graphs[0]
    leaves = {
        i.name: normal(T, B, i.size, seed=40 + n, grad=False)
        for n, i in enumerate(graph.inputs)
    }
    leaves |= {
        # positive: the sLSTM divides by a state, and near 0 that is chaos
        s.name: 0.3 + 0.5 * normal(B, int(s.size), seed=60 + n, grad=False).abs()
        for n, s in enumerate(graph.states)
    }
    return {n: v.to(dtype).requires_grad_() for n, v in leaves.items()}


def run_engine(layer, leaves, engine, reverse=False):
    """The outputs and final states of the first direction of a layer."""
    graph = layer.graphs[0]
    x = leaves["x"]
    named = {i.name: leaves[i.name] for i in graph.inputs[1:]}
    states = [leaves[s.name] for s in graph.states]
    states = [state[None] for state in states]
    batch = SequenceBatch(*x.shape[:2])
    call = Call(x, named, states, (), batch, reverse)
    y, finals = ENGINES[engine].run(layer.direction(0), call)
    return flat([y, *(final[0] for final in finals)])


def everything(layer, leaves, engine, reverse=False):
    """Every result, and the gradient of every leaf and parameter, by name."""
    wanted = {**leaves, **dict(layer.cells[0].named_parameters())}
    results = run_engine(layer, leaves, engine, reverse)
    cotangents = random_cotangents(results)
    tensors = list(wanted.values())
    found = torch.autograd.grad(results, tensors, cotangents, allow_unused=True)
    named = {f"result {n}": r.detach() for n, r in enumerate(results)}
    for (name, leaf), gradient in zip(wanted.items(), found, strict=True):
        zero = torch.zeros_like(leaf)
        named[f"d.{name}"] = zero if gradient is None else gradient
    return named


def expectation(layer, leaves, reverse=False, relative=1e-10):
    """The reference's results and gradients by name, each with the error allowed.

    Relative to the largest value of each: in float32 sixteen times the reference's own
    worst error against float64, or eps. A step of native may be wrong by more ulps, and
    cells without bounds (`noaf`) amplify what a step adds.
    """
    own = everything(layer, leaves, "reference", reverse)
    if leaves["x"].dtype == torch.float64:
        return {
            name: (value, relative * max(float(value.abs().max()), 1e-3))
            for name, value in own.items()
        }
    double = make_layer(layer.cell, layer.input_size, layer.hidden_size)
    double.load_state_dict({n: v.double() for n, v in layer.state_dict().items()})
    wide = {n: v.detach().double().requires_grad_() for n, v in leaves.items()}
    exact = everything(double, wide, "reference", reverse)
    scales = {n: max(float(v.abs().max()), 1e-3) for n, v in exact.items()}
    # The worst of all: of a few elements the reference may be right by chance.
    own_error = max(
        float((own[n] - v).abs().max()) / scales[n] for n, v in exact.items()
    )
    relative = 16 * max(own_error, torch.finfo(torch.float32).eps)
    assert relative < 0.1, "an error this large would tell nothing"
    return {n: (v, max(relative * scales[n], 1e-9)) for n, v in exact.items()}


def assert_as_expected(layer, leaves, expected, reverse=False):
    """Native is within `expectation`; without gradients it is the same bits."""
    found = everything(layer, leaves, "native", reverse)
    for name, (value, allowed) in expected.items():
        error = float((found[name] - value).abs().max())
        assert error <= allowed, f"{name}: error {error:.1e}, allowed {allowed:.1e}"
    with torch.no_grad():
        alone = run_engine(layer, leaves, "native", reverse)
    for n, result in enumerate(alone):
        assert torch.equal(result, found[f"result {n}"]), f"result {n} without grad"


def assert_native(layer, leaves, reverse=False, relative=1e-10):
    """Native, as the layer is set up, gives what the reference gives."""
    expected = expectation(layer, leaves, reverse, relative)
    assert_as_expected(layer, leaves, expected, reverse)


def assert_dynamics_carry(layer, leaves):
    """Or a test of many steps would test the last few: ∂(last)/∂h0 is not tiny."""
    first = leaves[layer.graphs[0].states[0].name]
    y = run_engine(layer, leaves, "reference")[0]
    (gradient,) = torch.autograd.grad(y[-1].sum(), first)
    assert gradient.abs().max() > 1e-6
