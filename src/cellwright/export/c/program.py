"""Programs around an exported model: its test, and one that generates text."""

from __future__ import annotations

import torch
from torch import Tensor

from ...language.evaluate import evaluate, rows_of
from .model import Model
from .templates import MAIN, TEST
from .values import array, identifier

STEPS = 16


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
    expected = exact_outputs(model, given)
    tables += array("static const float expected", expected.flatten().numpy())
    return TEST.format(
        tables=tables,
        steps=STEPS,
        size=model.output_size,
        arguments=", ".join(arguments),
    )


def exact_outputs(model: Model, inputs: dict[str, Tensor]) -> Tensor:
    """What a model gives for a sequence, (T, output_size), in float64.

    Args:
        model: the model.
        inputs: (T, size) each.
    """
    x = inputs["x"]
    for block in model.blocks:
        graph, rows = block.graph, []
        names = [s.name for s in graph.states]
        starts = [torch.from_numpy(v).double()[None] for v in block.initial]
        states = dict(zip(names, starts, strict=True))
        for t in range(len(x)):
            leaves = {i.name: inputs[i.name][t : t + 1] for i in graph.inputs[1:]}
            leaves["x"] = x[t : t + 1]
            values = evaluate(graph, block.exact_weights, leaves, states)
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
