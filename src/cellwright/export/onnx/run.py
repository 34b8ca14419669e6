"""A run of a language model: how it is called, and what its file says of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from ...language import ArgumentError
from .layer import initial_values


class RunCall(NamedTuple):
    """`example`, `input_names` and `output_names` of `export_onnx`."""

    example: Any
    input_names: list[str]
    output_names: list[str]


def trained(run: Any) -> tuple[Any, RunCall, dict[str, str]]:
    """A run's model, one step of it, and the file's metadata."""
    model = run.trained_model()
    if not hasattr(model, "rnn"):
        raise ArgumentError(
            f"[export_onnx] received a {type(run).__name__}, which has two models; "
            "expected a run of a language model. cellwright.export.export_pairs(run, "
            "folder, name) writes an encoder and a decoder"
        )
    layer = model.rnn
    states = tuple(state.clone() for state in layer.first_states(1))
    names = [state.name for state in layer.graphs[0].states]
    firsts = [f"{name}_0" for name in names]
    call = RunCall(
        (torch.zeros(1, 1, dtype=torch.int64), states if names[1:] else states[0]),
        ["tokens", *firsts],
        ["logits", *(f"{name}_n" for name in names)],
    )
    metadata = {
        "cellwright.cell": layer.cell.to_text(),
        "cellwright.initial_states": initial_values(layer, firsts),
        "cellwright.tokenizer": run.tokenizer.to_json(),
    }
    return model, call, metadata
