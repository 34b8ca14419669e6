"""Models in ONNX Runtime, for the tests of exports."""

import pytest
import torch

from oracles import flat, normal, randomise

pytest.importorskip("onnx", reason="the package onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is missing")
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def run(model, feeds):
    """A model's outputs, in order."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    arrays = {name: value.detach().numpy() for name, value in feeds.items()}
    return [torch.from_numpy(v) for v in session.run(None, arrays)]


def assert_close(found, expected):
    """To 1e-5 in float32 and 1e-10 in float64, in units of the largest value."""
    expected = flat(expected)
    assert len(found) == len(expected)
    for value, exact in zip(found, expected, strict=True):
        finite = exact[exact.isfinite()]  # not so an sLSTM's m before its first step
        scale = max([1.0, *finite.abs().max().reshape(1).tolist()])
        tolerance = TOLERANCE[exact.dtype]
        torch.testing.assert_close(value, exact, rtol=0, atol=tolerance * scale)


def make(layer, steps, batch, seed=0):
    """A layer with asymmetric weights, and what it takes: x, the named inputs."""
    layer = randomise(layer)
    dtype = layer.placement()[1]
    lead = (batch, steps) if layer.batch_first else (steps, batch)
    inputs = layer.direction(0).bound.graph.inputs
    feeds = {
        i.name: normal(*lead, int(i.size), seed=seed + k, grad=False).to(dtype)
        for k, i in enumerate(inputs)
    }
    for name in feeds.keys() - {"x"}:  # a mass, a time step
        feeds[name] = feeds[name].abs() + 0.2
    return layer, feeds


def states_of(layer, batch, seed=40):
    """Initial states by name: positive, since the sLSTM's n and a mass are."""
    graph, dtype = layer.direction(0).bound.graph, layer.placement()[1]
    count = layer.num_layers * layer.directions
    return {
        s.name: normal(count, batch, int(s.size), seed=seed + k, grad=False)
        .abs()
        .add(0.1)
        .to(dtype)
        for k, s in enumerate(graph.states)
    }


def as_state(states):
    """Initial states as a layer takes them."""
    values = tuple(states.values())
    return values[0] if len(values) == 1 else values
