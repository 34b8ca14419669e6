"""Programs around an exported model: its test, and one that generates text."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...language.evaluate import Edges, evaluate, rows_of
from .model import Model
from .templates import MAIN, TEST
from .values import array, identifier

STEPS = 16
ITEMS = 5  # of a set, at most


def self_test(model: Model) -> str:
    """NAME_test.c: what the model reads and gives, evaluated in float64."""
    generator = torch.Generator().manual_seed(0)
    tables, arguments, given = "", [], {}
    if model.embedding is not None:
        tokens = torch.randint(len(model.embedding), (STEPS,), generator=generator)
        tables += array("static const int tokens", tokens.numpy())
        arguments.append("tokens[t]")
        given["x"] = torch.from_numpy(model.embedding)[tokens].double()
    else:
        for name, size in model.inputs.items():
            drawn = torch.randn(STEPS, size, generator=generator)
            values = drawn if name == "x" else drawn.abs()  # a mass, a time step
            own = f"in_{identifier(name)}"
            tables += array(f"static const float {own}", values.flatten().numpy())
            arguments.append(f"{own} + t * {size}")
            given[name] = values.double()
    items = {
        name: torch.randn(
            min(model.attend.most[name], ITEMS), size, generator=generator
        )
        for name, size in model.attend.sizes.items()
    }
    for name, values in items.items():
        own = f"items_{identifier(name)}"
        tables += array(f"static const float {own}", values.flatten().numpy())
    expected = exact_outputs(model, given, {n: v.double() for n, v in items.items()})
    tables += array("static const float expected", expected.flatten().numpy())
    return TEST.format(
        tables=tables,
        steps=STEPS,
        size=model.output_size,
        arguments=", ".join(arguments),
        attend=_attends(items),
    )


def _attends(items: Mapping[str, Tensor]) -> str:
    """The call that gives the items; too many of them are refused before."""
    if not items:
        return ""
    counts = {name: str(len(values)) for name, values in items.items()}
    beyond = {name: f"@@_ITEMS_{identifier(name).upper()}_MAX + 1" for name in items}
    return "".join(
        f"    if (@_attend(&state, {_pairs(given)}) != {answer}) return 2;\n"
        for answer, given in ((1, beyond), (0, counts))
    )


def _pairs(counts: Mapping[str, str]) -> str:
    return ", ".join(f"items_{identifier(n)}, {count}" for n, count in counts.items())


def exact_outputs(
    model: Model, inputs: dict[str, Tensor], items: Mapping[str, Tensor] = {}
) -> Tensor:
    """What a model gives for a sequence, (T, output_size), in float64.

    Args:
        model: the model.
        inputs: (T, size) each.
        items: (n, size) each.
    """
    edges = {
        name: Edges(torch.zeros(len(values), dtype=torch.int64), 1)
        for name, values in items.items()
    }
    x = inputs["x"]
    for block in model.blocks:
        graph, rows = block.graph, []
        names = [s.name for s in graph.states]
        starts = [torch.from_numpy(v).double()[None] for v in block.initial]
        states = dict(zip(names, starts, strict=True))
        for t in range(len(x)):
            leaves = {i.name: inputs[i.name][t : t + 1] for i in graph.inputs[1:]}
            leaves |= {"x": x[t : t + 1], **items}
            values = evaluate(graph, block.exact_weights, leaves, states, edges)
            states = {
                s.name: rows_of(values[n], 1, x, int(s.size))
                for s, n in zip(graph.states, graph.updates, strict=True)
            }
            size = int(graph.output_size)
            rows.append(rows_of(values[graph.output], 1, x, size))
        x = torch.cat(rows)
    return x


def main_program(model: Model) -> str:
    """NAME_main.c, of a model with the text of its tokens."""
    assert model.tokens is not None
    unknown = model.tokens.unknown
    return MAIN.replace("{unknown}", str(-1 if unknown is None else unknown))
