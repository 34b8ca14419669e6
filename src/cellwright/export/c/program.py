"""Programs around an exported model: its test, and one that generates text."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...language import ArgumentError
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


def main_program(model: Model, tokenizer: Any) -> str:
    """NAME_main.c.

    Raises:
        ArgumentError: the model reads no tokens.
    """
    if model.embedding is None:
        raise ArgumentError(
            "[export_c] tokenizer= is a language model's; received a model that reads "
            "numbers, expected one that begins with an nn.Embedding"
        )
    pieces = tokenizer.pieces()
    unknown = tokenizer.unknown
    return MAIN.format(
        pieces=",\n".join(f"    {_string(piece)}" for piece in pieces),
        lengths=",\n".join(f"    {len(piece)}" for piece in pieces),
        unknown=-1 if unknown is None else unknown,
    )


def _string(text: bytes) -> str:
    """A string of C, every byte but letters and digits by its number."""
    return (
        '"'
        + "".join(
            chr(b) if chr(b).isalnum() and b < 128 else f"\\{b:03o}" for b in text
        )
        + '"'
    )
