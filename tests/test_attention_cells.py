"""Layers of cells with items against hand-written loops: values, every gradient."""

import pytest
import torch

import cellwright as cw
from oracles import (
    assert_same_values_and_gradients,
    normal,
    random_cotangents,
    randomise,
)
from oracles_attention import STEPS, bahdanau_gru, luong_lstm, scan

ENGINES = ("reference", "native")
T, B, S, INPUT, HIDDEN = 5, 4, 6, 3, 5
ITEM = {"luong_lstm": HIDDEN}  # a dot product; the others map items of any size

CASES = {
    "bahdanau_gru": ("bahdanau_gru", {}, bahdanau_gru),
    "luong_lstm": ("luong_lstm", {}, luong_lstm),
    "luong_lstm, general": (
        "luong_lstm",
        {"general": True},
        lambda *args: luong_lstm(*args, general=True),
    ),
}
LENGTHS = {
    "whole": ([T] * B, [S] * B),
    "both shorter, 0 among them": ([3, 0, 5, 2], [2, 4, 0, 6]),
    "no items at all": ([5, 5, 2, 1], [0, 0, 0, 0]),
}
engines = pytest.mark.parametrize("engine", ENGINES)
cases = pytest.mark.parametrize("case", CASES)


def test_every_cell_with_items_has_an_oracle():
    assert set(cw.cells.all_with_items()) == set(STEPS)


def make(case, engine, **options):
    name, hyperparameters, step = CASES[case]
    layer = cw.Recurrent(
        name,
        INPUT,
        HIDDEN,
        items={"source": ITEM.get(case, 7)},
        engine=engine,
        dtype=torch.float64,
        **hyperparameters,
        **options,
    )
    assert layer.engine == engine
    return randomise(layer), step


def leaves_of(layer, batch=B):
    graph, count = layer.graphs[0], len(layer.cells)
    states = {
        s.name: normal(count, batch, int(s.size), seed=20 + n)
        for n, s in enumerate(graph.states)
    }
    x, source = (
        normal(T, batch, INPUT, seed=1),
        normal(S, batch, graph.items[0].size, seed=2),
    )
    return {"x": x, "source": source, **states, **dict(layer.named_parameters())}


def states_of(layer, leaves):
    return tuple(leaves[s.name] for s in layer.graphs[0].states)


def by_hand(layer, step, leaves, lengths, item_lengths, resets=None):
    """All layers and directions of a layer, each a loop of its own."""
    x, source, finals = leaves["x"], leaves["source"], []
    olds = states_of(layer, leaves)
    own = [torch.zeros(s.shape[-1], dtype=s.dtype) for s in olds]
    for number in range(layer.num_layers):
        outputs = []
        for direction in range(layer.directions):
            k = number * layer.directions + direction
            y, news = scan(
                step,
                layer.cells[k],
                x,
                source,
                [s[k] for s in olds],
                own,
                lengths=lengths,
                item_lengths=item_lengths,
                resets=resets,
                reverse=direction == 1,
            )
            outputs.append(y)
            finals.append(news)
        x = torch.cat(outputs, -1)
    return x, [torch.stack(column) for column in zip(*finals, strict=True)]


def silent_of(layer, lengths, item_lengths):
    """What no gradient reaches where no step sees an item."""
    if any(n and m for n, m in zip(lengths, item_lengths, strict=True)):
        return ()
    scoring = ("key", "query", "e")
    return (
        "source",
        *(n for n, _ in layer.named_parameters() if n.split(".")[2] in scoring),
    )


@engines
@cases
@pytest.mark.parametrize("lengths", LENGTHS)
def test_values_and_every_gradient(case, engine, lengths):
    layer, step = make(case, engine)
    steps, items = LENGTHS[lengths]
    leaves = leaves_of(layer)

    def run():
        states = states_of(layer, leaves)
        return layer(
            leaves["x"],
            states[0] if len(states) == 1 else states,
            lengths=steps,
            source=leaves["source"],
            source_lengths=items,
        )

    assert_same_values_and_gradients(
        run,
        lambda: by_hand(layer, step, leaves, steps, items),
        leaves,
        silent=silent_of(layer, steps, items),
    )


@engines
@cases
def test_two_layers_in_both_directions_with_resets(case, engine):
    layer, step = make(case, engine, num_layers=2, bidirectional=True)
    steps, items = [4, 0, 5, 3], [2, 5, 6, 0]
    leaves = leaves_of(layer)
    resets = torch.rand(T, B, generator=torch.Generator().manual_seed(5)) < 0.3
    assert resets.any()

    def run():
        states = states_of(layer, leaves)
        return layer(
            leaves["x"],
            states[0] if len(states) == 1 else states,
            lengths=torch.tensor(steps),
            resets=resets,
            source=leaves["source"],
            source_lengths=torch.tensor(items),
        )

    assert_same_values_and_gradients(
        run, lambda: by_hand(layer, step, leaves, steps, items, resets), leaves
    )


@engines
def test_the_state_carries_gradient_through_the_attention(engine):
    layer, _ = make("bahdanau_gru", engine)
    leaves = leaves_of(layer)
    _, last = layer(leaves["x"], leaves["h"], source=leaves["source"])
    (gradient,) = torch.autograd.grad(last.sum(), leaves["h"])
    assert gradient.norm() > 1e-2


@engines
@cases
def test_many_random_lengths(case, engine):
    layer, step = make(case, engine)
    generator = torch.Generator().manual_seed(11)
    for _ in range(3):
        steps = torch.randint(0, T + 1, (B,), generator=generator).tolist()
        items = torch.randint(0, S + 1, (B,), generator=generator).tolist()
        steps[0], items[0] = T, S
        leaves = leaves_of(layer)
        states = states_of(layer, leaves)
        y, finals = layer(
            leaves["x"],
            states if len(states) > 1 else states[0],
            lengths=steps,
            source=leaves["source"],
            source_lengths=items,
        )
        finals = list(finals) if isinstance(finals, tuple) else [finals]
        expected, ends = by_hand(layer, step, leaves, steps, items)
        torch.testing.assert_close([y, *finals], [expected, *ends], rtol=0, atol=1e-12)
        tensors = list(leaves.values())
        cotangents = random_cotangents([y, *finals])
        ours = torch.autograd.grad([y, *finals], tensors, cotangents)
        theirs = torch.autograd.grad([expected, *ends], tensors, cotangents)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)
