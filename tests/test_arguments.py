"""Numbers as torch's and NumPy's users hand them over, wherever one is taken."""

import numpy as np
import pytest
import torch
from torch import tensor

import cellwright as cw
from cellwright.language.arguments import plain, whole_numbers
from oracles import flat, normal, randomise

T, B, X, H = 5, 3, 3, 4
ENGINES = ["auto", "torch", "reference"]
LENGTHS, STARTS = [3, 5, 0], [2, 0, 4]
NUMBERS = {
    "array": np.array,
    "int32 array": lambda n: np.array(n, np.int32),
    "uint8 array": lambda n: np.array(n, np.uint8),
    "other byte order": lambda n: np.array(n, ">i4"),
    "every second": lambda n: np.repeat(np.array(n), 2)[::2],
    "objects": lambda n: np.array(n, object),
    "list of np.int64": lambda n: [np.int64(n[0]), *n[1:]],
    "tuple of np.uint8": lambda n: tuple(map(np.uint8, n)),
    "list of tensors": lambda n: [tensor(v) for v in n],
    "list of arrays": lambda n: [np.array(v) for v in n],
    "int32 tensor": lambda n: tensor(n, dtype=torch.int32),
    "uint8 tensor": lambda n: tensor(n, dtype=torch.uint8),
}
MASKS = {
    "array": np.array,
    "read only": lambda m: np.broadcast_to(np.array(m), np.shape(m)),
    "0 and 1": lambda m: np.array(m, np.int64),
    "uint8 tensor": lambda m: tensor(m, dtype=torch.uint8),
    "lists": lambda m: np.array(m).tolist(),
    "lists of 0 and 1": lambda m: np.array(m, int).tolist(),
    "list of arrays": lambda m: list(np.array(m)),
    "list of tensors": lambda m: list(tensor(m)),
    "tuples of np.bool_": lambda m: (
        tuple(map(tuple, map(list, np.array(m, ndmin=2))))
        if np.ndim(m) == 2
        else tuple(np.array(m))
    ),
}
RESETS = (np.random.default_rng(3).random((T, B)) < 0.4).tolist()


def layers(engine):
    options = {"bidirectional": True, "dtype": torch.float64, "engine": engine}
    yield randomise(cw.Recurrent("gru_reset_after", X, H, **options))
    yield randomise(cw.LSTM(X, H, **options))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", NUMBERS)
def test_lengths_and_starts_of_every_kind(kind, engine):
    x, make = normal(T, B, X, seed=1), NUMBERS[kind]
    for layer in layers(engine):
        found = layer(x, lengths=make(LENGTHS), starts=make(STARTS))
        expected = layer(x, lengths=tensor(LENGTHS), starts=tensor(STARTS))
        pairs = zip(flat(found), flat(expected), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    y = normal(T, B, H, seed=2)
    found = cw.activation_regularisation(y, lengths=make(LENGTHS), starts=make(STARTS))
    assert found == cw.activation_regularisation(y, lengths=LENGTHS, starts=STARTS)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", MASKS)
def test_resets_and_rows_of_every_kind(kind, engine):
    x, make = normal(T, B, X, seed=1), MASKS[kind]
    rows = [True, False, True]
    for layer in layers(engine):
        y, state = layer(x, resets=make(RESETS))
        expected, _ = layer(x, resets=tensor(RESETS))
        assert torch.equal(y, expected)
        found = flat(cw.reset_rows(layer, state, make(rows)))
        for new, old in zip(found, flat(state), strict=True):
            assert not new[:, [0, 2]].any()
            assert torch.equal(new[:, 1], old[:, 1])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lengths": [2.5, 1, 1]}, r"\[lengths\].*received \[2.5, 1, 1\].*integers"),
        ({"lengths": [3, True, 1]}, r"\[lengths\].*received \[3, True, 1\]"),
        ({"lengths": [3, np.True_, 1]}, r"\[lengths\].*received \[3"),
        ({"lengths": [np.nan, 1, 1]}, r"\[lengths\].*received \[nan, 1, 1\]"),
        ({"lengths": np.ones(B)}, r"\[lengths\].*array\(\[1\., 1\., 1\.\]\).*integers"),
        ({"lengths": np.ones(B, bool)}, r"\[lengths\].*\(3,\) of torch.bool"),
        ({"lengths": "123"}, r"\[lengths\].*received '123'"),
        ({"lengths": 3}, r"\[lengths\].*received 3"),
        ({"lengths": [[3], [1, 2], [1]]}, r"\[lengths\].*received \[\[3\]"),
        ({"lengths": [2**70, 1, 1]}, r"\[lengths\].*received \[11805"),
        ({"lengths": [tensor(3), tensor(1.5), 1]}, r"\[lengths\]"),
        ({"starts": [0.0, 1, 1]}, r"\[starts\].*received \[0.0, 1, 1\]"),
        ({"resets": np.full((T, B), 2)}, r"\[resets\].*received 2 at step 0 of row 0"),
        ({"resets": -tensor(RESETS).int()}, r"\[resets\].*received -1 at step"),
        ({"resets": np.full((T, B), np.nan)}, r"\[resets\].*of float64, expected"),
        ({"resets": [[True] * B] * (T - 1) + [[1] * B]}, r"\[resets\].*received list"),
        ({"resets": [[True] * B] * (T - 1) + [[True]]}, r"\[resets\].*received list"),
        ({"resets": np.ones((B, T), bool)}, r"\[resets\].*\(3, 5\) of bool.*\(T, B\)"),
    ],
)
def test_what_is_no_such_number_is_refused(arguments, message, engine):
    for layer in layers(engine):
        with pytest.raises(cw.ArgumentError, match=message):
            layer(normal(T, B, X, seed=1), **arguments)


@pytest.mark.parametrize(
    "rows",
    [
        [0, 2],
        [True, False],
        np.array([0, 1, 2]),
        [0.0, 1.0, 0.0],
        [True, 1, 0],
        1,
        None,
        np.array([np.nan] * 3),
        slice(1),
    ],
)
def test_rows_that_are_no_mask_are_refused(rows):
    layer = cw.GRU(X, H)
    with pytest.raises(cw.ArgumentError, match=r"\[reset_rows\].*\(3,\) of torch.bool"):
        cw.reset_rows(layer, torch.zeros(1, B, H), rows)


def test_integers_are_checked_inside_a_compiled_graph():
    layer = cw.Recurrent("gru", X, H)
    if layer.engine != "native":
        pytest.skip("no compiled core")
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    x, resets = torch.randn(T, B, X), tensor(RESETS)
    assert torch.equal(compiled(x, resets=resets.int())[0], layer(x, resets=resets)[0])
    with pytest.raises(cw.ArgumentError, match="received 2 at step 0 of row 0"):
        compiled(x, resets=torch.full((T, B), 2, dtype=torch.int32))
    some = torch.tensor(LENGTHS, dtype=torch.int32)
    assert torch.equal(compiled(x, lengths=some)[0], layer(x, lengths=LENGTHS)[0])


# -- numbers of a layer --------------------------------------------------------

WAYS = {
    "np.int64": (np.int64, np.float32),
    "np.uint8": (np.uint8, np.float64),
    "array": (np.array, np.array),
    "tensor": (tensor, lambda p: tensor(p, dtype=torch.float64)),
}


@pytest.mark.parametrize("way", WAYS)
def test_sizes_and_probabilities_of_every_kind(way):
    whole, real = WAYS[way]
    layer = cw.Recurrent(
        "lstm_projected",
        whole(X),
        whole(H),
        whole(2),
        proj_size=whole(2),
        dropout=real(0.25),
        zoneout={"c": real(0.5)},
        recurrent_dropout=real(0.25),
        update_dropout=real(0.125),
        weight_drop=real(0.5),
    )
    same = cw.Recurrent(
        "lstm_projected",
        X,
        H,
        2,
        proj_size=2,
        dropout=0.25,
        zoneout={"c": 0.5},
        recurrent_dropout=0.25,
        update_dropout=0.125,
        weight_drop=0.5,
    )
    assert repr(layer) == repr(same)
    assert layer.regularisers == same.regularisers
    assert type(layer.num_layers) is type(layer.hidden_size) is int
    assert type(layer.dropout) is float
    same.load_state_dict(layer.state_dict())
    x = torch.randn(T, B, X)
    torch.manual_seed(1)
    y, _ = layer(x)
    torch.manual_seed(1)
    assert torch.equal(y, same(x)[0])


@pytest.mark.parametrize("way", WAYS)
def test_drop_ins_steppers_and_hyperparameters(way):
    whole, real = WAYS[way]
    layer = cw.LSTM(whole(X), whole(H), num_layers=whole(2), dropout=real(0.25))
    assert repr(layer) == repr(cw.LSTM(X, H, num_layers=2, dropout=0.25))
    step, x = layer.stepper(whole(B)), torch.randn(B, X)
    y = step(x)
    mask = [False, True, False]
    masks = mask, np.array(mask), [np.False_, np.True_, np.False_]
    for rows in (whole(1), [whole(1)], tensor([1]), slice(1, 2), *masks):
        step.reset()
        step(x)
        before = step.state
        step.reset(rows)
        for new, old in zip(step.state, before, strict=True):
            assert not new[:, 1].any()
            assert torch.equal(new[:, [0, 2]], old[:, [0, 2]])
        assert torch.equal(step(x)[1], y[1])
    for rows in ([True], [3], whole(3), [0.5], "1", True, [[1]]):
        with pytest.raises(cw.ArgumentError, match=r"\[stepper\] resets rows"):
            step.reset(rows)

    start, rate = np.float32(0.5), np.float64(0.5)

    @cw.cell
    def leaky(W, x, h=start, *, alpha=rate, dt):
        kept = cw.layer_norm(h, eps=np.float64(1e-3), heads=np.int64(2))
        new = W.f(h, x, size=np.int64(4), bias=np.False_, heads=np.int64(1))
        return (1 - alpha) * kept + alpha * cw.tanh(new) * dt

    layer = cw.Recurrent(leaky, X, 4, alpha=real(0.25), inputs={"dt": whole(1)})
    assert layer.cell.hyperparameters == {"alpha": 0.25}
    text = layer.cell.to_text()
    assert cw.Cell.from_text(text).to_text() == text
    assert "h=0.5" in text
    assert "bias=False" in text
    assert layer(torch.randn(T, B, X), dt=torch.ones(T, B, 1))[0].shape == (T, B, 4)
    y = normal(T, B, H, seed=2)
    penalty = cw.activation_regularisation(y, real(0.5))
    assert torch.equal(penalty, cw.activation_regularisation(y, 0.5))
    penalty = cw.temporal_activation_regularisation(y, real(0.5))
    assert torch.equal(penalty, cw.temporal_activation_regularisation(y, 0.5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dropout": np.float64(1.5)}, "dropout is a probability; received 1.5"),
        ({"zoneout": np.nan}, "zoneout is a probability; received nan"),
        ({"zoneout": {"h": np.True_}}, "zoneout is a probability; received True"),
        ({"weight_drop": np.array([0.5, 0.5])}, "weight_drop is a probability"),
        ({"num_layers": np.float64(2)}, "num_layers counts layers; received 2.0"),
        ({"num_layers": np.True_}, "num_layers counts layers; received True"),
        ({"hidden_size": np.float32(4)}, "hidden_size counts units; received 4.0"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        cw.Recurrent("lstm", **{"input_size": X, "hidden_size": H, **arguments})
    with pytest.raises(
        cw.ArgumentError, match=r"batch_size counts rows; received 2\.0"
    ):
        cw.GRU(X, H).stepper(np.float64(2))


@pytest.mark.parametrize("kind", NUMBERS)
def test_trees_of_every_kind(kind):
    make = NUMBERS[kind]
    signed = "uint" not in kind and "every" not in kind
    parents = [-1, 0, 0, 1] if signed else [3, 3, 3, 3]
    if not signed:  # no unsigned number says that a node has no parent
        with pytest.raises(cw.ArgumentError, match=r"\[Forest\]"):
            cw.Forest.from_parents(make(parents))
        return
    found = cw.Forest.from_parents(
        make(parents), inputs=make([3, 2]), slots=make([0, 0, 1, 0])
    )
    expected = cw.Forest.from_parents(parents, inputs=[3, 2], slots=[0, 0, 1, 0])
    for name in ("parents", "slots", "heights", "inputs"):
        assert np.array_equal(getattr(found, name), getattr(expected, name))
        assert getattr(found, name).dtype == np.int64
    found = cw.Forest.from_children([make([1, 2]), make([-1, 3]), [], []])
    assert np.array_equal(found.parents, parents)
    assert found.slots.tolist() == [0, 0, 1, 1]


def test_trees_of_what_is_no_node_are_refused():
    for wrong in ([-1, 0.5], [-1, True], [-1, np.nan], np.zeros(2), [[-1], [0]]):
        with pytest.raises(cw.ArgumentError, match="parents is a list of whole"):
            cw.Forest.from_parents(wrong)
    for wrong in (1.5, True, np.nan, "1", np.float64(1)):
        with pytest.raises(cw.ArgumentError, match="child 0 of node 0 is no node"):
            cw.Forest.from_children([[wrong], []])

    @cw.tree_cell(arity=np.int64(2))
    def node(W, x, left, right):
        return cw.tanh(W.f(left.h, right.h, x))

    layer = cw.TreeRecurrent(node, np.int64(X), tensor(H))
    y, _ = layer(torch.randn(3, X), cw.Forest.from_parents(np.array([-1, 0, 0])))
    assert y.shape == (3, H)


def test_plain_numbers_and_whole_ones():
    given = np.int8(1), np.float32(1), np.True_, tensor(1)
    assert [type(plain(v)) for v in given] == [int, float, bool, int]
    several = np.zeros(2)
    assert plain(several) is several
    assert plain("x") == "x"
    assert whole_numbers([]).dtype == torch.int64
    assert whole_numbers(range(3)).tolist() == [0, 1, 2]
    given = torch.zeros(2, dtype=torch.int16)
    assert whole_numbers(given) is given
    for wrong in (None, 1, "12", {1}, [None], [[1], 2], [[1], [True]], [1j], [[]]):
        assert whole_numbers(wrong) is None or not whole_numbers(wrong).numel()
