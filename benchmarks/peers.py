"""The peers: each turns a case, a shape and a layer of ours into two callables.

A peer is a function of a `Job` that returns `{"inference": call, "training": call}`.
A call of "inference" returns y; one of "training" returns y and the gradient of x.
Every weight's gradient is computed, too. A peer that has no such cell returns {}.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from cases import Case, Shape
from torch import Tensor, nn

Calls = dict[str, Callable[[], Any]]


@dataclass
class Job:
    """One cell at one shape: our layer, and what goes in.

    Attributes:
        x: (T, B, I), with a gradient, as behind an embedding.
        cotangent: (T, B, H), of y.
    """

    case: Case
    shape: Shape
    layer: nn.Module
    x: Tensor
    cotangent: Tensor
    threads: int

    @classmethod
    def make(cls, case: Case, shape: Shape, threads: int) -> Job:
        torch.manual_seed(0)
        layer = case.layer(shape.inputs, shape.hidden)
        x = torch.randn(shape.steps, shape.batch, shape.inputs, requires_grad=True)
        cotangent = torch.randn(shape.steps, shape.batch, shape.hidden)
        return cls(case, shape, layer, x, cotangent, threads)

    def zeros(self) -> tuple[Tensor, ...]:
        shape = self.shape.batch, self.shape.hidden
        return tuple(torch.zeros(shape) for _ in range(self.case.states))


def of_module(module: nn.Module, job: Job) -> Calls:
    """A torch module called as users call it."""
    leaves = [job.x, *module.parameters()]

    def inference() -> Tensor:
        with torch.no_grad():
            return module(job.x)[0]

    def training() -> tuple[Tensor, Tensor]:
        y = module(job.x)[0]
        return y, torch.autograd.grad(y, leaves, job.cotangent)[0]

    return {"inference": inference, "training": training}


def ours(job: Job) -> Calls:
    return of_module(job.layer, job)


def torch_nn(job: Job) -> Calls:
    if job.case.torch_layer is None:
        return {}
    module = job.case.torch_layer(job.shape.inputs, job.shape.hidden)
    module.load_state_dict(job.layer.state_dict())
    return of_module(module, job)


# -- the loop in PyTorch -------------------------------------------------------------


class TorchOps:
    """`xp` of the steps in `cases`, on tensors."""

    addmm = staticmethod(torch.addmm)
    addcmul = staticmethod(torch.addcmul)
    sigmoid = staticmethod(torch.sigmoid)
    tanh = staticmethod(torch.tanh)
    lerp = staticmethod(torch.lerp)
    softsign = staticmethod(nn.functional.softsign)

    @staticmethod
    def chunk(v: Tensor, count: int) -> tuple[Tensor, ...]:
        return v.chunk(count, 1)

    @staticmethod
    def split(v: Tensor, *units: int) -> tuple[Tensor, ...]:
        """Parts of so many gates each; one gate is left for the last."""
        width = v.shape[1] // (sum(units) + 1)
        return v.split([*(n * width for n in units), width], 1)

    @staticmethod
    def twice(v: Tensor) -> Tensor:
        return torch.cat([v, v], 1)


class Loop(nn.Module):
    """The cell stepped in PyTorch: input products first, then the time loop."""

    def __init__(self, job: Job, run: Any = None) -> None:
        super().__init__()
        self.case, self.initial = job.case, job.zeros()
        weights = job.case.pack(job.layer)
        self.weights = nn.ParameterDict(
            {name: nn.Parameter(w.detach().clone()) for name, w in weights.items()}
        )
        self.run = run or steps

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        weights = dict(self.weights.items())
        return self.run(self.case, x, self.initial, weights)


def steps(
    case: Case, x: Tensor, states: tuple[Tensor, ...], w: dict[str, Tensor]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    length, batch, _ = x.shape
    flat = x.reshape(length * batch, -1)
    products = [torch.addmm(w[b], flat, w[m]) for m, b in case.inputs]
    rows = [u.view(length, batch, -1).unbind(0) for u in products]
    outputs = []
    for u in zip(*rows, strict=True):
        states = case.step(TorchOps, u, states, w)
        outputs.append(states[0])
    return torch.stack(outputs), states


def loop(job: Job) -> Calls:
    return of_module(Loop(job), job)


# -- torch.compile -------------------------------------------------------------------


# Unrolled whole, a loop takes a second and more per step and thread to compile: shapes
# with few steps of the cells that torch.nn does not have.
COMPILED_CELLS = ("peephole_diagonal", "coupled", "gru_bias", "own")
COMPILED_STEPS = 50


def compiled(job: Job) -> Calls:
    """torch.compile of that loop, unrolled whole; training only."""
    few = job.shape.steps <= COMPILED_STEPS and job.shape.hidden < 1024
    if job.case.name not in COMPILED_CELLS or not few:
        return {}
    torch._dynamo.reset()
    warnings.filterwarnings("ignore", "dynamo_pgo force disabled")
    run = torch.compile(steps, fullgraph=True, dynamic=False)
    return {"training": of_module(Loop(job, run), job)["training"]}


# -- JAX -----------------------------------------------------------------------------


def jax_ops() -> Any:
    """`xp` of the steps in `cases`, on JAX's arrays; XLA fuses what is pointwise."""
    import jax
    import jax.numpy as jnp

    def split(v: Any, *units: int) -> list[Any]:
        width = v.shape[1] // (sum(units) + 1)
        return jnp.split(v, np.cumsum(units) * width, axis=1)

    class JaxOps:
        sigmoid, tanh, softsign = jax.nn.sigmoid, jnp.tanh, jax.nn.soft_sign

    JaxOps.addmm = staticmethod(lambda u, h, w: u + h @ w)
    JaxOps.addcmul = staticmethod(lambda a, b, c: a + b * c)
    JaxOps.lerp = staticmethod(lambda a, b, w: a + w * (b - a))
    JaxOps.chunk = staticmethod(lambda v, n: jnp.split(v, n, axis=1))
    JaxOps.split = staticmethod(split)
    JaxOps.twice = staticmethod(lambda v: jnp.concatenate([v, v], 1))
    return JaxOps


def jax_scan(job: Job) -> Calls:
    """Jitted `lax.scan`; training is value and gradient of one jitted function."""
    import jax

    xp, case = jax_ops(), job.case
    weights = {n: _jax(w) for n, w in case.pack(job.layer).items()}
    x, cotangent = _jax(job.x), _jax(job.cotangent)
    zeros = tuple(_jax(z) for z in job.zeros())

    def outputs(w: Any, x: Any) -> Any:
        products = tuple(x @ w[m] + w[b] for m, b in case.inputs)

        def step(states: Any, u: Any) -> Any:
            states = tuple(case.step(xp, u, states, w))
            return states, states[0]

        return jax.lax.scan(step, zeros, products)[1]

    @jax.jit
    def value_and_grad(w: Any, x: Any) -> Any:
        y, pull = jax.vjp(outputs, w, x)
        return y, pull(cotangent)

    forward = jax.jit(outputs)

    def training() -> Any:
        y, (_, grad_x) = jax.block_until_ready(value_and_grad(weights, x))
        return y, grad_x

    return {
        "inference": lambda: jax.block_until_ready(forward(weights, x)),
        "training": training,
    }


def _jax(t: Tensor) -> Any:
    import jax.numpy as jnp

    return jnp.asarray(t.detach().numpy())


# -- ONNX Runtime --------------------------------------------------------------------


def onnx_runtime(job: Job) -> Calls:
    """ONNX's own recurrent operators, where they have the cell; inference only."""
    import onnxruntime
    from onnx_cells import BUILDERS, model

    if job.case.name not in BUILDERS:
        return {}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.inter_op_num_threads = 1
    # An idle pool that spins would slow the next peer down.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    serialized = model(job.case.name, job.layer, job.shape).SerializeToString()
    session = onnxruntime.InferenceSession(
        serialized, options, providers=["CPUExecutionProvider"]
    )
    feed = {"x": job.x.detach().numpy()}
    return {"inference": lambda: session.run(["y"], feed)[0][:, 0]}


# -- torchrecurrent ------------------------------------------------------------------


def torchrecurrent(job: Job) -> Calls:
    """The package's layers, where it has the cell."""
    if job.case.name != "peephole_diagonal":
        return {}
    from torchrecurrent import PeepholeLSTM

    W = job.layer.cells[0]  # type: ignore[index]
    module = PeepholeLSTM(job.shape.inputs, job.shape.hidden)
    target = module.cells[0]
    with torch.no_grad():
        for k, gate in enumerate(W.get_submodule(n) for n in "ifgo"):
            part = slice(k * job.shape.hidden, (k + 1) * job.shape.hidden)
            target.weight_hh[part] = gate.blocks(0)[0]
            target.weight_ih[part] = gate.blocks(1)[0]
            target.bias_ih[part] = gate.bias
        target.bias_hh.zero_()
        target.weight_ph.copy_(torch.cat([W.p_i, W.p_f, W.p_o]))
    return of_module(module, job)


PEERS: dict[str, Callable[[Job], Calls]] = {
    "cellwright": ours,
    "torch.nn": torch_nn,
    "loop": loop,
    "jax": jax_scan,
    "onnxruntime": onnx_runtime,
    "torchrecurrent": torchrecurrent,
    "compile": compiled,
}
