"""memory="recompute": the same bits as without, and less that is kept."""

import pytest
import torch
from torch import nn

import cellwright as cw
from native_cases import (
    assert_native,
    everything,
    make_layer,
    make_leaves,
    replace_programs,
)

pytest.importorskip("cellwright._core")

CELLS = tuple(cw.cells.all())


def recomputing(layer):
    """The same layer, its first direction keeping the states alone."""
    replace_programs(layer, recompute=True)
    return layer


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("reverse", [False, True])
def test_every_cells_gradients_are_the_same_bits(cell, reverse):
    """600 rows: more than the core takes at once."""
    layer = make_layer(cell, 5, 19, torch.float32)
    leaves = make_leaves(layer, 50, 12, torch.float32)
    expected = everything(layer, leaves, "native", reverse)
    found = everything(recomputing(layer), leaves, "native", reverse)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("cell", ["lstm", "peephole", "lem"])
def test_it_is_the_reference(cell):
    layer = recomputing(make_layer(cell, 3, 7))
    assert_native(layer, make_leaves(layer, 4, 5))


def gradients(layer, x):
    y, state = layer(x)
    y = y.data if isinstance(y, nn.utils.rnn.PackedSequence) else y
    state = state if isinstance(state, tuple) else (state,)
    torch.manual_seed(2)
    cotangents = [torch.randn_like(t) for t in (y, *state)]
    return torch.autograd.grad((y, *state), list(layer.parameters()), cotangents)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["LSTM", "GRU"])
@pytest.mark.parametrize("lengths", [None, [40, 3, 33, 40, 17, 1]])
def test_layers_directions_and_packed_sequences(name, lengths, threads):
    torch.manual_seed(0)
    options = {"num_layers": 2, "bidirectional": True}
    layers = [
        getattr(cw, name)(7, 35, memory=memory, **options)
        for memory in ("save", "recompute")
    ]
    layers[1].load_state_dict(layers[0].state_dict())
    x = torch.randn(40, 6, 7)
    if lengths:
        x = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        expected, found = (gradients(layer, x) for layer in layers)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def kept(layer, x):
    """Bytes that autograd keeps, every memory counted once."""
    seen = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        layer(x)
    return sum(seen.values())


def test_the_states_alone_are_kept():
    """x, the output and c, where an LSTM else keeps four gates, too."""
    T, B, H = 50, 4, 32
    layers = [
        cw.Recurrent("lstm", H, H, memory=memory) for memory in ("save", "recompute")
    ]
    x = torch.randn(T, B, H)
    more, less = (kept(layer, x) for layer in layers)
    assert more - less == 4 * T * B * 4 * H


@pytest.mark.filterwarnings("ignore")  # torch's own, while it traces
def test_under_torch_compile_and_backward_twice():
    layer = cw.Recurrent("gru", 5, 8, 2, bidirectional=True, memory="recompute")
    x = torch.randn(6, 3, 5, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    loss = layer(x)[0].square().sum()
    (expected,) = torch.autograd.grad(loss, x, retain_graph=True)
    assert torch.equal(torch.autograd.grad(loss, x)[0], expected)
    (found,) = torch.autograd.grad(compiled(x)[0].square().sum(), x)
    assert torch.equal(found, expected)


def test_the_listing_shows_what_is_computed_again():
    cell = recomputing(make_layer("gru", 3, 4)).direction(0).bound.programs
    assert cell.saved_sizes == ()
    listing = cell.plan.backward(("x",)).disassemble()
    assert "stage 0: 4 units, 2 registers, before a chunk" in listing


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": "little"}, "received 'little', expected one of save, recompute"),
        (
            {"memory": "recompute", "engine": "reference"},
            "asks for engine='reference'; received memory='recompute', expected 'save'",
        ),
        (
            {"memory": "recompute", "dtype": torch.float16},
            r"native and triton compute again: native: it computes in float32",
        ),
    ],
)
def test_a_request_that_cannot_be_met_says_why(options, message):
    for make in (
        lambda **o: cw.Recurrent("gru", 3, 4, **o),
        lambda **o: cw.GRU(3, 4, **o),
    ):
        with pytest.raises(cw.language.ArgumentError, match=message):
            make(**options)
