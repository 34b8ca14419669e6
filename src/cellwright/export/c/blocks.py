"""What a model consists of: blocks in a row, each a graph with its weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...compiler.bindings import Binding, own_parameters
from ...compiler.once import Once, made_once
from ...engine.bound_weights import BoundWeights
from ...language import ArgumentError, Graph, ops
from ...language.cell import Cell, cell
from ...language.expand import expanded
from ...nn.convert import from_torch
from ...nn.layer import SequenceLayer, plain_layer
from ...nn.made import computes_otherwise, make_weights
from ...nn.stepper import Stepper
from ...nn.weights import gates_must_be_called
from .operations import KNOWN


@cell
def linear(W, x):
    return W.h(x)


@cell
def linear_without_bias(W, x):
    return W.h(x, bias=False)


# Modules that are one operation, and those that do nothing in evaluation.
_ACTIVATIONS = {
    nn.Tanh: cell(lambda W, x: ops.tanh(x)),
    nn.Sigmoid: cell(lambda W, x: ops.sigmoid(x)),
    nn.ReLU: cell(lambda W, x: ops.relu(x)),
}
_NOTHING = nn.Identity, nn.Dropout


@dataclass(frozen=True, eq=False)
class Block:
    """A layer of a model: its step, in operations that C has, and its weights.

    Attributes:
        title: what it is, for the header's comment.
        equations: the same as equations.
        graph: with concrete sizes.
        binding, parameters: its weights, in float32.
        initial: (size,) a state.
        once: where its cell looks at items: what is made of them once, and the step.
    """

    title: str
    equations: Sequence[str]
    graph: Graph
    binding: Binding
    parameters: Sequence[Tensor]
    initial: Sequence[np.ndarray]
    once: Once | None = None

    def matrix(self, weight: str, operand: int) -> np.ndarray:
        """What one operand meets: (heads, rows, columns)."""
        piece, heads = self.binding.matrices[weight, operand], self.heads(weight)
        spec = self.graph.weight(weight)
        rows, columns = (
            int(s) // heads for s in (spec.size, self._width(weight, operand))
        )
        strides = (rows * piece.stride, piece.stride, 1)
        flat = self.parameters[piece.parameter].reshape(-1)
        whole = flat.as_strided((heads, rows, columns), strides, piece.offset)
        return whole.numpy()

    def _width(self, weight: str, operand: int) -> Any:
        return self.graph.weight(weight).operands[operand]

    def heads(self, weight: str) -> int:
        return self.graph.weight(weight).heads

    def bias(self, weight: str) -> np.ndarray | None:
        """(size,), or `None`; of a drop-in the sum of two."""
        pieces = self.binding.biases.get(weight, ())
        size = int(self.graph.weight(weight).size)
        vectors = [self._vector(piece, size) for piece in pieces]
        return sum(vectors[1:], vectors[0]) if vectors else None

    def vector(self, weight: str) -> np.ndarray:
        """(size,), or (1,)."""
        size = int(self.graph.weight(weight).size)
        return self._vector(self.binding.vectors[weight], size)

    def _vector(self, piece: Any, size: int) -> np.ndarray:
        flat = self.parameters[piece.parameter].reshape(-1)
        count = size if piece.stride else 1
        return flat[piece.offset : piece.offset + count].numpy()

    @cached_property
    def exact_weights(self) -> BoundWeights:
        """A `W` of the same weights in float64."""
        wide = [p.double() for p in self.parameters]
        return BoundWeights(self.graph, self.binding, wide)


def modules_of(model: Any) -> list[nn.Module]:
    """The modules that a model runs, one after another.

    Raises:
        ArgumentError: it is no such model.
    """
    if isinstance(model, Stepper):
        return [model.layer]  # type: ignore[list-item]
    model = plain_layer(model)
    if isinstance(model, nn.Module):
        _check_known(model)
    if isinstance(model, nn.Sequential):
        return [found for part in model for found in modules_of(part)]
    in_order: Any = getattr(model, "modules_in_order", None)  # of a LanguageModel
    if in_order is not None:
        return [found for part in in_order() for found in modules_of(part)]
    return [model]


def _check_known(module: nn.Module) -> None:
    """Raise ArgumentError where a module may compute what its class does not say."""
    title = type(module).__name__
    if computes_otherwise(module):
        raise ArgumentError(
            "[export_c] C has what torch's classes and cellwright's compute, and calls "
            f"nothing of yours; received {title} with hooks or with a forward of your "
            "own, expected neither. Remove the hooks; give layers that run one after "
            "another as nn.Sequential(…) of them"
        )
    if isinstance(module, nn.Embedding) and module.max_norm is not None:
        raise ArgumentError(
            "[export_c] an embedding is a table, read as it is; received nn.Embedding "
            f"with max_norm={module.max_norm}, expected none. "
            "embedding(torch.arange(embedding.num_embeddings)) shortens every row in "
            "place; then set embedding.max_norm = None"
        )


@torch.no_grad()
def blocks_of(modules: Sequence[nn.Module], embedded: int | None) -> list[Block]:
    """Every module as blocks; `embedded` is the width of the embedding before them.

    Raises:
        ArgumentError: one of them has no form in C.
    """
    blocks: list[Block] = []
    for module in modules:
        width = int(blocks[-1].graph.output_size) if blocks else None
        blocks += _blocks(module, width)
    given, before = embedded, "the embedding"
    for block in blocks:
        if given not in (None, block.graph.inputs[0].size):
            raise ArgumentError(
                f"[export_c] {before} gives {given} values; received {block.title} "
                "after it, expected one that takes as many"
            )
        given, before = int(block.graph.output_size), block.title
    if not any(block.graph.states for block in blocks):
        raise ArgumentError(
            "[export_c] the model has no recurrent layer; received "
            f"{', '.join(type(m).__name__ for m in modules)}, expected one at least"
        )
    return blocks


def _blocks(module: nn.Module, width: int | None) -> Iterator[Block]:
    if isinstance(module, _NOTHING):
        return
    kind = type(module)
    if kind in _ACTIVATIONS and width is not None:
        yield _block(_ACTIVATIONS[kind], kind.__name__, (), input_size=width)
    elif isinstance(module, nn.Linear):
        make_weights(module)
        sizes = {"input_size": module.in_features, "hidden_size": module.out_features}
        own = [p for p in (module.weight, module.bias) if p is not None]
        used = linear if module.bias is not None else linear_without_bias
        yield _block(used, "Linear", own, **sizes)
    else:
        yield from _recurrent(_layer(module))


def _layer(module: Any) -> SequenceLayer:
    if isinstance(module, nn.RNNBase) and not isinstance(module, SequenceLayer):
        module = from_torch(module, engine="reference")
    if not isinstance(module, SequenceLayer):
        raise ArgumentError(
            f"[export_c] received {type(module).__name__}, expected a layer over "
            "sequences, a stepper of one, a language model, or an nn.Sequential of "
            "layers and nn.Linear, with nn.Embedding first and nn.Tanh, nn.Sigmoid or "
            "nn.ReLU after a layer"
        )
    if module.bidirectional:
        raise ArgumentError(
            "[export_c] a bidirectional layer reads the end of the sequence first, so "
            "it has no step; received bidirectional=True, expected a layer that scans "
            "forward only"
        )
    cells: Any = getattr(module, "cells", None)
    if isinstance(cells, nn.ModuleList) and gates_must_be_called(cells):
        raise ArgumentError(
            "[export_c] a gate is called at every step, which C cannot; received a "
            "gate with hooks or another module, expected cellwright's own. Remove them"
        )
    return module


@torch.no_grad()
def _recurrent(layer: SequenceLayer) -> Iterator[Block]:
    firsts = layer.own_states()
    for k in range(layer.num_layers):
        direction = layer.direction(k)
        bound, used = direction.bound, direction.bound.cell
        graph, binding = expanded(bound.graph, KNOWN), bound.programs.binding
        if graph.items:  # the programs are of what is left to every step
            binding = own_parameters(graph)
        own = direction.weights.in_order(binding.parameters)
        initial = [state[k] for state in firsts]
        sizes = (graph.inputs[0].size, graph.output_size)
        yield Block(
            f"{used.name}, {sizes[0]} -> {sizes[1]}",
            used.equations,
            graph,
            binding,
            in_float32(used.name, own),
            [state.numpy() for state in in_float32(used.name, initial, finite=False)],
            made_once(graph) if graph.items else None,
        )


def _block(used: Cell, title: str, own: Sequence[Tensor], **sizes: int) -> Block:
    """A block without states."""
    graph = used.graph.bind(**sizes)
    return Block(
        f"{title}, {graph.inputs[0].size} -> {graph.output_size}",
        used.equations,
        expanded(graph, KNOWN),
        own_parameters(graph),
        in_float32(title, own),
        (),
    )


def in_float32(
    what: str, tensors: Sequence[Tensor], finite: bool = True
) -> list[Tensor]:
    """Tensors in float32, contiguous.

    Raises:
        ArgumentError: a weight is no finite number there.
    """
    found = [t.detach().cpu().to(torch.float32).contiguous() for t in tensors]
    if finite and not all(bool(t.isfinite().all()) for t in found):
        raise ArgumentError(
            f"[export_c] a weight of {what} is no finite number in float32; received "
            "NaN or infinity, expected finite weights"
        )
    return found
