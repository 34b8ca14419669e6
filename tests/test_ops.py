"""The operation table: every value is torch's, every derivative rule is autograd's."""

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F

import cellwright as cw
from cellwright.language import FUNCTIONS, OPS
from cellwright.language.builder import Builder
from cellwright.language.evaluate import evaluate_nodes
from cellwright.language.trace import Traced
from oracles import assert_close, normal, random_cotangents, randomise
from strategies import table_gradients
from test_matrices import OF_MATRICES

# By hand, or torch's own: (arguments) -> tensor.
UNARY = {
    "neg": lambda v: -v,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": F.relu,
    "softplus": F.softplus,
    "exp": torch.exp,
    "log": torch.log,
    "abs": torch.abs,
    "sqrt": torch.sqrt,
    "sin": torch.sin,
    "cos": torch.cos,
    "softsign": F.softsign,
    # torch's hardsigmoid multiplies by a float32 1/6 in its backward; hardtanh is exact
    "hard_sigmoid": lambda v: (F.hardtanh(v, -3.0, 3.0) + 3) / 6,
    "hard_tanh": F.hardtanh,
    "step": lambda v: F.relu(torch.sign(v)),
    "identity": lambda v: v * 1,
    "sum": lambda v: torch.einsum("...i->...", v)[..., None],
    "softmax": lambda v: F.softmax(v, dim=-1),
    "layer_norm": lambda v: F.layer_norm(v, v.shape[-1:]),
}
BINARY = {
    "add": torch.add,
    "sub": torch.subtract,
    "mul": torch.multiply,
    "div": torch.divide,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
}
COMPARISONS = {
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "equal": torch.eq,
    "not_equal": torch.ne,
}
POSITIVE = ("log", "sqrt")  # defined above zero
KINKS = torch.tensor(
    [-20.0, -3.0, -1.0, -0.0, 0.0, 1.0, 3.0, 20.0, 20.5], dtype=torch.float64
)


def test_every_operation_is_tested_here():
    known = {*UNARY, *BINARY, *COMPARISONS, "where", "block_mean", "spread"}
    known |= {*OF_MATRICES, "to_matrix", "to_vector"}
    assert known == set(OPS)
    public = {op.name for op in vars(cw).values() if isinstance(op, type(OPS["exp"]))}
    assert public == set(FUNCTIONS)


def points(name, seed=1, shape=(3, 4)):
    v = normal(*shape, seed=seed, grad=False) * 2
    return v.abs() + 0.1 if name in POSITIVE else v


def rule_on_tensors(op, g, args, **attrs):
    attrs = {**op.attrs, **attrs}
    y = op.evaluate(*args, **attrs)
    with torch.no_grad():
        return op.derivative(g, y, *args, **attrs)


def rule_on_traced_values(op, g, args, **attrs):
    """The rule recorded on traced values, then evaluated."""
    attrs = {**op.attrs, **attrs}
    y = op.evaluate(*args, **attrs)
    builder = Builder("rule")
    leaves = {"g": g, "y": y, **{f"a{k}": a for k, a in enumerate(args)}}
    traced = []
    for name, value in leaves.items():
        is_condition = name != "g" and value.dtype == torch.bool
        if is_condition:  # a condition can only be a comparison: a0 = (one > zero)
            one = builder.add_input("one", value.shape[-1])
            node = builder.apply(OPS["greater"], (one, builder.constant(0.5)))
        else:
            node = builder.add_input(name, value.shape[-1])
        traced.append(Traced(builder, node))
    recorded = op.derivative(*traced, **attrs)
    leaves |= {"one": args[0].to(torch.float64)}
    values = evaluate_nodes(builder.nodes, None, leaves)
    return tuple(None if r is None else values[r.node] for r in recorded)


def autograd(function, g, args):
    leaves = [a.clone().requires_grad_() for a in args]
    return torch.autograd.grad(function(*leaves), leaves, g, allow_unused=True)


def assert_rule(op, function, args, **attrs):
    """Value, rule on tensors, rule on traced values: all as torch has them."""
    value = op(*args, **attrs)
    expected = function(*args)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    g = random_cotangents([expected])[0]
    by_autograd = autograd(function, g, args)
    for found in (
        rule_on_tensors(op, g, args, **attrs),
        rule_on_traced_values(op, g, args, **attrs),
    ):
        assert len(found) == len(by_autograd) == op.arity
        for cotangent, exact in zip(found, by_autograd, strict=True):
            exact = torch.zeros_like(args[0]) if exact is None else exact
            cotangent = torch.zeros_like(exact) if cotangent is None else cotangent
            cotangent = cotangent.expand_as(exact)
            torch.testing.assert_close(cotangent, exact, rtol=1e-10, atol=1e-14)


def assert_table_is_autograd(cell):
    """Every gradient of one step of a cell with one state."""
    layer = cw.Recurrent(cell, 3, 4, engine="reference", dtype=torch.float64)
    W, graph = randomise(layer).cells[0], layer.graphs[0]
    leaves = {"x": normal(2, 3, seed=1), "h": normal(2, 4, seed=2)}
    results = [cell(W, leaves["x"], leaves["h"])]
    cotangents = random_cotangents(results)
    wanted = {**leaves, **dict(W.named_parameters())}
    expected = torch.autograd.grad(
        results, list(wanted.values()), cotangents, allow_unused=True
    )
    found = table_gradients(graph, W, leaves, cotangents)
    for label, exact in zip(wanted, expected, strict=True):
        exact = torch.zeros_like(wanted[label]) if exact is None else exact
        torch.testing.assert_close(found[label], exact, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", UNARY)
def test_value_and_derivative_at_random_points(name):
    assert_rule(OPS[name], UNARY[name], [points(name)])


SMOOTH_OR_KINKED = [n for n in UNARY if n not in ("softmax", "layer_norm", *POSITIVE)]


@pytest.mark.parametrize("name", SMOOTH_OR_KINKED)
def test_value_and_derivative_at_kinks_are_torchs(name):
    assert_rule(OPS[name], UNARY[name], [KINKS])


@pytest.mark.parametrize(
    ("name", "v", "slope"),
    [
        ("relu", 0.0, 0.0),
        ("abs", 0.0, 0.0),
        ("hard_tanh", 1.0, 0.0),
        ("hard_tanh", -1.0, 0.0),
        ("hard_sigmoid", 3.0, 0.0),
        ("hard_sigmoid", -3.0, 0.0),
        ("hard_sigmoid", 0.0, 1 / 6),
        ("softplus", 20.5, 1.0),
        ("step", 0.0, 0.0),
        ("identity", 0.0, 1.0),
        ("softsign", 0.0, 1.0),
    ],
)
def test_slopes_at_kinks(name, v, slope):
    v = torch.tensor([v], dtype=torch.float64)
    (found,) = rule_on_tensors(OPS[name], torch.ones_like(v), [v])
    assert (0.0 if found is None else found.item()) == slope


def test_step_is_zero_at_zero_and_has_no_gradient():
    v = torch.tensor([-1.0, 0.0, 1e-300], dtype=torch.float64)
    assert cw.step(v).tolist() == [0.0, 0.0, 1.0]
    assert OPS["step"].derivative(v, v, v) == (None,)


@pytest.mark.parametrize("name", ["log", "sqrt"])
def test_the_edge_of_the_domain_is_torchs(name):
    v = torch.tensor([0.0, -1.0, 2.0], dtype=torch.float64)
    value, expected = OPS[name](v), UNARY[name](v)
    torch.testing.assert_close(value, expected, equal_nan=True)
    g = torch.ones_like(v)
    (found,) = rule_on_tensors(OPS[name], g, [v])
    (exact,) = autograd(UNARY[name], g, [v])
    torch.testing.assert_close(found, exact, equal_nan=True)


def test_hard_sigmoid_is_torchs():
    v = torch.linspace(-4, 4, 81, dtype=torch.float64)
    torch.testing.assert_close(cw.hard_sigmoid(v), F.hardsigmoid(v))
    w = v.clone().requires_grad_()
    (found,) = torch.autograd.grad(cw.hard_sigmoid(w).sum(), w)
    (torchs,) = autograd(F.hardsigmoid, torch.ones_like(v), [v])
    torch.testing.assert_close(found, torchs, rtol=1e-6, atol=0)


# -- two and three arguments ---------------------------------------------------


@pytest.mark.parametrize("name", BINARY)
def test_binary_operations_at_random_points(name):
    assert_rule(OPS[name], BINARY[name], [points(name, 1), points(name, 2)])


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_a_tie_shares_the_gradient_as_in_torch(name):
    a = torch.tensor([-1.0, 0.0, 2.0, 5.0, 0.0], dtype=torch.float64)
    b = torch.tensor([-1.0, 0.0, 2.0, 4.0, -0.0], dtype=torch.float64)
    assert_rule(OPS[name], BINARY[name], [a, b])
    found = rule_on_tensors(OPS[name], torch.ones_like(a), [a, b])
    assert [f[0].item() for f in found] == [0.5, 0.5]


@pytest.mark.parametrize("name", ["add", "sub", "mul", "maximum"])
def test_one_value_used_as_both_arguments_gets_both_gradients(name):
    """At a tie everywhere, halves add up to the whole."""

    @cw.cell
    def twice(W, x, h):
        v = W.v(h, x)
        return {
            "add": v + v,
            "sub": v - v + h,
            "mul": v * v,
            "maximum": cw.maximum(v, v),
        }[name]

    assert_table_is_autograd(twice)


@pytest.mark.parametrize("name", COMPARISONS)
def test_where_takes_one_side_or_the_other(name):
    a = torch.tensor([[1.0, 2.0, 3.0, -0.0]], dtype=torch.float64)
    b = torch.tensor([[2.0, 2.0, 1.0, 0.0]], dtype=torch.float64)
    u, v = points("where", 3, (1, 4)), points("where", 4, (1, 4))
    condition = OPS[name].evaluate(a, b)
    assert torch.equal(condition, COMPARISONS[name](a, b))
    found = cw.where(condition, u, v)
    assert torch.equal(found, torch.where(COMPARISONS[name](a, b), u, v))
    assert OPS[name].derivative(a, found, a, b) == (None, None)
    g = random_cotangents([found])[0]
    expected = autograd(lambda u, v: torch.where(condition, u, v), g, [u, v])
    for rule in (rule_on_tensors, rule_on_traced_values):
        none, *rest = rule(OPS["where"], g, [condition, u, v])
        assert none is None
        for cotangent, exact in zip(rest, expected, strict=True):
            assert torch.equal(cotangent, exact)


def test_where_takes_numbers_for_either_side():
    a = points("where")
    assert torch.equal(cw.where(a > 0, 1, a), torch.where(a > 0, 1.0, a))
    assert torch.equal(cw.where(a > 0, a, 0), F.relu(a))


def test_a_nan_of_the_side_not_taken_stays_out_of_the_value_and_the_cotangent():
    v = torch.tensor([[-1.0, 4.0]], dtype=torch.float64)
    taken = cw.where(v > 0, cw.sqrt(v), v)
    assert torch.equal(taken, torch.tensor([[-1.0, 2.0]], dtype=torch.float64))
    g = torch.full_like(v, 3.0)
    _, to_root, to_v = rule_on_tensors(OPS["where"], g, [v > 0, cw.sqrt(v), v])
    assert to_root.tolist() == [[0.0, 3.0]]
    assert to_v.tolist() == [[3.0, 0.0]]


# -- over the units ------------------------------------------------------------


@pytest.mark.parametrize("heads", [1, 2, 3])
@pytest.mark.parametrize("eps", [1e-5, 0.3])
def test_layer_norm_with_heads_normalises_blocks_apart(heads, eps):
    v = points("layer_norm", shape=(3, 6))

    def by_hand(v):
        blocks = v.chunk(heads, dim=-1)
        centred = [b - b.mean(-1, keepdim=True) for b in blocks]
        return torch.cat(
            [c / (c.pow(2).mean(-1, keepdim=True) + eps).sqrt() for c in centred], -1
        )

    assert_rule(OPS["layer_norm"], by_hand, [v], heads=heads, eps=eps)


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_block_mean_repeats_the_mean_of_each_block(heads):
    v = points("block_mean", shape=(2, 6))

    def by_hand(v):
        return torch.cat(
            [b.mean(-1, keepdim=True).expand_as(b) for b in v.chunk(heads, -1)], -1
        )

    assert_rule(OPS["block_mean"], by_hand, [v], heads=heads)


def test_spread_is_the_adjoint_of_sum():
    g, like = points("spread", shape=(3, 1)), points("spread", 2)
    assert torch.equal(OPS["spread"](g, like), g.expand(3, 4))
    up = random_cotangents([like])[0]
    found, none = rule_on_tensors(OPS["spread"], up, [g, like])
    assert none is None
    assert_close(found, up.sum(-1, keepdim=True))


def test_sum_keeps_the_row_and_broadcasts_again():
    v = points("sum")
    assert cw.sum(v).shape == (3, 1)
    assert_close(v / cw.sum(v), v / v.sum(-1, keepdim=True))


def test_softmax_of_large_numbers_does_not_overflow():
    v = torch.tensor([[1000.0, 1001.0, -1000.0]], dtype=torch.float64)
    assert_rule(OPS["softmax"], UNARY["softmax"], [v])


# -- calling -------------------------------------------------------------------


def test_an_operation_takes_its_number_of_values_and_its_own_options():
    v = points("tanh")
    for call in (
        lambda: cw.tanh(v, v),
        lambda: cw.maximum(v),
        lambda: cw.tanh(v, eps=1),
        lambda: cw.layer_norm(v, axis=0),
    ):
        with pytest.raises(TypeError, match=r"wrong arguments; received .*expected"):
            call()


def test_an_operation_on_numbers_alone_is_refused():
    with pytest.raises(TypeError, match=r"needs a tensor or a traced value.*float"):
        cw.tanh(0.5)


def test_numbers_take_the_dtype_of_the_tensor_beside_them():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        assert cw.maximum(torch.ones(2, dtype=dtype), 0.5).dtype == dtype
        assert cw.minimum(0.5, torch.ones(2, dtype=dtype)).dtype == dtype


def test_operations_survive_copying_and_pickling_as_themselves():
    for op in OPS.values():
        assert pickle.loads(pickle.dumps(op)) is op
        assert copy.deepcopy(op) is op


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("units", "units"),
        ("units", "one"),
        ("one", "units"),
        ("one", "one"),
        ("number", "units"),
        ("one", "number"),
    ],
)
@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "maximum"])
def test_broadcasting_one_number_a_row_sums_its_gradient(name, left, right):
    """Sizes 1 and H in one expression: the cotangent of the 1 is summed."""
    infix = {
        "add": lambda a, b: a + b,
        "sub": lambda a, b: a - b,
        "mul": lambda a, b: a * b,
        "div": lambda a, b: a / b,
        "maximum": cw.maximum,
    }[name]
    kinds = {
        "units": lambda v: v,
        "one": lambda v: 2 + cw.sum(v * v),
        "number": lambda v: 1.7,
    }

    @cw.cell
    def mixed(W, x, h):
        a, b = kinds[left](W.a(h, x)), kinds[right](2 + cw.exp(W.b(x)))
        return cw.tanh(infix(a, b) + 0.1 * h)

    assert_table_is_autograd(mixed)


def test_infinite_arguments_give_torchs_values():
    v = torch.tensor([-math.inf, math.inf], dtype=torch.float64)
    for name in ("sigmoid", "tanh", "relu", "softplus", "hard_sigmoid", "hard_tanh"):
        torch.testing.assert_close(OPS[name](v), UNARY[name](v))
