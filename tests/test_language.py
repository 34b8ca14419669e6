"""The cell language: what it records, what it names, and how it answers misuse."""

import importlib
import inspect
import math
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

import cellwright as cw
import oracles
from cellwright import cell, sigmoid, tanh, where
from oracles import (
    assert_close,
    assert_same_values_and_gradients,
    leaves_of,
    normal,
    randomise,
)

T, B, X, H = 4, 3, 6, 4
SIZES = {"input_size": X, "hidden_size": H}


def layer_of(definition, **options):
    return randomise(
        cw.Recurrent(
            definition, X, H, engine="reference", dtype=torch.float64, **options
        )
    )


def here(define):
    """`file:line` of the line of `define` that ends in the comment `# here`."""
    lines, first = inspect.getsourcelines(define)
    (offset,) = [k for k, line in enumerate(lines) if line.rstrip().endswith("# here")]
    return f"{Path(__file__)}:{first + offset}"


def refused(define, *words, error=cw.CellError):
    """`define()` raises `error`, naming the marked line and saying all `words`."""
    with pytest.raises(error) as caught:
        define()
    message = str(caught.value)
    for word in (here(define), *words):
        assert word in message, f"{word!r} is not in: {message}"
    return message


# -- misuse of a traced value --------------------------------------------------


def test_branching_on_a_value_is_refused_and_where_is_shown():
    def define():
        @cell
        def bad(W, x, h):
            v = W.v(h, x)
            if v > 0:  # here
                return tanh(v)
            return v

    refused(define, "where(a > b, u, v)", "branch", error=cw.TraceError)


@pytest.mark.parametrize("use", [max, min])
def test_pythons_max_and_min_are_refused_and_maximum_is_shown(use):
    def define():
        @cell
        def bad(W, x, h):
            return use(W.v(h, x), 0)  # here

    refused(define, "maximum", "minimum", error=cw.TraceError)


@pytest.mark.parametrize(
    ("use", "remedy"),
    [
        (lambda v: v and 1, "where("),
        (lambda v: v or 1, "where("),
        (lambda v: not v, "where("),
        (lambda v: bool(v), "where("),
        (lambda v: 0 < v < 1, "where("),
        (len, "sum(v)"),
        (list, "whole row"),
        (lambda v: [*v], "whole row"),
        (lambda v: 1 in v, "whole row"),
        (lambda v: v[0], "matrix, W.p(v)"),
        (lambda v: v[:2], "matrix, W.p(v)"),
        (lambda v: v @ v, "W.a(v)"),
        (lambda v: torch.ones(4, 4) @ v, "W.a"),
        (lambda v: v**2, "v * v"),
        (lambda v: 2**v, "exp("),
        (float, "no number yet"),
        (int, "no number yet"),
        (math.exp, "operations of cellwright"),
        (round, "no number yet"),
        (lambda v: np.asarray(v), "no number yet"),
        (lambda v: v // 2, "u / v"),
        (lambda v: 2 // v, "u / v"),
        (lambda v: v % 2, "u / v"),
        (lambda v: divmod(v, 2), "u / v"),
        (lambda v: (v > 0) & (v < 1), "where(c > d"),
        (lambda v: ~(v > 0), "where(c > d"),
        (lambda v: np.tanh(v), "cellwright.tanh"),
        (lambda v: np.add(v, 1, where=False), "numpy.add"),
        (lambda v: np.sum(v), "cellwright.sum"),
        (lambda v: np.concatenate([v, v]), "cellwright's operations"),
    ],
    ids=[
        "and",
        "or",
        "not",
        "bool",
        "chain",
        "len",
        "list",
        "unpack",
        "in",
        "index",
        "slice",
        "matmul",
        "tensor-matmul",
        "square",
        "power",
        "float",
        "int",
        "math.exp",
        "round",
        "asarray",
        "floordiv",
        "rfloordiv",
        "mod",
        "divmod",
        "&",
        "~",
        "np.tanh",
        "np.add",
        "np.sum",
        "np.concatenate",
    ],
)
def test_what_python_would_do_to_a_value_is_refused_with_the_remedy(use, remedy):
    with pytest.raises(cw.TraceError) as caught:

        @cell
        def bad(W, x, h):
            return use(W.v(h, x))

    assert remedy in str(caught.value)
    assert f"{Path(__file__)}:" in str(caught.value)


def test_calling_a_value_is_pythons_type_error():
    with pytest.raises(TypeError):

        @cell
        def bad(W, x, h):
            return W.v(h, x)(x)


@pytest.mark.parametrize("symbol", ["+", "-", "*", "/"])
def test_in_place_changes_are_refused_and_the_plain_form_is_shown(symbol):
    scope = {}
    text = f"def bad(W, x, c):\n    c {symbol}= W.v(c, x)\n    return c"
    exec(compile(text, "user_cell.py", "exec"), scope)
    with pytest.raises(cw.TraceError, match=r"user_cell\.py:2.*c = c \+ v"):
        cell(scope["bad"])


def test_assignment_to_units_is_refused():
    def define():
        @cell
        def bad(W, x, h):
            h[0] = 1.0  # here
            return tanh(W.h(h, x))

    refused(define, "whole row", error=cw.TraceError)


@pytest.mark.parametrize(
    ("use", "remedy"),
    [
        (torch.tanh, "cellwright.tanh"),
        (torch.sigmoid, "cellwright.sigmoid"),
        (torch.where, "cellwright.where"),
        (torch.clamp, "minimum"),
    ],
)
def test_torch_functions_are_refused_and_cellwrights_are_shown(use, remedy):
    def define():
        @cell
        def bad(W, x, h):
            args = (h > 0, h, h) if use is torch.where else (W.v(h, x),)
            return use(*args)  # here

    refused(define, f"torch.{use.__name__}", remedy, error=cw.TraceError)


def test_a_tensor_cannot_be_mixed_in_and_a_weight_is_shown():
    constant = torch.ones(H)

    def define():
        @cell
        def bad(W, x, h):
            return W.v(h, x) + constant  # here

    refused(define, "W.vector", "named input", error=cw.TraceError)


def test_a_tensors_method_is_refused_and_the_function_is_shown():
    def define():
        @cell
        def bad(W, x, h):
            return W.v(h, x).tanh()  # here

    refused(define, "tanh(v)", error=cw.TraceError)


def test_a_value_kept_from_another_call_is_refused():
    kept = []

    def define():
        @cell
        def bad(W, x, h):
            kept.append(h)
            return tanh(W.h(kept[0], x))  # here

    @cell
    def keeps(W, x, h):
        kept.append(h)
        return tanh(W.h(h, x))

    refused(define, "another trace", "a state", error=cw.TraceError)


@pytest.mark.parametrize("value", [True, "a", None, 1j, [1.0]])
def test_only_values_and_numbers_take_part_in_equations(value):
    def define():
        @cell
        def bad(W, x, h):
            return W.v(h, x) * value  # here

    refused(define, repr(value))


def test_a_numpy_array_is_refused_and_a_numpy_number_is_a_number():
    def define():
        @cell
        def bad(W, x, h):
            return np.ones(H) + W.v(h, x)  # here

    refused(define, "ndarray")

    @cell
    def good(W, x, h):
        return tanh(np.float64(0.5) * W.h(h, x))

    @cell
    def plain(W, x, h):
        return tanh(0.5 * W.h(h, x))

    assert good.graph == plain.graph


def test_an_array_as_a_constant_or_a_weight_as_a_number_is_no_operand():
    """A matrix maps values; a bare number in it cannot run and must not record."""
    with pytest.raises(cw.CellError):

        @cell
        def bad(W, x, h):
            return tanh(W.h(h, x, 1.0))


# -- comparisons ---------------------------------------------------------------


def test_a_comparison_outside_where_is_refused():
    def define():
        @cell
        def bad(W, x, h):
            return (h > 0) * tanh(W.v(h, x))  # here

    refused(define, "where(a > b, u, v)")


def test_where_needs_a_comparison():
    def define():
        @cell
        def bad(W, x, h):
            return where(h, W.v(h, x), 0)  # here

    refused(define, "where(a > b, u, v)")


def test_a_comparison_is_not_a_new_state():
    with pytest.raises(cw.CellError, match="where"):

        @cell
        def bad(W, x, h):
            return h > W.v(h, x)


# -- weights -------------------------------------------------------------------


def test_a_name_used_as_matrix_and_as_vector_is_refused():
    def define():
        @cell
        def bad(W, x, h):
            a = W.p * h
            return tanh(W.p(h, x) + a)  # here

    refused(define, "two ways", "W.p2")

    def other_order():
        @cell
        def bad(W, x, h):
            a = W.p(h, x)
            return tanh(W.p * a)  # here

    refused(other_order, "two ways", "W.p2")


@pytest.mark.parametrize(
    ("second", "what", "received", "expected"),
    [
        (lambda W, x, h: W.a(h, h), "operands", "(hidden_size, hidden_size)", "input"),
        (lambda W, x, h: W.a(x, h), "operands", "(input_size, hidden_size)", "hidden"),
        (lambda W, x, h: W.a(h), "operands", "(hidden_size)", "input_size"),
        (lambda W, x, h: W.a(h, x, bias=False), "bias", "False", "True"),
        (lambda W, x, h: W.a(h, x, bias=1.0), "bias", "1.0", "True"),
        (lambda W, x, h: W.a(h, x, heads=2), "heads", "2", "1"),
        (lambda W, x, h: W.a(h, x, bias=0.0), "bias", "0.0", "True"),
        (lambda W, x, h: W.a(h, x, size=3), "size", "3", "hidden_size"),
    ],
)
def test_a_shared_weight_must_agree_with_its_first_use(
    second, what, received, expected
):
    def define():
        @cell
        def bad(W, x, h):
            first = tanh(W.a(h, x))
            return first + second(W, x, h)

    with pytest.raises(cw.SizeError) as caught:
        define()
    message = str(caught.value)
    for word in (f"its {what} must be the same", received, expected, "two names"):
        assert word in message
    first_line = inspect.getsourcelines(define)[1] + 3
    assert f"first used at {Path(__file__)}:{first_line}" in message


def test_two_initial_values_of_one_vector_are_refused():
    with pytest.raises(cw.SizeError, match=r"W\.p is one shared weight, and its init"):

        @cell
        def bad(W, x, h):
            return tanh(W.h(h, x)) * W.vector("p", init=1.0) + W.vector("p", init=0.0)


@pytest.mark.parametrize(
    "name",
    [
        "type",
        "to",
        "half",
        "train",
        "float",
        "double",
        "forward",
        "parameters",
        "eval",
        "training",
    ],
)
def test_a_name_that_modules_need_is_refused(name):
    def define():
        @cell
        def bad(W, x, h):
            return tanh(getattr(W, name)(h, x))  # here

    refused(define, f"W.{name} cannot be a weight", f"W.{name}_gate")


@pytest.mark.parametrize("name", ["vector", "scalar"])
def test_a_weight_cannot_be_named_as_what_makes_weights(name):
    def define():
        @cell
        def bad(W, x, h):
            return tanh(W.a(h, x)) * W.vector(name)  # here

    refused(define, f"W.{name} cannot be a weight")


@pytest.mark.parametrize("name", ["hidden_size", "reset_parameters"])
def test_a_name_that_the_holder_of_the_weights_uses_is_refused(name):
    """It must not break later, without the user's line."""

    def define():
        @cell
        def risky(W, x, h):
            return tanh(getattr(W, name)(h, x))  # here

        cw.Recurrent(risky, X, H)

    refused(define, f"W.{name} cannot be a weight")


@pytest.mark.parametrize("name", ["_private", "1st", "a-b"])
def test_a_name_that_is_no_plain_identifier_is_refused(name):
    def define():
        @cell
        def bad(W, x, h):
            return tanh(W.h(h, x)) * W.vector(name)  # here

    refused(define, "cannot be a weight")


def test_an_unknown_option_of_a_matrix_is_refused():
    def define():
        @cell
        def bad(W, x, h):
            return tanh(W.h(h, x, activation="tanh"))  # here

    refused(define, "'activation'", "size=, bias=, heads=, columns=, antisymmetric=")


def test_a_matrix_without_an_operand_is_refused():
    def define():
        @cell
        def bad(W, x, h):
            return tanh(W.h())  # here

    refused(define, "W.h(h, x)")


@pytest.mark.parametrize("heads", [0, -1, 2.0, True])
def test_heads_is_a_positive_count(heads):
    def define():
        @cell
        def bad(W, x, h):
            return tanh(W.h(h, x, heads=heads))  # here

    refused(define, "heads is a count", repr(heads))


# -- what a cell returns -------------------------------------------------------


def test_a_state_that_is_never_returned_is_refused():
    def define():
        @cell  # here
        def bad(W, x, h, c):
            return tanh(W.h(h, x))

        cw.Recurrent(bad, X, H)

    refused(define, "'c' is never returned", "return h, c")


@pytest.mark.parametrize(
    "results", [lambda h: (h, h, h), lambda h: [h, h, h, h], lambda h: ()]
)
def test_a_wrong_number_of_new_states_is_refused(results):
    def define():
        @cell  # here
        def bad(W, x, h):
            return results(tanh(W.h(h, x)))

        cw.Recurrent(bad, X, H)

    refused(define, "expected 1: return h", "in the order of its arguments")


def test_a_state_returned_unchanged_is_refused():
    def define():
        @cell  # here
        def bad(W, x, h, c):
            return tanh(W.h(h, x) + c), c

    refused(define, "state 'c' is returned unchanged", "named input")


@pytest.mark.parametrize("result", [None, "h", torch.ones(2)])
def test_a_cell_returns_computed_values_only(result):
    def define():
        @cell  # here
        def bad(W, x, h):
            tanh(W.h(h, x))
            return result

    refused(define, type(result).__name__, error=cw.TraceError)


@pytest.mark.parametrize(
    "function",
    [lambda W: W, lambda: 0, lambda W, *x: x, lambda W, x, *hs: x, lambda W, x, **k: x],
    ids=["W alone", "nothing", "*x", "*states", "**options"],
)
def test_a_signature_that_is_no_cells_is_refused(function):
    with pytest.raises(cw.CellError, match=r"test_language\.py:\d+.*\(W, x, h\)"):
        cell(function)


def test_an_initial_value_that_is_no_number_is_refused_with_the_line():
    with pytest.raises(cw.CellError, match=r"test_language\.py:\d+"):

        @cell
        def bad(W, x, h="zero"):
            return tanh(W.h(h, x))


# -- sizes ---------------------------------------------------------------------


def test_sizes_that_do_not_agree_are_refused_at_bind_with_the_users_line():
    @cell
    def added(W, x, h):
        return tanh(W.a(h)) + x  # here

    added.graph.bind(input_size=4, hidden_size=4)
    with pytest.raises(cw.SizeError) as caught:
        cw.Recurrent(added, 3, 4)
    assert here(added.function) in str(caught.value)
    assert "received sizes 4 and 3" in str(caught.value)
    assert "matrix" in str(caught.value)


def test_numbers_that_do_not_agree_are_refused_while_tracing():
    def define():
        @cell
        def bad(W, x, h):
            return tanh(W.h(h, x)) + W.a(x, size=3) * W.b(x, size=5)  # here

    refused(define, "received sizes 3 and 5", error=cw.SizeError)


def test_a_new_state_of_another_size_is_refused_and_the_annotation_is_shown():
    @cell
    def shrinks(W, x, h):
        return tanh(W.a(h, x, size=2))  # here

    with pytest.raises(cw.SizeError) as caught:
        shrinks.graph.bind(**SIZES)
    for word in (here(shrinks.function), "received 2, expected 4", '"proj_size"'):
        assert word in str(caught.value)


def test_heads_that_do_not_divide_a_size_are_refused_at_bind():
    @cell
    def headed(W, x, h):
        return tanh(W.a(h, x, heads=4))  # here

    with pytest.raises(cw.SizeError) as caught:
        cw.Recurrent(headed, 6, 4)
    for word in (here(headed.function), "4 heads", "received a size of 6"):
        assert word in str(caught.value)


def test_bind_wants_every_size_and_no_other():
    graph = cw.cells.lstm_projected.graph
    assert set(graph.size_names) == {"input_size", "hidden_size", "proj_size"}
    with pytest.raises(cw.SizeError, match="needs proj_size"):
        graph.bind(input_size=2, hidden_size=3)
    with pytest.raises(cw.SizeError, match=r"'hiden_size'.*mean 'hidden_size'"):
        graph.bind(input_size=2, hiden_size=3, proj_size=1)
    for wrong in (0, -1, 2.0, True, "3"):
        with pytest.raises(cw.SizeError, match="positive integer"):
            graph.bind(input_size=wrong, hidden_size=3, proj_size=1)


def test_a_graph_is_bound_without_changing_the_symbolic_one():
    graph = cw.cells.lstm.graph
    before = graph.to_text()
    bound = graph.bind(**SIZES)
    assert bound.parameters()["f.weight"] == (H, H + X)
    assert graph.to_text() == before
    assert graph.parameters()["f.weight"] == ("hidden_size", "hidden_size + input_size")


def test_a_state_takes_the_size_of_its_annotation():
    @cell
    def sized(W, x, h: "memory_size", c: 3):  # noqa: F821
        c = tanh(W.c(h, c, x, size=3))
        return tanh(W.h(c, x, size="memory_size")), c

    layer = layer_of(sized, memory_size=5)
    y, (h, c) = layer(normal(T, B, X, seed=1))
    assert y.shape == (T, B, 5)
    assert (h.shape, c.shape) == ((1, B, 5), (1, B, 3))


def test_annotations_work_under_the_future_import():
    scope = {"cell": cell, "tanh": tanh}
    text = (
        "from __future__ import annotations\n"
        "@cell\n"
        "def sized(W, x, h: 'memory_size', c: 3):\n"
        "    c = tanh(W.c(h, c, x, size=3))\n"
        "    return tanh(W.h(c, x, size='memory_size')), c\n"
    )
    exec(compile(text, "future_cell.py", "exec"), scope)
    assert [s.size for s in scope["sized"].states] == ["memory_size", 3]


# -- initial values ------------------------------------------------------------


def test_a_states_default_is_its_initial_value():
    @cell
    def valued(W, x, h=0.5, m=-math.inf):
        m = cw.maximum(m, W.a(h, x))
        return tanh(m + 0.1 * h), m

    assert [s.init for s in valued.states] == [0.5, -math.inf]
    layer = layer_of(valued)
    x = normal(1, B, X, seed=1)
    h = torch.full((B, H), 0.5, dtype=torch.float64)
    m = oracles.affine(layer.cells[0].a, h, x[0])
    y, (_, final) = layer(x)
    assert_close(final[0], m)
    assert_close(y[0], torch.tanh(m + 0.1 * h))


def test_declared_initial_values_of_weights_are_kept_and_others_drawn():
    @cell
    def valued(W, x, h):
        a = W.a(h, x, bias=1.0) + W.vector("p", init=0.25) * h
        return tanh(a) * W.scalar("s", init=-2.0) + W.q * h + W.scalar("u")

    for _ in range(2):
        W = cw.Recurrent(valued, X, H).cells[0]
        assert W.a.bias.tolist() == [1.0] * H
        assert W.p.tolist() == [0.25] * H
        assert W.s.shape == ()
        assert W.s.item() == -2.0
        bound = 1 / math.sqrt(H)
        for drawn in (W.a.weight, W.q, W.u):
            assert 0 < drawn.abs().max() <= bound
        assert W.q.unique().numel() == H


# -- values and equations against hand-written steps ---------------------------


def held_to(definition, step, x=None, states=1, **options):
    """A layer of `definition` equals the hand-written `step`: values, gradients."""
    layer = layer_of(definition, **options)
    x = normal(T, B, X, seed=1) if x is None else x
    olds = [normal(1, B, H, seed=50 + k) for k in range(states)]
    start = olds[0] if states == 1 else tuple(olds)
    assert_same_values_and_gradients(
        lambda: layer(x, start),
        lambda: oracles.layers(step, layer.cells, x, olds),
        leaves_of(layer, x, olds),
    )
    return layer


@pytest.mark.parametrize("heads", [1, 2])
def test_heads_are_a_block_diagonal_matrix(heads):
    @cell
    def headed(W, x, h):
        return tanh(W.a(h, x, heads=heads))

    def dense(W, x, h):
        """The same map as one matrix: block_diag for h beside block_diag for x."""
        weight = W.a.weight.reshape(heads, H // heads, (H + X) // heads)
        for_h = torch.block_diag(*(w[:, : H // heads] for w in weight))
        for_x = torch.block_diag(*(w[:, H // heads :] for w in weight))
        h = torch.tanh(h @ for_h.T + x @ for_x.T + W.a.bias)
        return h, [h]

    layer = held_to(headed, dense)
    expected = (heads, H // heads, (H + X) // heads) if heads > 1 else (H, H + X)
    assert tuple(layer.cells[0].a.weight.shape) == expected


def test_a_name_used_twice_is_one_shared_weight():
    @cell
    def shared(W, x, h, c):
        return tanh(W.a(h, x)), sigmoid(W.a(c, x))

    def by_hand(W, x, h, c):
        both = torch.cat([h, c]) @ W.a.weight[:, :H].T
        both = both + (x @ W.a.weight[:, H:].T).repeat(2, 1) + W.a.bias
        h, c = both.chunk(2)
        return torch.tanh(h), [torch.tanh(h), torch.sigmoid(c)]

    layer = held_to(shared, by_hand, states=2)
    assert set(dict(layer.named_parameters())) == {"cells.0.a.weight", "cells.0.a.bias"}


def test_one_vector_may_be_written_many_times():
    @cell
    def diagonal(W, x, h):
        return tanh(W.p * h + W.a(x)) * W.p

    def by_hand(W, x, h):
        h = torch.tanh(torch.diag(W.p) @ h.T + W.a.weight @ x.T + W.a.bias[:, None]).T
        return h @ torch.diag(W.p), [h @ torch.diag(W.p)]

    held_to(diagonal, by_hand)


def test_a_vector_has_the_size_of_its_partner():
    @cell
    def gained(W, x, h):
        return tanh(W.a(h, W.p * x))

    def by_hand(W, x, h):
        h = torch.tanh(oracles.affine(W.a, h, torch.einsum("i,bi->bi", W.p, x)))
        return h, [h]

    layer = held_to(gained, by_hand)
    assert layer.cells[0].p.shape == (X,)


def test_a_vector_as_an_operand_is_repeated_for_every_row():
    @cell
    def constant(W, x, h):
        return tanh(W.a(h, x, W.p))

    def by_hand(W, x, h):
        rows = torch.cat([h, x, W.p[None].repeat(len(x), 1)], 1)
        h = torch.tanh(rows @ W.a.weight.T + W.a.bias)
        return h, [h]

    held_to(constant, by_hand)


def test_a_weight_that_feeds_nothing_runs():
    """The function asks for W.p when it runs, even where its value is not used."""

    @cell
    def idle(W, x, h):
        unused = W.p * h  # noqa: F841
        return tanh(W.h(h, x))

    layer = layer_of(idle)
    assert layer(normal(T, B, X, seed=1))[0].shape == (T, B, H)


def test_an_unused_gate_is_kept_and_runs():
    @cell
    def idle(W, x, h):
        unused = sigmoid(W.u(h, x))  # noqa: F841
        return tanh(W.h(h, x))

    assert "u" in idle.graph.values
    layer = layer_of(idle)
    assert layer(normal(T, B, X, seed=1))[0].shape == (T, B, H)


def test_two_stages_use_a_value_of_this_step_in_a_matrix():
    @cell
    def deep(W, x, h):
        a = tanh(W.a(h, x))
        b = tanh(W.b(a, h))
        return tanh(W.c(b, a, x))

    def by_hand(W, x, h):
        a = torch.tanh(oracles.affine(W.a, h, x))
        b = torch.tanh(oracles.affine(W.b, a, h))
        c = torch.tanh(oracles.affine(W.c, b, a, x))
        return c, [c]

    held_to(deep, by_hand)


def test_an_output_that_is_no_state_comes_first():
    @cell
    def read_out(W, x, h, c):
        c = tanh(W.c(c, x) + h)
        h = sigmoid(W.h(h, c))
        return W.y(h, c, size=2), h, c

    def by_hand(W, x, h, c):
        c = torch.tanh(oracles.affine(W.c, c, x) + h)
        h = torch.sigmoid(oracles.affine(W.h, h, c))
        return oracles.affine(W.y, h, c), [h, c]

    layer = held_to(read_out, by_hand, states=2)
    assert layer.output_size == 2
    assert not layer.cell.graph.output_is_state


def test_a_cell_without_states_is_a_map():
    @cell
    def plain(W, x):
        return tanh(W.a(x))

    layer = layer_of(plain)
    x = normal(T, B, X, seed=1)
    y, states = layer(x)
    assert states == ()
    W = layer.cells[0]
    assert_close(y, torch.tanh(torch.einsum("ok,tbk->tbo", W.a.weight, x) + W.a.bias))


# -- hyperparameters and named inputs ------------------------------------------


@cell
def leaky(W, x, h, *, alpha=0.25, activation=tanh, twice=False):
    n = activation(W.n(h, x))
    n = 2 * n if twice else n
    return (1 - alpha) * h + alpha * n


def leaky_by_hand(alpha=0.25, activation=torch.tanh, factor=1):
    def step(W, x, h):
        n = factor * activation(oracles.affine(W.n, h, x))
        h = (1 - alpha) * h + alpha * n
        return h, [h]

    return step


def test_keyword_arguments_are_hyperparameters_with_defaults():
    held_to(leaky, leaky_by_hand())
    held_to(leaky, leaky_by_hand(0.5), alpha=0.5)
    held_to(leaky, leaky_by_hand(0.5, torch.sigmoid), alpha=0.5, activation=sigmoid)
    held_to(leaky, leaky_by_hand(factor=2), twice=True)
    assert leaky.hyperparameters["alpha"] == 0.25


def test_partial_binds_hyperparameters_and_leaves_the_cell_alone():
    other = leaky.partial(alpha=0.5)
    assert other.graph != leaky.graph
    assert other.hyperparameters["alpha"] == 0.5
    assert leaky.hyperparameters["alpha"] == 0.25
    held_to(other, leaky_by_hand(0.5))


def test_a_keyword_without_a_value_is_a_hyperparameter_once_it_is_given_one():
    @cell
    def scaled(W, x, h, *, alpha):
        return alpha * h + tanh(W.n(h, x))

    def by_hand(W, x, h):
        h = 0.3 * h + torch.tanh(oracles.affine(W.n, h, x))
        return h, [h]

    held_to(scaled, by_hand, alpha=0.3)
    with pytest.raises(cw.ArgumentError, match=r"'alpha'.*inputs=\{'alpha': 1\}"):
        cw.Recurrent(scaled, X, H)


def test_a_hyperparameter_can_be_made_an_input():
    @cell
    def timed(W, x, h, *, dt=1.0):
        return h + dt * tanh(W.n(h, x))

    layer = layer_of(timed, inputs={"dt": 1})
    x, h = normal(T, B, X, seed=1), normal(1, B, H, seed=50)
    dt = normal(T, B, 1, seed=9)
    assert_same_values_and_gradients(
        lambda: layer(x, h, dt=dt),
        lambda: timed_by_hand(layer, x, dt, h[0]),
        {**leaves_of(layer, x, [h]), "dt": dt},
    )


def test_an_unknown_hyperparameter_is_refused_and_the_nearest_is_shown():
    with pytest.raises(cw.CellError, match=r"'alfa'.*'alpha'"):
        leaky.partial(alfa=1.0)
    with pytest.raises(cw.ArgumentError, match=r"alfa=1\.0.*'alpha'"):
        cw.Recurrent(leaky, X, H, alfa=1.0)


def timed_by_hand(layer, x, dt, h):
    outputs = []
    for t in range(len(x)):
        h = h + dt[t] * torch.tanh(oracles.affine(layer.cells[0].n, h, x[t]))
        outputs.append(h)
    return torch.stack(outputs), h[None]


@cell(inputs={"dt": 1})
def timed_positional(W, x, h, dt):
    return h + dt * tanh(W.n(h, x))


@cell(inputs={"dt": 1})
def timed_first(W, x, dt, h):
    return h + dt * tanh(W.n(h, x))


@cell
def timed_keyword(W, x, h, *, dt):
    return h + dt * tanh(W.n(h, x))


@cell
def timed_late(W, x, h, dt):  # the layer says that dt is an input
    return h + dt * tanh(W.n(h, x))


@pytest.mark.parametrize("size", [1, H])
@pytest.mark.parametrize(
    "timed", [timed_positional, timed_first, timed_keyword, timed_late]
)
def test_a_named_input_is_seen_at_every_step(timed, size):
    layer = layer_of(timed, inputs={"dt": size})
    x, h = normal(T, B, X, seed=1), normal(1, B, H, seed=50)
    dt = normal(T, B, size, seed=9)
    assert_same_values_and_gradients(
        lambda: layer(x, h, dt=dt),
        lambda: timed_by_hand(layer, x, dt, h[0]),
        {**leaves_of(layer, x, [h]), "dt": dt},
    )


def test_an_input_that_was_never_declared_is_a_missing_state_with_both_remedies():
    with pytest.raises(cw.CellError) as caught:
        cw.Recurrent(timed_late, X, H)
    assert "'dt' is never returned" in str(caught.value)
    assert "input" in str(caught.value)


def test_an_input_without_an_argument_is_refused():
    with pytest.raises(cw.CellError, match=r"no argument for the input 'mass'"):
        cw.Recurrent(cw.cells.lstm, X, H, inputs={"mass": 1})


def test_two_cells_of_one_function_can_have_other_inputs():
    a = timed_late.with_inputs({"dt": 1})
    b = timed_late.with_inputs({"dt": H})
    assert [i.size for i in a.graph.inputs] == ["input_size", 1]
    assert [i.size for i in b.graph.inputs] == ["input_size", H]


# -- names ---------------------------------------------------------------------


def names(function):
    """{name: printed right-hand side's operation} of a cell's values."""
    graph = cell(function).graph
    return {n: graph.nodes[i].op for n, i in graph.names}


def test_an_activation_takes_the_name_of_its_affine():
    def bare(W, x, h):
        return sigmoid(W.f(h, x)) * h

    assert names(bare) == {"f": "sigmoid", "h": "mul"}


@pytest.mark.parametrize(
    "argument",
    [
        lambda W, x, h: W.f(h, x) + W.p * h,
        lambda W, x, h: W.p * h + W.f(h, x),
        lambda W, x, h: W.f(h, x) - 1,
        lambda W, x, h: 1 - W.f(h, x),
        lambda W, x, h: -W.f(h, x),
        lambda W, x, h: 2 * W.f(h, x),
        lambda W, x, h: W.f(h, x) / 2,
        lambda W, x, h: W.s * W.f(h, x),
        lambda W, x, h: W.scalar("s") * W.f(h, x),
        lambda W, x, h: cw.layer_norm(W.f(h, x)),
        lambda W, x, h: W.gain * cw.layer_norm(W.f(h, x)) + W.shift,
        lambda W, x, h: h * x_free(W, h) + W.f(h, x),
    ],
)
def test_the_affine_is_found_through_sums_scales_and_layer_norm(argument):
    def named(W, x, h):
        return sigmoid(argument(W, x, h)) * h

    assert names(named)["f"] == "sigmoid"


def x_free(W, h):
    return W.k * h


@pytest.mark.parametrize(
    "argument",
    [
        lambda W, x, h: W.f(h, x) * h,
        lambda W, x, h: W.f(h, x) / (1 + h * h),
        lambda W, x, h: 1 / W.f(h, x),
        lambda W, x, h: cw.exp(-W.f(h, x)),
        lambda W, x, h: cw.maximum(W.f(h, x), 0),
        lambda W, x, h: cw.sum(W.f(h, x)) * h,
    ],
)
def test_through_anything_else_an_affine_names_its_own_value(argument):
    def named(W, x, h):
        return sigmoid(argument(W, x, h)) * h

    found = names(named)
    assert found["f"] in ("affine", "exp")
    if found["f"] == "exp":
        assert "exp" in inspect.getsource(argument)


def test_the_first_affine_written_names_and_the_second_names_itself():
    def gru_like(W, x, h):
        r = sigmoid(W.r(h, x))
        return tanh(W.n(x) + r * W.m(h))

    found = names(gru_like)
    assert found["n"] == "tanh"
    assert found["m"] == "affine"
    assert found["r"] == "sigmoid"

    def two(W, x, h):
        return tanh(W.a(x) + W.b(h)) * h

    assert names(two)["a"] == "tanh"
    assert names(two)["b"] == "affine"


def test_an_affine_used_elsewhere_too_names_its_own_value():
    def janet_like(W, x, h):
        s = W.s(h, x)
        return sigmoid(s) * h + sigmoid(s - 1)

    assert names(janet_like) == {"s": "affine", "h": "add"}


def test_the_sum_used_elsewhere_keeps_the_activation_unnamed():
    def reused(W, x, h):
        a = W.a(h, x) + W.p * h
        return sigmoid(a) * a

    assert names(reused)["a"] == "affine"


def test_a_shared_affine_names_two_values():
    def twice(W, x, h, c):
        f = sigmoid(W.f(h, x))
        return f * h, sigmoid(W.f(c, x)) * c

    found = names(twice)
    assert found["f"] == found["f.2"] == "sigmoid"


def test_name_names_any_value():
    def explicit(W, x, h):
        m = cw.name("m", h * sigmoid(W.f(h, x)))
        return tanh(m)

    assert names(explicit) == {"f": "sigmoid", "m": "mul", "h": "tanh"}


def test_name_can_rename_a_gate():
    def renamed(W, x, h):
        return cw.name("forget", sigmoid(W.f(h, x))) * h

    assert names(renamed) == {"forget": "sigmoid", "h": "mul"}


def test_name_gives_tensors_back_as_they_are():
    v = torch.ones(2)
    assert cw.name("v", v) is v


@pytest.mark.parametrize("label", ["", "a b", "f.pre", "1st"])
def test_a_name_is_an_identifier(label):
    def define():
        @cell
        def bad(W, x, h):
            return cw.name(label, sigmoid(W.f(h, x))) * h  # here

    refused(define, "identifier")


def test_one_name_for_two_values_is_refused():
    def define():
        @cell
        def bad(W, x, h):
            a = cw.name("a", sigmoid(W.f(h, x)))
            return cw.name("a", tanh(W.g(h, x))) * a  # here

    refused(define, "'a'", "no other value")


def test_an_explicit_name_that_an_affine_bears_goes_to_the_explicit_value():
    def both(W, x, h):
        f = cw.name("f", sigmoid(W.a(h, x)))
        return f * tanh(W.f(h, x))

    found = cell(both).graph
    assert found.nodes[found.values["f"]].op == "sigmoid"


def test_a_state_is_named_by_its_new_value():
    def elman(W, x, h):
        return tanh(W.h(h, x))

    assert names(elman) == {"h": "tanh"}
    graph = cell(elman).graph
    assert graph.values["h"] == graph.updates[0]


def test_a_gate_with_a_states_name_is_refused_unless_it_is_that_state():
    def define():
        @cell
        def bad(W, x, h, c):
            g = tanh(W.c(h, x))  # here
            c = sigmoid(W.f(h, x)) * c + g
            return tanh(c), c

    refused(define, "named 'c' is not the new value of the state 'c'", "Rename", "W.g")


def test_an_explicit_name_of_a_state_is_refused_unless_it_is_that_state():
    def define():
        @cell
        def bad(W, x, h):
            a = cw.name("h", sigmoid(W.f(h, x)))  # here
            return a * h

    refused(define, "named 'h'")


def test_pre_is_what_the_activation_was_applied_to():
    from cellwright.language.names import activation_arguments

    graph = cw.cells.peephole_diagonal.graph
    before = activation_arguments(graph)
    assert set(before) == {"f.pre", "i.pre", "g.pre", "o.pre"}
    assert graph.nodes[before["f.pre"]].op == "add"
    assert graph.nodes[before["g.pre"]].op == "affine"
    assert "h.pre" in activation_arguments(cw.cells.rnn.graph)


def test_gates_are_the_named_values_that_are_no_states():
    assert set(cw.cells.lstm.graph.gates) == {"f", "i", "g", "o"}
    assert set(cw.cells.lstm.graph.values) == {"f", "i", "g", "o", "h", "c"}
    assert set(cw.cells.gru_reset_after.graph.gates) == {"r", "z", "n", "m"}
    assert set(cw.cells.janet.graph.gates) == {"s", "f", "g"}


# -- replace -------------------------------------------------------------------


def test_replacing_an_unknown_gate_is_refused_and_the_gates_are_shown():
    with pytest.raises(cw.CellError, match=r"no gate 'k'.*f, i, g, o"):
        cw.cells.lstm.replace(k=cw.hard_sigmoid)
    with pytest.raises(cw.CellError, match="no gate 'm'"):
        cw.cells.gru_reset_after.replace(m=cw.hard_sigmoid)  # an affine alone


def test_replacing_with_something_that_is_no_function_is_refused():
    with pytest.raises((cw.CellError, TypeError)):
        cw.cells.lstm.replace(f=0.5)


def test_replacing_with_a_constant_function_is_a_gate_without_its_input():
    always = cw.cells.lstm.replace(f=lambda v: 1.0 + 0 * v)

    def no_forgetting(W, x, h, c):
        i, g, o = (oracles.affine(getattr(W, n), h, x) for n in "igo")
        c = c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, [h, c]

    layer = layer_of(always)
    x = normal(T, B, X, seed=1)
    zeros = [torch.zeros(1, B, H, dtype=torch.float64)] * 2
    expected, _ = oracles.layers(no_forgetting, layer.cells, x, zeros)
    assert_close(layer(x)[0], expected)


# -- the graph as data ---------------------------------------------------------


def test_graphs_are_frozen_and_compare_by_what_they_compute():
    @cell
    def one(W, x, h):
        return tanh(W.a(h, x)) * h

    @cell
    def other(W, x, h):
        gate = tanh(W.a(h, x))
        return gate * h

    @cell
    def swapped(W, x, h):
        return h * tanh(W.a(h, x))

    assert one.graph == other.graph
    assert hash(one.graph) == hash(other.graph)
    assert one.graph != swapped.graph
    with pytest.raises(AttributeError):
        one.graph.output = 0


def test_graphs_that_start_from_other_biases_are_not_equal():
    """Python says True == 1.0 and False == 0.0; a bias's initial value does not."""

    def biased(value):
        @cell
        def one(W, x, h):
            return tanh(W.a(h, x, bias=value))

        return one.graph

    graphs = [biased(v) for v in (True, 1.0, False, 0.0)]
    for k, graph in enumerate(graphs):
        assert [graph == other for other in graphs] == [k == j for j in range(4)]


def test_equations_print_readably():
    assert cw.cells.lstm.equations == [
        "f = sigmoid(W.f(h, x))",
        "i = sigmoid(W.i(h, x))",
        "g = tanh(W.g(h, x))",
        "c_new = f * c + i * g",
        "o = sigmoid(W.o(h, x))",
        "h_new = o * tanh(c_new)",
        "return h_new, c_new",
    ]
    assert "f = sigmoid(W.f(h, x))" in repr(cw.cells.lstm)


def test_nothing_random_happens_in_a_cell():
    layer = layer_of(cw.cells.fgr)
    layer.train()
    x = normal(T, B, X, seed=1)
    before = torch.get_rng_state()
    assert torch.equal(layer(x)[0], layer(x)[0])
    assert torch.equal(before, torch.get_rng_state())


def test_the_verifier_names_the_pass_and_the_node():
    import dataclasses

    from cellwright.language import verify

    graph = cw.cells.rnn.graph
    last = len(graph.nodes) - 1
    broken = dataclasses.replace(graph.nodes[last], args=(last,))
    nodes = (*graph.nodes[:-1], broken)
    with pytest.raises(cw.CellError, match=r"after a pass\] node \d+ \(tanh\)"):
        verify(dataclasses.replace(graph, nodes=nodes), after="a pass")
    unknown = dataclasses.replace(graph.nodes[last], op="nonsense")
    with pytest.raises(cw.CellError, match="unknown operation; received 'nonsense'"):
        verify(
            dataclasses.replace(graph, nodes=(*graph.nodes[:-1], unknown)), after="it"
        )


# -- loading a user's file -----------------------------------------------------

_FILE = """\
from cellwright import cell, tanh

@cell
def mine(W, x, h):
    return tanh(W.h(h, x))
"""


def test_a_cell_is_loaded_from_a_file_by_name_or_alone(tmp_path):
    path = tmp_path / "my_cells.py"
    path.write_text(_FILE)
    assert cw.load_cell(f"{path}:mine").graph == cw.cells.rnn.graph
    assert cw.load_cell(str(path)).graph == cw.cells.rnn.graph
    assert cw.cells.get(f"{path}:mine").graph == cw.cells.rnn.graph


def test_loading_says_what_is_missing_or_wrong(tmp_path):
    path = tmp_path / "my_cells.py"
    with pytest.raises(cw.CellError, match=r"no such file; received '.*my_cells\.py'"):
        cw.load_cell(f"{path}:mine")
    path.write_text(_FILE)
    with pytest.raises(cw.CellError, match=r"defines no cell 'mime'.*'mine'"):
        cw.load_cell(f"{path}:mime")
    path.write_text("import no_such_module\n")
    with pytest.raises(cw.CellError, match="failed while it was loaded: ModuleNotF"):
        cw.load_cell(f"{path}:mine")
    path.write_text(_FILE.replace("W.h(h, x)", "h @ x"))
    with pytest.raises(cw.TraceError, match=r"my_cells\.py:5\]"):
        cw.load_cell(f"{path}:mine")
    path.write_text("x = 1\n")
    with pytest.raises(cw.CellError, match="no cell"):
        cw.load_cell(str(path))


@pytest.mark.parametrize("folder", ["my.pyproject", ".pyenv", "a.py", "b.py:c", "d:e"])
def test_a_cell_is_found_in_a_folder_of_any_name(tmp_path, folder):
    path = tmp_path / folder / "cells.py"
    path.parent.mkdir()
    path.write_text(_FILE)
    assert cw.load_cell(f"{path}:mine").graph == cw.cells.rnn.graph
    assert cw.cells.get(str(path)).graph == cw.cells.rnn.graph
    with pytest.raises(cw.CellError, match=r"no such file; received '.*other\.py'"):
        cw.load_cell(f"{path.parent}/other.py:mine")


def test_the_drive_of_a_path_is_no_name():
    """A path of Windows has a colon; only the last one after `.py` ends the file."""
    for reference in (r"C:\x\cells.py:mine", r"C:\x\cells.py"):
        with pytest.raises(cw.CellError, match=r"received 'C:.*cells\.py', expected"):
            cw.load_cell(reference)


def _beside(folder, name, helper):
    """A cell file whose neighbours, a module and a package, say its activation."""
    (folder / "parts").mkdir(parents=True)
    (folder / "parts" / "__init__.py").write_text("from . import inner\n")
    (folder / "parts" / "inner.py").write_text(f"from cellwright import {helper}\n")
    (folder / "helper.py").write_text(f"from parts.inner import {helper} as act\n")
    file = folder / f"{name}.py"
    file.write_text(
        "from cellwright import cell\nfrom helper import act\n\n@cell\n"
        "def mine(W, x, h):\n    return act(W.h(h, x))\n"
    )
    return f"{file}:mine"


def test_a_cell_file_imports_its_neighbours_and_no_other_files(tmp_path, monkeypatch):
    """As under `python FILE.py`, whatever other files have called theirs."""
    first = _beside(tmp_path / "one", "cells", "tanh")
    second = _beside(tmp_path / "two", "cells", "relu")
    stranger = types.ModuleType("helper")
    stranger.act = sigmoid
    monkeypatch.setitem(sys.modules, "helper", stranger)
    before, path = dict(sys.modules), list(sys.path)
    for _ in range(2):
        assert cw.load_cell(first).graph == cw.cells.rnn.graph
        assert cw.load_cell(second).graph == cw.cells.rnn_relu.graph
    assert sys.path == path
    assert sys.modules["helper"] is stranger
    assert set(sys.modules) == set(before)


def test_a_module_that_is_loaded_from_there_is_the_same_one(tmp_path, monkeypatch):
    """A script beside the cell's file shares its modules with it."""
    reference = _beside(tmp_path / "one", "cells", "tanh")
    monkeypatch.syspath_prepend(str(tmp_path / "one"))
    own = importlib.import_module("helper")
    try:
        assert cw.load_cell(reference).graph == cw.cells.rnn.graph
        assert sys.modules["helper"] is own
        assert "parts.inner" in sys.modules
    finally:
        for name in ("helper", "parts", "parts.inner"):
            del sys.modules[name]


def test_neighbours_are_forgotten_after_a_failure(tmp_path):
    reference = _beside(tmp_path / "one", "cells", "tanh")
    (tmp_path / "one" / "cells.py").write_text("import helper\n1 / 0\n")
    path = list(sys.path)
    with pytest.raises(cw.CellError, match="ZeroDivisionError"):
        cw.load_cell(reference)
    assert sys.path == path
    assert not {"helper", "parts", "parts.inner"} & set(sys.modules)


def test_a_module_named_as_a_library_is_no_reason_to_load_that_again(tmp_path):
    path = tmp_path / "my_cells.py"
    path.write_text(_FILE)
    for name in ("cellwright", "torch", "json", "__main__"):
        (tmp_path / f"{name}.py").write_text("1 / 0\n")
    kept = {n: sys.modules[n] for n in ("cellwright", "torch", "json", "__main__")}
    assert cw.load_cell(f"{path}:mine").graph == cw.cells.rnn.graph
    assert {n: sys.modules[n] for n in kept} == kept


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("import sys\nsys.exit(3)\n", r"my_cells\.py\] ended the program.*exit\(3\)"),
        ("raise SystemExit\n", r"my_cells\.py\] ended the program"),
        ("raise ValueError('one\\ntwo')\n", r"failed while.*ValueError: one$"),
        ("def f(:\n", r"failed while it was loaded: SyntaxError"),
        ("def f(): f()\nf()\n", r"failed while it was loaded: RecursionError"),
    ],
)
def test_a_cell_file_that_fails_or_exits_is_an_error_of_one_line(tmp_path, body, words):
    path = tmp_path / "my_cells.py"
    path.write_text(body)
    with pytest.raises(cw.CellError, match=words) as caught:
        cw.load_cell(f"{path}:mine")
    assert "\n" not in str(caught.value)
