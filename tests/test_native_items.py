"""Cells with items on the native engine, held to the reference."""

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cellwright as cw
from cellwright.compiler.explain import explain
from oracles import gradients, normal, randomise
from strategies import HIDDEN, INPUT, ITEM_SIZES, item_sizes, make_cell, sources

core = pytest.importorskip("cellwright._core")

T, B, S = 4, 3, 5
ITEM = ITEM_SIZES["source"]
examples = settings(
    max_examples=40,
    deadline=None,
    phases=["generate"],
    suppress_health_check=list(HealthCheck),
)


def make(cell, engine="native", sizes=None, **options):
    layer = cw.Recurrent(
        cell,
        INPUT,
        HIDDEN,
        items=sizes or {"source": ITEM},
        engine=engine,
        dtype=torch.float64,
        **options,
    )
    assert layer.engine == engine
    return layer


def run(layer, leaves, states, options):
    """Outputs and final states, then the gradient of every leaf and parameter."""
    further = {n: v for n, v in leaves.items() if n != "x"}
    wanted = {**leaves, **dict(layer.named_parameters())}
    wanted |= {f"state {k}": s for k, s in enumerate(states)}

    def results():
        given = states[0] if len(states) == 1 else tuple(states)
        return layer(leaves["x"], given, **further, **options)

    return gradients(results, wanted)


def assert_near(value, expected, what, scale=1.0):
    if value is None and expected is None:
        return
    expected = torch.zeros_like(value) if expected is None else expected.detach()
    value = torch.zeros_like(expected) if value is None else value.detach()
    error = float((value - expected).abs().max()) if value.numel() else 0.0
    assert error <= 1e-10 * max(float(expected.abs().max()), scale), what


@examples
@given(sources(items=True), st.data())
def test_random_cells_give_the_reference_s_values_and_gradients(source, data):
    cell = make_cell(source)
    recompute = data.draw(st.booleans())
    bidirectional = data.draw(st.booleans())
    memory = "recompute" if recompute else "save"
    sizes = item_sizes(cell)
    native = make(cell, sizes=sizes, bidirectional=bidirectional, memory=memory)
    randomise(native)
    reference = make(cell, "reference", sizes, bidirectional=bidirectional)
    reference.load_state_dict(native.state_dict())
    counts = st.lists(st.integers(0, S), min_size=B, max_size=B)
    options = {f"{n}_lengths": torch.tensor(data.draw(counts)) for n in sizes}
    if data.draw(st.booleans()):
        lengths = data.draw(st.lists(st.integers(0, T), min_size=B, max_size=B))
        options["lengths"] = torch.tensor(lengths)
    if data.draw(st.booleans()):
        options["resets"] = torch.rand(T, B) < 0.4
    leaves = {"x": normal(T, B, INPUT, seed=1)}
    leaves |= {n: normal(S, B, size, seed=2) for n, size in sizes.items()}
    leaves |= {
        i.name: normal(T, B, i.size, seed=7) for i in native.graphs[0].inputs[1:]
    }
    rows = 2 if bidirectional else 1
    states = [
        normal(rows, B, int(s.size), seed=20 + k)
        for k, s in enumerate(native.graphs[0].states)
    ]
    found, of_native = run(native, leaves, states, options)
    expected, of_reference = run(reference, leaves, states, options)
    for value, other in zip(found, expected, strict=True):
        assert_near(value, other, source)
    # That of a score's bias is 0, the sum of terms as large as the others.
    sizes_of = (float(g.abs().max()) for g in of_reference.values() if g is not None)
    largest = max((1.0, *sizes_of))
    for name, gradient in of_reference.items():
        what = f"gradient of {name}\n{source}"
        assert_near(of_native[name], gradient, what, largest)


def attentive(**options):
    return randomise(make("bahdanau_gru", **options))


def test_rows_have_the_same_bits_in_every_batch_and_on_every_number_of_threads():
    layer, batch = attentive(), 33
    x, source = normal(T, batch, INPUT, seed=1), normal(S, batch, ITEM, seed=2)
    lengths = torch.arange(batch) % (S + 1)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            leaves = {"x": x, "source": source, **dict(layer.named_parameters())}
            results, grads = gradients(
                lambda: layer(x, source=source, source_lengths=lengths), leaves
            )
            found.append([*results, *grads.values()])
        for one, two in zip(*found, strict=True):
            assert torch.equal(one, two)
        alone, _ = layer(
            x[:, 7:8], source=source[: lengths[7], 7:8], source_lengths=lengths[7:8]
        )
        assert torch.equal(alone[:, 0], found[0][0][:, 7])
    finally:
        torch.set_num_threads(before)


def test_training_keeps_one_number_of_each_item_and_step():
    """The weights of attention; tanh(query + key) is computed again."""
    layer = attentive()
    values = layer.direction(0).bound.programs.saved_values
    assert [size for size, of_items in values if of_items] == [1]


def test_a_softmax_s_gradient_is_one_instruction_and_items_are_read_in_place():
    """Σ w · g is not spread over the units, and the keys are added where they lie."""
    programs = attentive().direction(0).bound.programs
    stages = programs.plan.backward(programs.sources).stages
    (stage,) = [s for s in stages if s.axis.kind == "item"]
    assert [i.op for s in stages for i in s.code].count("attention_gradient") == 1
    in_place = [i.args[1:] for i in stage.code if i.op == "load"]
    assert in_place.count((1,)) == 2  # the query and the key


def test_what_a_load_leaves_in_memory_is_read_next_and_once():
    programs = attentive().direction(0).bound.programs
    program = programs.plan.backward(programs.sources)
    at, stage = next(
        (at, stage)
        for at, stage in enumerate(program.stages)
        if any(i.op == "load" and i.args[1:] == (1,) for i in stage.code)
    )
    load = next(k for k, i in enumerate(stage.code) if i.args[1:] == (1,))
    left, code = stage.code[load], list(stage.code)
    at_reader = next(k for k in range(load, len(code)) if code[k].op != "load")
    reader = code[at_reader]
    tile = next(a for a in reader.args if a == left.dst)
    code[at_reader] = replace(reader, op="div")
    again = replace(reader, dst=tile, args=(tile, tile))
    for wrong in (code, [*stage.code[: at_reader + 1], again], [*stage.code, left]):
        stages = [*program.stages]
        stages[at] = replace(stage, code=tuple(wrong))
        with pytest.raises(ValueError, match="leaves in memory"):
            replace(program, stages=tuple(stages)).compile()


def test_recorded_values_and_their_gradients_are_the_reference_s():
    found = []
    for engine in ("native", "reference"):
        layer = randomise(make("bahdanau_gru", engine))
        x, source = normal(T, B, INPUT, seed=1), normal(S, B, ITEM, seed=2)
        lengths = torch.tensor([5, 0, 2])
        with cw.record(layer, gradients=True) as values:
            y, _ = layer(x, source=source, source_lengths=lengths)
        (y * normal(*y.shape, seed=9, grad=False)).sum().backward()
        found.append({n: (v, v.grad) for n, v in values.items()})
    native, reference = found
    assert native.keys() == reference.keys()
    assert native["0.attention"][0].shape == (T, B, S)
    for name, pair in reference.items():
        for value, expected in zip(native[name], pair, strict=True):
            assert_near(value, expected, name)


@pytest.mark.parametrize("cell", ["bahdanau_gru", "luong_lstm"])
def test_a_stepper_has_the_layer_s_bits(cell):
    sizes = {"luong_lstm": HIDDEN}
    layer = cw.Recurrent(
        cell, INPUT, HIDDEN, items={"source": sizes.get(cell, ITEM)}, num_layers=2
    )
    x = torch.randn(T, B, INPUT)
    source = torch.randn(S, B, sizes.get(cell, ITEM))
    lengths = torch.tensor([2, 0, 5])
    y, _ = layer(x, source=source, source_lengths=lengths)
    step = layer.stepper(B)
    step.attend_to(source=source, source_lengths=lengths)
    assert step.engine == "native"
    assert torch.equal(torch.stack([step(row) for row in x]), y)


@cw.cell
def reader_of_two(W, x, h, *, source: cw.Items, facts: cw.Items, notes: cw.Items):
    """Additive scores of one set, dot products with another, the total of a third."""
    e = W.e(cw.tanh(W.query(h, bias=False) + W.key(source)), size=1, bias=False)
    seen = cw.attend(e, source)
    d = cw.name("d", cw.sum(W.ask(h) * W.fact(facts, bias=False)))
    known = cw.attend(d, facts)
    told = cw.total(cw.sigmoid(W.note(seen, notes)))
    return cw.tanh(W.h(h, x, seen, known, told))


READ = {"source": ITEM, "facts": 5, "notes": 2}  # units of each set's items
LENGTHS = {"source": [5, 0, 2], "facts": [2, 7, 0], "notes": [1, 3, 0]}


def read(engine="native", **options):
    return randomise(make(reader_of_two, engine, READ, **options))


def given_sets(dtype=torch.float64):
    """The three sets, each of its own longest, and their lengths."""
    sets = {
        name: normal(max(LENGTHS[name]), B, size, seed=30 + k).detach().to(dtype)
        for k, (name, size) in enumerate(READ.items())
    }
    lengths = {f"{n}_lengths": torch.tensor(c) for n, c in LENGTHS.items()}
    return {n: v.requires_grad_() for n, v in sets.items()}, lengths


@pytest.mark.parametrize("lengths", [[T, T, T], [4, 0, 2]])
def test_several_sets_are_the_reference_s(lengths):
    sets, counts = given_sets()
    options = {**counts, "lengths": lengths}
    leaves = {"x": normal(T, B, INPUT, seed=1), **sets}
    states = [normal(1, B, HIDDEN, seed=4)]
    found, of_native = run(read(), leaves, states, options)
    expected, of_reference = run(read("reference"), leaves, states, options)
    for value, other in zip(found, expected, strict=True):
        assert_near(value, other, "values")
    for name, gradient in of_reference.items():
        assert_near(of_native[name], gradient, name)
        assert gradient.abs().max() > 1e-3, name


def test_several_sets_have_the_same_bits_on_every_number_of_threads():
    layer, batch = read(), 21
    x, rows = normal(T, batch, INPUT, seed=1), torch.arange(batch)
    sets = {n: normal(4, batch, size, seed=2) for n, size in READ.items()}
    lengths = {f"{n}_lengths": (rows + k) % 5 for k, n in enumerate(READ)}
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            leaves = {"x": x, **sets, **dict(layer.named_parameters())}
            results, grads = gradients(lambda: layer(x, **sets, **lengths), leaves)
            found.append([*results, *grads.values()])
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


def test_a_stepper_looks_at_several_sets():
    layer = read().float()
    x = torch.randn(T, B, INPUT)
    sets, lengths = given_sets(torch.float32)
    y, _ = layer(x, **sets, **lengths)
    step = layer.stepper(B)
    step.attend_to(**sets, **lengths)
    assert step.engine == "native"
    assert torch.equal(torch.stack([step(row) for row in x]), y)


def test_values_of_several_sets_are_recorded():
    found, names = [], ["e", "d", "note", "attention.e", "attention.d"]
    for engine in ("native", "reference"):
        layer = read(engine)
        sets, lengths = given_sets()
        with cw.record(layer, names=names, gradients=True) as values:
            y, _ = layer(normal(T, B, INPUT, seed=1), **sets, **lengths)
        (y * normal(*y.shape, seed=9, grad=False)).sum().backward()
        found.append({n: (v, v.grad) for n, v in values.items()})
    native, reference = found
    assert native.keys() == reference.keys()
    assert native["0.attention.e"][0].shape == (T, B, 5)
    assert native["0.attention.d"][0].shape == (T, B, 7)
    for name, pair in reference.items():
        for value, expected in zip(native[name], pair, strict=True):
            assert_near(value, expected, name)


# -- products of values of the step and of items ------------------------------------


@cw.cell
def mixing(W, x, h, *, source: cw.Items):
    """Affines of h, of items as they are, and of what both make; two heads of one."""
    a = cw.tanh(W.a(h, source, bias=1.0))
    b = W.b(source, a, h, heads=2, bias=False, size=4)
    seen = cw.attend(W.e(a, source, size=1), cw.tanh(W.v(source, b)))
    return cw.tanh(W.h(h, x, seen))


MIXED = {"source": HIDDEN}


def test_the_items_part_of_a_product_is_made_once_a_call():
    own, once = make(mixing, sizes=MIXED).direction(0).bound.programs.ahead
    assert own.items == ("a[1]", "b[0]", "e[1]", "v[0]")
    assert [n.op for n in once.nodes].count("affine") == 4
    biases = {w.name for w in own.graph.weights if w.bias}
    assert biases == {"a[0]", "h"}  # those of e and v are in what is made once
    assert "load a[1]" in explain(mixing, HIDDEN, HIDDEN)
    assert make("bahdanau_gru").direction(0).bound.programs.ahead is None


@pytest.mark.parametrize("memory", ["save", "recompute"])
def test_products_that_mix_are_the_reference_s(memory):
    leaves = {
        "x": normal(T, B, INPUT, seed=1),
        "source": normal(S, B, HIDDEN, seed=2),
    }
    options = {"source_lengths": [5, 0, 2], "lengths": [4, 2, 3]}
    states = [normal(1, B, HIDDEN, seed=4)]
    native = randomise(make(mixing, sizes=MIXED, memory=memory))
    reference = randomise(make(mixing, "reference", MIXED))
    found, of_native = run(native, leaves, states, options)
    expected, of_reference = run(reference, leaves, states, options)
    for value, other in zip(found, expected, strict=True):
        assert_near(value, other, "values")
    for name, gradient in of_reference.items():
        assert_near(of_native[name], gradient, name)
        assert gradient.abs().max() > 1e-3 or name.endswith("e.bias"), name
    step = native.stepper(B)
    step.attend_to(source=leaves["source"], source_lengths=options["source_lengths"])
    first = step(leaves["x"][0].detach())
    whole, _ = native(
        leaves["x"][:1], source=leaves["source"], source_lengths=[5, 0, 2]
    )
    assert torch.equal(first, whole[0])


def test_values_beside_products_that_mix_are_recorded():
    found = []
    for engine in ("native", "reference"):
        layer = randomise(make(mixing, engine, MIXED))
        x, source = normal(T, B, INPUT, seed=1), normal(S, B, HIDDEN, seed=2)
        with cw.record(layer, names=["a", "a.pre", "e"], gradients=True) as values:
            y, _ = layer(x, source=source, source_lengths=[5, 0, 2])
        (y * normal(*y.shape, seed=9, grad=False)).sum().backward()
        found.append({n: (v, v.grad) for n, v in values.items()})
    native, reference = found
    assert native.keys() == reference.keys() != set()
    for name, pair in reference.items():
        for value, expected in zip(native[name], pair, strict=True):
            assert_near(value, expected, name)


def test_the_core_refuses_items_that_do_not_fit():
    layer = attentive()
    scan = layer.direction(0).bound.programs
    schedule = core.Schedule(offsets=[0], counts=[2], initial_rows=2)
    few = schedule.with_items(torch.tensor([0, 3]).numpy())
    empty = [], [], []
    with pytest.raises(ValueError, match="where the items of each row"):
        core.run(scan.compiled("inference"), few, 8, *empty, 1, "")
    back = schedule.with_items(torch.tensor([0, 3, 2]).numpy())
    with pytest.raises(ValueError, match="follow one another"):
        core.run(scan.compiled("inference"), back, 8, *empty, 1, "")
    scan = read().direction(0).bound.programs
    two = schedule.with_items(*2 * [torch.tensor([0, 3, 4])])
    with pytest.raises(ValueError, match="reads 3 sets of items; received 2"):
        core.run(scan.compiled("inference"), two, 8, *empty, 1, "")
    with pytest.raises(ValueError, match="sets of items are of the same rows"):
        schedule.with_items(torch.tensor([0, 3, 4]), torch.tensor([0, 3]))


# -- what torch does to tensors ---------------------------------------------------


def forward_of(layer):
    def forward(x, source):
        return layer(x, source=source, source_lengths=[S, 0, 2])[0]

    return forward


def test_second_derivatives():
    layer = attentive()
    x = normal(2, B, INPUT, seed=1)
    source = normal(S, B, ITEM, seed=2)
    assert torch.autograd.gradgradcheck(forward_of(layer), (x, source))


def test_lengths_of_items_may_change_before_a_second_derivative():
    """A call's lengths are those that it was given."""
    layer, found = make(cw.cells.bahdanau_gru), []
    x, items = normal(T, B, INPUT, seed=1), normal(S, B, ITEM, seed=2)
    for change in (False, True):
        lengths = torch.tensor([S, 0, 2])
        y, _ = layer(x, source=items, source_lengths=lengths)
        if change:
            lengths.copy_(torch.tensor([2, S, 0]))
        (once,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(once.square().sum(), [x, items]))
    assert all(map(torch.equal, *found))


def test_batched_tensors_and_batched_gradients():
    layer = attentive()
    forward = forward_of(layer)
    xs = normal(2, T, B, INPUT, seed=1, grad=False)
    source = normal(2, S, B, ITEM, seed=2, grad=False)
    expected = torch.stack([forward(*pair) for pair in zip(xs, source, strict=True)])
    torch.testing.assert_close(torch.func.vmap(forward)(xs, source), expected)
    found = torch.func.vmap(torch.func.grad(lambda *v: forward(*v).sin().sum(), 1))
    by_hand = []
    for pair in zip(xs, source, strict=True):
        leaf = pair[1].clone().requires_grad_()
        by_hand += torch.autograd.grad(forward(pair[0], leaf).sin().sum(), leaf)
    torch.testing.assert_close(found(xs, source), torch.stack(by_hand))
    leaf = source[0].clone().requires_grad_()
    y = forward(xs[0], leaf)
    cotangents = normal(3, *y.shape, seed=5, grad=False)
    (many,) = torch.autograd.grad(
        y, leaf, cotangents, is_grads_batched=True, retain_graph=True
    )
    for one, cotangent in zip(many, cotangents, strict=True):
        (expected,) = torch.autograd.grad(y, leaf, cotangent, retain_graph=True)
        torch.testing.assert_close(one, expected)


def test_autocast_makes_keys_and_products_in_its_type():
    layer = attentive().float()
    x = normal(T, B, INPUT, seed=1, grad=False).float()
    source = normal(S, B, ITEM, seed=2, grad=False).float().requires_grad_()
    expected = forward_of(layer)(x, source)
    with torch.autocast("cpu", torch.bfloat16):
        y = forward_of(layer)(x, source)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, atol=0.02, rtol=0.02)
    (gradient,) = torch.autograd.grad(y.sum(), source)
    assert gradient.dtype == torch.float32
    (by_hand,) = torch.autograd.grad(expected.sum(), source)
    torch.testing.assert_close(gradient, by_hand, atol=0.02, rtol=0.05)


def test_compiled_layers_have_the_values():
    layer = attentive().float()
    x, source = torch.randn(T, B, INPUT), torch.randn(S, B, ITEM)
    expected = layer(x, source=source)[0]
    torch._dynamo.reset()
    found = torch.compile(layer, backend="eager")(x, source=source)[0]
    torch.testing.assert_close(found, expected)
