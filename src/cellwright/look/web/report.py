"""The inspector's page as one file: its numbers, its script, and the model's weights.

It opens from the disk without any network, and still types and generates: the cell's
graph runs in the browser.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...language.expand import expanded
from ...language.graph import AFFINE, Graph
from ...language.sizes import MatrixSize
from ...text.adaptive import AdaptiveSoftmax
from ..inspection import Inspection, described_beside, saturation_beside
from ..reading import units_of
from .app import STATIC

MOST_WEIGHTS = 1_000_000  # a report of a larger model holds no weights


def report(inspection: Inspection, beside: Inspection | None = None) -> str:
    """The HTML of a report; `beside` is a second model's, for comparison."""
    title = f"{inspection.run.directory.name}: report"
    return in_one_file(title, "report", report_json(inspection, beside))


def in_one_file(title: str, name: str, data: str) -> str:
    """A page of the bundle as one HTML file.

    Args:
        title: in the window's title bar.
        name: the page's entry in `web/src/main.js`.
        data: JSON that the page reads.
    """
    data = data.replace("<", "\\u003c")
    script = (STATIC / "cellwright.js").read_text(encoding="utf-8")
    style = (STATIC / "cellwright.css").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; "
        f"style-src '{_hash(style)}'; img-src data: blob:"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n"
        '<link rel="icon" href="data:,">\n'
        f"<style>{style}</style>\n"
        f'<script type="application/json" id="report">{data}</script>\n'
        f'<body data-page="{escape(name)}"></body>\n'
        f'<script type="module">{script}</script>\n</html>\n'
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def report_json(inspection: Inspection, beside: Inspection | None = None) -> str:
    """What a report holds: every answer that the page asks for, and the model."""
    return json.dumps(_data(inspection, beside), ensure_ascii=False)


def _data(inspection: Inspection, beside: Inspection | None) -> dict[str, Any]:
    """The answers, by the paths that the page asks with."""
    described = described_beside(inspection, beside)
    flow = inspection.flow()
    keys = [value["key"] for value in described["values"]]
    answers: dict[str, Any] = {
        "run": described,
        "picture": inspection.picture(),
        "saturation": saturation_beside(inspection, beside),
        "predictions": inspection.predictions(),
        "flow": flow,
    }
    for name in described["detectors"]:
        answers[f"interesting/{name}"] = inspection.interesting(name)
    for key in keys:
        for by in described["orders"]:
            answers[f"order/{key}/{by}"] = inspection.order(key, by)
        answers[f"ranges/{key}"] = inspection.ranges(key)
    levels = {f"values/{key}": _levels(inspection.quantised(key)) for key in keys}
    for name in flow["names"]:
        low, high, matrix = inspection.flow_triangle(name)
        levels[f"triangle/{name}"] = {**_levels(matrix), "low": low, "high": high}
    return {
        "json": answers,
        "levels": levels,
        "tokens": inspection.reading.tokens.tolist(),
        "model": _model(inspection),
    }


def _levels(matrix: np.ndarray) -> dict[str, Any]:
    rows, columns = matrix.shape
    text = base64.b64encode(matrix.tobytes()).decode()
    return {"rows": rows, "columns": columns, "data": text}


def _model(inspection: Inspection) -> dict[str, Any] | None:
    """The model as `engine.js` reads it; None where it cannot: it is too large, say."""
    model, tokenizer = inspection.model, inspection.tokenizer
    too_large = sum(p.numel() for p in model.parameters()) > MOST_WEIGHTS
    if too_large or isinstance(model.head, AdaptiveSoftmax):
        return None
    return {
        "vocabulary": [tokenizer.decode([n]) for n in range(tokenizer.vocabulary)],
        "unknown": tokenizer.unknown,
        "embedding": _matrix(model.embed.weight, None),
        "head": _matrix(model.head.weight, model.head.bias),
        "layers": [
            {
                **layer_data(graph, weights),
                "initial": [_base64(state) for state in states],
            }
            for graph, weights, states in zip(
                inspection.reader.graphs,
                model.rnn.cells,
                inspection.reader.initial(),
                strict=True,
            )
        ],
    }


@torch.no_grad()
def layer_data(graph: Graph, weights: nn.Module) -> dict[str, Any]:
    """A layer as `engine.js` reads it: its graph in primitives, and its weights."""
    matrices, vectors = {}, {}
    for weight in graph.weights:
        if weight.kind != "matrix":
            vectors[weight.name] = _base64(getattr(weights, weight.name).reshape(-1))
            continue
        # Applied to unit vectors, an affine shows the matrix that it stands for,
        # whatever its blocks and the function of its columns.
        affine = getattr(weights, weight.name)
        widths = [int(size) for size in weight.operands]
        bias = affine(*(torch.zeros(1, width) for width in widths))
        matrix = affine(*torch.eye(sum(widths)).split(widths, 1)) - bias
        matrices[weight.name] = _matrix(matrix.T, bias[0])
    return {"graph": _graph(graph), "matrices": matrices, "vectors": vectors}


def _graph(graph: Graph) -> dict[str, Any]:
    """As the page's engine takes it, which knows the primitive operations alone."""
    graph = expanded(graph)
    return {
        "nodes": [
            {
                "op": node.op,
                "args": node.args,
                "attrs": _attributes(node.op, node.options),
            }
            for node in graph.nodes
        ],
        "states": [s.name for s in graph.states],
        "updates": graph.updates,
        "output": graph.output,
        "names": graph.names,
        "rows": {
            name: units_of(graph.nodes[node].size)
            for name, node in graph.names
            if isinstance(graph.nodes[node].size, MatrixSize)
        },
    }


def _attributes(op: str, options: dict[str, Any]) -> dict[str, Any]:
    wanted = ("weight",) if op == AFFINE else tuple(options)
    return {name: _written(options[name]) for name in wanted}


def _written(value: Any) -> Any:
    """An attribute as JSON has it, which has no infinity: its word in JavaScript, which
    is the number again wherever one is expected."""
    if isinstance(value, float) and math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def _matrix(weight: Tensor, bias: Tensor | None) -> dict[str, Any]:
    rows, columns = weight.shape
    return {
        "weight": _base64(weight),
        "bias": None if bias is None else _base64(bias),
        "rows": rows,
        "columns": columns,
    }


def _base64(tensor: Tensor) -> str:
    array = tensor.detach().contiguous().float().numpy().astype("<f4")
    return base64.b64encode(array.tobytes()).decode()


def write_report(
    inspection: Inspection, path: Path, beside: Inspection | None = None
) -> None:
    """Write the report; a full disk leaves what was there."""
    from ...files import write_atomically

    write_atomically(path, report(inspection, beside).encode())
