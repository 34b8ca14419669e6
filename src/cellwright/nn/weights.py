"""The weights of one cell as parameters: `layer.cells[k]`, the `W` of its function."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..engine.engine import BoundCell
from ..engine.torch_layout import pack
from ..language import OPS, ArgumentError, Graph, Weight
from ..language.trace import reserve_weight_names
from ..language.values import Matrix
from .made import changing, is_plain, keepable, make_weights, must_be_called

reserve_weight_names(dir(nn.Module))
reserve_weight_names(("training", "hidden_size", "reset_parameters"))  # of CellWeights


class Affine(nn.Module):
    """`W.f`: an affine map of the concatenation of its operands.

    Attributes:
        gate: its name in the cell.
        weight: (size, Σ operands), or (heads, size/heads, Σ operands/heads); columns
            in the order the operands are written.
        bias: (size,), or `None`.
        columns: the operation that every column of the matrix goes through, or `None`.
        antisymmetric: whether W − Wᵀ of the weight W is what maps.
    """

    antisymmetric = False  # of affines that were pickled before there was the choice

    def __init__(self, spec: Weight, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        shapes = spec.shapes()
        self.gate = spec.name
        self.operands = tuple(int(s) for s in spec.operands)
        self.heads = spec.heads
        self.columns = OPS[spec.columns] if spec.columns else None
        self.antisymmetric = spec.antisymmetric
        self.initial_bias = spec.init
        self.weight = nn.Parameter(
            torch.empty(shapes["weight"], device=device, dtype=dtype)
        )
        if "bias" in shapes:
            self.bias = nn.Parameter(
                torch.empty(shapes["bias"], device=device, dtype=dtype)
            )
        else:
            self.register_parameter("bias", None)

    @property
    def matrix(self) -> Tensor:
        """The matrix that maps: the weight itself, or what is made of it."""
        return self.mapped(self.weight)

    def mapped(self, weight: Tensor) -> Tensor:
        """The matrix that a weight stands for."""
        if self.antisymmetric:
            return weight - weight.mT
        if self.columns is None:
            return weight
        return self.columns(weight.mT).mT  # operations look along the last axis

    @property
    def maps_its_weight(self) -> bool:
        """Whether the weight itself is the matrix that maps."""
        return self.columns is None and not self.antisymmetric

    def forward(
        self, *operands: Tensor, matrix: Tensor | None = None, **options: Any
    ) -> Tensor:
        """Map operands (…, size) each to (…, size).

        The options that the cell's function writes (size=, bias=, heads=, columns=, …)
        are fixed when the layer is made, and not looked at here. `matrix` stands for
        the affine's own, for one call.
        """
        matrix = self.matrix if matrix is None else matrix
        value = affine(operands, matrix, self.bias, self.heads)
        return _as_written(value, options)

    def transposed(self, g: Tensor, operand: int) -> Tensor:
        """One operand's cotangent (…, its size) from the map's, g (…, size)."""
        start = sum(self.operands[:operand])
        columns = slice(start, start + self.operands[operand])
        if self.heads == 1:
            return g @ self.matrix[:, columns]
        columns = slice(columns.start // self.heads, columns.stop // self.heads)
        blocks = g.unflatten(-1, (self.heads, -1))
        matrix = self.matrix[..., columns]
        return torch.einsum("...no,nok->...nk", blocks, matrix).flatten(-2)

    @contextmanager
    def changing_weight(self, *, exactly: bool = False) -> Iterator[Tensor]:
        """The weight, to change in place: see `made.changing`."""
        with changing(self, "weight", exactly=exactly) as weight:
            yield weight

    @contextmanager
    def changing_blocks(self) -> Iterator[list[list[Tensor]]]:
        """For each operand the matrices that it meets, one a head, to change."""
        widths = [o // self.heads for o in self.operands]
        with changing(self, "weight") as weight:
            heads = weight.view(self.heads, -1, sum(widths))
            parts = heads.split(widths, -1)
            yield [list(part.unbind(0)) for part in parts]

    def fill_bias_(self, value: float | Tensor, *, exactly: bool = False) -> None:
        """Set the bias, if there is one, to a number or a (size,) tensor."""
        if self.bias is not None:
            with changing(self, "bias", exactly=exactly) as bias:
                bias.copy_(torch.as_tensor(value))

    def __getstate__(self) -> dict[str, Any]:
        return keepable(super().__getstate__())

    def extra_repr(self) -> str:
        heads = f", heads={self.heads}" if self.heads > 1 else ""
        columns = f", columns={self.columns.name}" if self.columns else ""
        columns = ", antisymmetric=True" if self.antisymmetric else columns
        bias = "" if self.bias is not None else ", bias=False"
        size = self.weight.shape[0] * (self.weight.shape[1] if self.heads > 1 else 1)
        return f"{' + '.join(map(str, self.operands))} → {size}{heads}{bias}{columns}"


def affine(operands: Any, matrix: Tensor, bias: Tensor | None, heads: int) -> Tensor:
    """A matrix, or `heads` blocks of one, on [a, b, …], and a bias."""
    if heads == 1:
        return F.linear(concatenate(operands), matrix, bias)
    blocks = [o.unflatten(-1, (heads, -1)) for o in operands]
    product = torch.einsum("...nk,nok->...no", concatenate(blocks), matrix)
    product = product.flatten(-2)
    return product if bias is None else product + bias


def _as_written(value: Tensor, options: Mapping[str, Any]) -> Any:
    """A map's value; in a cell's function a matrix, where its size says so."""
    return Matrix(value) if isinstance(options.get("size"), tuple) else value


def concatenate(operands: Any) -> Tensor:
    """[a, b, …] along the units; what is made of weights alone, a vector or a number,
    is repeated for every row."""
    operands = [o if o.dim() else o[None] for o in operands]
    if len(operands) == 1:
        return operands[0]
    rows = torch.broadcast_shapes(*(o.shape[:-1] for o in operands))
    return torch.cat([o.expand(*rows, o.shape[-1]) for o in operands], -1)


class CellWeights(nn.Module):
    """Every weight that a cell names: one submodule an affine, one parameter a vector.

    An instance is the `W` that the cell's function takes.
    """

    def __init__(
        self, graph: Graph, hidden_size: int, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self._initial = {w.name: w.init for w in graph.weights if w.kind != "matrix"}
        # Not by torch's methods: they refuse a weight called matrix, a property here.
        for weight in graph.weights:
            if weight.kind == "matrix":
                self._modules[weight.name] = Affine(weight, device, dtype)
            else:
                shape = weight.shapes()[""]
                value = torch.empty(shape, device=device, dtype=dtype)
                self._parameters[weight.name] = nn.Parameter(value)
        if not graph.weights:  # what says its device and dtype, and moves with it
            like = torch.empty(0, device=device, dtype=dtype)
            self.register_buffer("_like", like, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw everything from U(−1/√H, 1/√H), but for declared initial values."""
        bound = 1 / math.sqrt(self.hidden_size)
        affines = affines_of(self)
        places: list[tuple[nn.Module, str]] = [(self, name) for name in self._initial]
        places += [(a, label) for a in affines.values() for label in ("weight", "bias")]
        for owner, label in places:
            if getattr(owner, label) is not None:
                with changing(owner, label) as value:
                    nn.init.uniform_(value, -bound, bound)
        for name, value in self._initial.items():
            if value is not None:
                with changing(self, name) as vector:
                    nn.init.constant_(vector, value)
        for affine in affines.values():
            if affine.initial_bias is not None:
                affine.fill_bias_(affine.initial_bias)

    def first_parameter(self) -> Tensor:
        """Any tensor of it, for its device and dtype; none is made for that."""
        for child in self._modules.values():
            found = child._parameters.get("weight")  # type: ignore[union-attr]
            if found is not None:
                return found
            break
        for tensors in (self._parameters, self._buffers):
            for tensor in tensors.values():
                return tensor  # type: ignore[return-value]
        for parameter in self.parameters():  # a parametrization's
            return parameter
        for gate in affines_of(self).values():  # a replica has plain attributes
            return gate.weight
        return getattr(self, next(iter(self._initial)))

    def __getstate__(self) -> dict[str, Any]:
        return keepable(super().__getstate__())

    def in_order(self, parameters: Iterable[tuple[str, int]]) -> list[Tensor]:
        """The parameters by name (`f.weight`, `p`), whatever wraps them.

        Where a matrix is made of its parameter, the matrix stands for it.
        """
        found = []
        for name, _ in parameters:
            owner: Any = self
            parent, _, label = name.rpartition(".")
            if parent:
                owner = self._modules[parent]
            if label == "weight" and not owner.maps_its_weight:
                found.append(owner.matrix)  # made once a call
                continue
            tensor = owner._parameters.get(label)
            found.append(getattr(owner, label) if tensor is None else tensor)
        return found

    def packed(self, bound: BoundCell) -> list[Tensor]:
        """torch's flat weights, as `bound.layout` packs them."""
        return pack(bound.layout, bound.programs.graph, self)  # type: ignore[arg-type]

    def vector(self, name: str, init: Any = None, size: Any = None) -> Tensor:
        """`W.vector("p", …)` when the cell's function runs on tensors."""
        return getattr(self, name)

    @property
    def matrix(self) -> Any:
        """`W.matrix("A", …)` when the cell's function runs on tensors; in an older
        cell its weight called matrix."""
        own = self._modules.get("matrix", self._parameters.get("matrix"))
        return partial(_matrix, self) if own is None else own

    def scalar(self, name: str, init: Any = None) -> Tensor:
        """`W.scalar("a", …)` when the cell's function runs on tensors."""
        return getattr(self, name)


def _matrix(weights: Any, name: str, init: Any = None, size: Any = None) -> Matrix:
    """A weight (rows, columns), or (heads, rows/heads, columns/heads), as a matrix."""
    weight = getattr(weights, name)
    return Matrix(weight.flatten(), weight.shape[0] if weight.dim() == 3 else 1)


def affines_of(weights: CellWeights) -> dict[str, Affine]:
    """The affine maps of a cell by name, or the modules that a user put there."""
    return {
        name: module  # type: ignore[misc]
        for name, module in weights._modules.items()
        if name != "parametrizations"  # of the vectors
    }


def gates_must_be_called(cells: nn.ModuleList) -> bool:
    """Whether a gate of some `CellWeights` has hooks of its user's, or is his own."""
    for weights in cells._modules.values():  # loops: this is part of every call
        for gate in weights._modules.values():  # type: ignore[union-attr]
            if _must_be_called(gate):
                return True
    return False


_OWN = Affine, nn.ModuleDict  # gates; the parametrizations of vectors


def _must_be_called(gate: Any) -> bool:
    """Hooks and the like; or a module that a user put in the gate's place."""
    return must_be_called(gate) or not isinstance(gate, _OWN)


def first_tensor(cells: nn.ModuleList) -> Tensor:
    """Any tensor of some `CellWeights`, for its device and dtype."""
    for weights in cells._modules.values():  # a list of modules is slow to index
        return weights.first_parameter()  # type: ignore[union-attr, operator]
    raise AssertionError("a layer has weights")


def made(weights: CellWeights) -> CellWeights | MadeWeights:
    """What one call computes with: the weights, each made once, whatever makes it.

    Raises:
        ArgumentError: the parameters are sharded, and nothing gathers them.
    """
    plain = is_plain(weights)
    if plain and not _makes_any(weights):
        return weights
    if not plain:
        _check_gathered(weights)
        make_weights(weights)
    found: dict[str, Any] = {
        name: getattr(weights, name)
        for name in weights._initial
        if name not in weights._parameters
    }
    for name, gate in affines_of(weights).items():
        if not _must_be_called(gate):  # else its call makes them
            found[name] = MadeAffine.of(gate)
    return MadeWeights(weights, found)


def _makes_any(weights: CellWeights) -> bool:
    """Whether something makes a gate's weights."""
    for gate in weights._modules.values():
        itself = getattr(gate, "maps_its_weight", True)
        if not itself or not is_plain(gate):  # type: ignore[arg-type]
            return True
    return False


def _check_gathered(weights: CellWeights) -> None:
    """FSDP2 gathers the parameters of a module when that is called."""
    if any(hasattr(p, "full_tensor") for p in weights.parameters()):
        raise ArgumentError(
            "[fully_shard] the layer is called, and its cells[k] never are, so nothing "
            "gathers their parameters; received sharded ones (DTensor), expected plain "
            "ones. Shard the layer, or a model that holds it: fully_shard(layer)"
        )


class MadeWeights:
    """The weights of a cell for one call, some of them made of its parameters.

    Args:
        weights: the cell's own.
        found: what stands for affines and vectors, by name.
    """

    def __init__(
        self, weights: CellWeights | MadeWeights, found: Mapping[str, Any]
    ) -> None:
        self._weights, self._found = weights, found

    def __getattr__(self, name: str) -> Any:
        found = self._found.get(name)
        return getattr(self._weights, name) if found is None else found

    def in_order(self, parameters: Iterable[tuple[str, int]]) -> list[Tensor]:
        """As `CellWeights.in_order`."""
        tensors = []
        for name, _ in parameters:
            gate, _, label = name.rpartition(".")
            owner = getattr(self, gate) if gate else self
            tensors.append(getattr(owner, "matrix" if label == "weight" else label))
        return tensors

    def packed(self, bound: BoundCell) -> list[Tensor]:
        """As `CellWeights.packed`."""
        return pack(bound.layout, bound.programs.graph, self)  # type: ignore[arg-type]

    def vector(self, name: str, init: Any = None, size: Any = None) -> Tensor:
        """As `CellWeights.vector`."""
        return getattr(self, name)

    @property
    def matrix(self) -> Any:
        """As `CellWeights.matrix`."""
        own = self._found.get("matrix", self._weights.matrix)
        return partial(_matrix, self) if isinstance(own, partial) else own

    def scalar(self, name: str, init: Any = None) -> Tensor:
        """As `CellWeights.scalar`."""
        return getattr(self, name)


class MadeAffine:
    """An affine map for one call, its matrix and bias made.

    Attributes:
        weight, matrix, bias: as an `Affine` has them; the last two map.
    """

    def __init__(
        self, own: Affine | MadeAffine, weight: Tensor, matrix: Tensor
    ) -> None:
        self._own, self.heads, self.bias = own, own.heads, own.bias
        self.weight, self.matrix = weight, matrix

    @staticmethod
    def of(own: Affine) -> MadeAffine:
        """Make everything once."""
        make_weights(own)
        weight = own.weight
        return MadeAffine(own, weight, own.mapped(weight))

    def __call__(self, *operands: Tensor, **options: Any) -> Tensor:
        """As `Affine.forward`; with its user's hooks, where it has any."""
        own = self._own
        if isinstance(own, Affine) and must_be_called(own):
            return own(*operands, matrix=self.matrix, **options)
        value = affine(operands, self.matrix, self.bias, self.heads)
        return _as_written(value, options)
