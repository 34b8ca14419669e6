"""Regularisers against steps written by hand, with the same masks."""

import copy
import pickle

import pytest
import torch
from torch import sigmoid, tanh

import cellwright as cw
from cellwright.language import ArgumentError
from oracles import assert_close, gradients, normal, random_cotangents, randomise

T, B, X, H = 6, 3, 4, 5
ENGINES = ("native", "reference")


# -- masks, as docs/regularisation.md says they are drawn --------------------------


def bits(*shape):
    count = torch.Size(shape).numel()
    words = torch.empty(-(-count // 4), dtype=torch.int64)
    words.random_(-(2**63), None)
    return words.view(torch.int16)[:count].reshape(shape)


def dropout_mask(p, *shape):
    dropped = round(p * 65536)
    kept = bits(*shape) >= dropped - 32768
    return kept.double() * (65536 / (65536 - dropped))


def zoneout_mask(p, *shape):
    return (bits(*shape) < round(p * 65536) - 32768).double()


# -- oracles -----------------------------------------------------------------------


def lstm_step(w, x, states, masks):
    h, c = states
    read = torch.cat([h * masks.get("h", 1), x], -1)
    f, i, g, o = (read @ w[f"{n}.weight"].mT + w[f"{n}.bias"] for n in "figo")
    new_c = sigmoid(f) * c + sigmoid(i) * tanh(g) * masks.get("g", 1)
    new_h = sigmoid(o) * tanh(new_c)
    return new_h, new_c


def gru_step(w, x, states, masks):
    (h,) = states
    hm = h * masks.get("h", 1)
    z = sigmoid(torch.cat([hm, x], -1) @ w["z.weight"].mT + w["z.bias"])
    r = sigmoid(torch.cat([hm, x], -1) @ w["r.weight"].mT + w["r.bias"])
    n = tanh(torch.cat([r * hm, x], -1) @ w["n.weight"].mT + w["n.bias"])
    return ((1 - z) * h + z * n * masks.get("g", 1),)


def rnn_step(w, x, states, masks):
    (h,) = states
    read = torch.cat([h * masks.get("h", 1), x], -1)
    return (tanh(read @ w["h.weight"].mT + w["h.bias"]),)


CELLS = {
    "lstm": (lstm_step, ("h", "c"), "g"),
    "gru_bias": (gru_step, ("h",), "n"),
    "rnn": (rnn_step, ("h",), None),
}


def drop_columns(w, p, size):
    """DropConnect on the columns of h, the first `size` of every matrix."""
    out = dict(w)
    for name, matrix in w.items():
        if name.endswith("weight"):
            mask = dropout_mask(p, len(matrix), size)
            out[name] = torch.cat([matrix[:, :size] * mask, matrix[:, size:]], 1)
    return out


def oracle(
    layer,
    x,
    states,
    *,
    recurrent_dropout=0,
    update_dropout=0,
    zoneout=None,
    weight_drop=0,
    input_dropout=0,
    dropout=0,
    output_dropout=0,
    locked=False,
    training=True,
):
    """Everything by hand, in the order in which the layer draws."""
    step, names, _ = CELLS[layer.cell.name]
    zoneout = zoneout or {}

    def drop(x, p):
        if not (p and training):
            return x
        return x * dropout_mask(p, 1 if locked else T, B, x.shape[-1])

    finals, k = [], 0
    x = drop(x, input_dropout)
    for number in range(layer.num_layers):
        x = drop(x, dropout) if number else x
        outputs = []
        for direction in range(layer.directions):
            w = dict(layer.cells[k].named_parameters())
            masks, zones = {}, {}
            if training:
                w = drop_columns(w, weight_drop, H) if weight_drop else w
                if recurrent_dropout:
                    masks["h"] = dropout_mask(recurrent_dropout, 1, B, H).expand(
                        T, B, H
                    )
                if update_dropout:
                    steps = 1 if locked else T
                    mask = dropout_mask(update_dropout, steps, B, H)
                    masks["g"] = mask.expand(T, B, H)
                zones = {n: zoneout_mask(p, T, B, H) for n, p in zoneout.items()}
            current, ys = [s[k] for s in states], [None] * T
            for t in reversed(range(T)) if direction else range(T):
                now = {n: m[t] for n, m in masks.items()}
                news = step(w, x[t], current, now)
                mixed = []
                for name, old, new in zip(names, current, news, strict=True):
                    z = zones[name][t] if training and name in zones else None
                    if z is None:
                        z = 0 if training else zoneout.get(name, 0)
                    mixed.append(z * old + (1 - z) * new)
                current = mixed
                ys[t] = current[0]
            outputs.append(torch.stack(ys))
            finals.append(current)
            k += 1
        x = torch.cat(outputs, -1)
    x = drop(x, output_dropout)
    return x, *(torch.stack(s) for s in zip(*finals, strict=True))


CASES = {
    "zoneout": {"zoneout": {"h": 0.3, "c": 0.2}},
    "zoneout on c": {"zoneout": {"c": 0.4}},
    "recurrent": {"recurrent_dropout": 0.4},
    "update": {"update_dropout": 0.3},
    "update, locked": {"update_dropout": 0.3, "locked": True},
    "weights": {"weight_drop": 0.4},
    "along": {"input_dropout": 0.3, "dropout": 0.2, "output_dropout": 0.4},
    "along, locked": {
        "input_dropout": 0.3,
        "dropout": 0.2,
        "output_dropout": 0.4,
        "locked": True,
    },
    "all": {
        "input_dropout": 0.1,
        "dropout": 0.2,
        "output_dropout": 0.1,
        "locked": True,
        "recurrent_dropout": 0.2,
        "update_dropout": 0.1,
        "zoneout": {"h": 0.2},
        "weight_drop": 0.2,
    },
}


def make(name="lstm", engine="native", **options):
    layer = cw.Recurrent(
        name, X, H, 2, bidirectional=True, engine=engine, dtype=torch.float64, **options
    )
    randomise(layer)
    return layer


def leaves_of(layer, seed=3):
    count = layer.num_layers * layer.directions
    leaves = {"x": normal(T, B, X, seed=seed).requires_grad_()}
    for s in layer.graphs[0].states:
        leaves[s.name] = normal(count, B, H, seed=seed + 1).requires_grad_()
    return {**leaves, **dict(layer.named_parameters())}


def states_of(layer, leaves):
    return tuple(leaves[s.name] for s in layer.graphs[0].states)


def assert_is_the_oracle(layer, training, **options):
    layer.train(training)
    leaves = leaves_of(layer)
    states = states_of(layer, leaves)

    def run():
        torch.manual_seed(11)
        return layer(leaves["x"], states if len(states) > 1 else states[0])

    def by_hand():
        torch.manual_seed(11)
        return oracle(layer, leaves["x"], states, training=training, **options)

    ours, found = gradients(run, leaves)
    theirs, expected = gradients(by_hand, leaves)
    for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert_close(a, b, f"result {number}")
    for name in leaves:
        assert expected[name].abs().max() > 1e-6, name
        assert_close(found[name], expected[name], name)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", CELLS)
def test_values_and_gradients_are_those_of_the_steps_by_hand(
    name, case, engine, training
):
    options = dict(CASES[case])
    _, states, candidate = CELLS[name]
    if candidate is None and options.pop("update_dropout", None) and len(options) < 2:
        pytest.skip("no candidate")
    if "zoneout" in options:
        zoned = {s: p for s, p in options["zoneout"].items() if s in states}
        if not zoned:
            pytest.skip("no such state")
        options["zoneout"] = zoned
    assert_is_the_oracle(make(name, engine, **options), training, **options)


# -- modes, seeds, masks -----------------------------------------------------------

EVERY = {
    "zoneout": 0.25,
    "recurrent_dropout": 0.25,
    "update_dropout": 0.25,
    "weight_drop": 0.25,
    "input_dropout": 0.25,
    "dropout": 0.25,
    "output_dropout": 0.25,
}


def run(layer, seed=5, **options):
    torch.manual_seed(seed)
    return layer(normal(T, B, X, seed=1), **options)[0]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("training", [True, False])
def test_a_probability_of_0_changes_no_bit_and_draws_nothing(engine, training):
    plain = make(engine=engine)
    layer = make(engine=engine, locked=True, **dict.fromkeys(EVERY, 0.0))
    layer.load_state_dict(plain.state_dict())
    assert layer.train(training).direction(0).bound.layout  # still torch's LSTM
    before = torch.get_rng_state()
    y, _ = layer(normal(T, B, X, seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(y, plain.train(training)(normal(T, B, X, seed=1))[0])


@pytest.mark.parametrize("name", [n for n in EVERY if n != "zoneout"])
def test_dropouts_change_no_bit_in_evaluation_and_draw_nothing(name):
    plain, layer = make().eval(), make(**{name: 0.25}).eval()
    layer.load_state_dict(plain.state_dict())
    before = torch.get_rng_state()
    y, _ = layer(normal(T, B, X, seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(y, plain(normal(T, B, X, seed=1))[0])


@pytest.mark.parametrize("name", EVERY)
def test_one_seed_is_one_run_on_every_engine_and_a_call_draws_anew(name):
    native, reference = (make(engine=e, **{name: 0.25}) for e in ENGINES)
    reference.load_state_dict(native.state_dict())
    y = run(native)
    assert torch.equal(run(native), y)
    assert_close(run(reference), y)
    assert not torch.equal(native(normal(T, B, X, seed=1))[0], y)
    assert not torch.equal(run(native, seed=6), y)


def test_masks_are_read_again_where_steps_are_computed_again():
    layer, saving = make(**EVERY, memory="recompute"), make(**EVERY)
    saving.load_state_dict(layer.state_dict())
    for a in (layer, saving):
        run(a).backward(normal(T, B, 2 * H, seed=2))
    for a, b in zip(layer.parameters(), saving.parameters(), strict=True):
        assert_close(a.grad, b.grad)


def test_weight_drop_runs_on_torchs_kernel_too():
    native, torchs = (make(engine=e, weight_drop=0.3) for e in ("native", "torch"))
    torchs.load_state_dict(native.state_dict())
    assert_close(run(torchs), run(native))
    with pytest.raises(ArgumentError, match="torch has no kernel"):
        make(engine="torch", zoneout=0.1)


def test_masks_are_the_same_units_in_either_precision():
    double = make(**EVERY)
    single = copy.deepcopy(double).float()
    torch.manual_seed(5)
    y = single(normal(T, B, X, seed=1).float())[0]
    assert torch.allclose(y.double(), run(double), atol=1e-5)


def test_masks_have_their_probability_and_their_scale():
    layer = cw.Recurrent("rnn", 1, 50, weight_drop=0.3, output_dropout=0.9)
    torch.manual_seed(0)
    y, _ = layer(torch.ones(100, 40, 1))
    assert abs((y == 0).double().mean() - 0.9) < 0.003
    plain = layer.eval()(torch.ones(100, 40, 1))[0]
    kept = y[0] != 0
    assert torch.allclose(y[0][kept], plain[0][kept] / (1 - 58982 / 65536))


def test_locked_dropout_has_one_mask_a_sequence_and_dropout_one_a_step():
    x = torch.ones(T, B, X)
    for locked in (False, True, ("output_dropout",), ("input_dropout",)):
        layer = cw.Recurrent("rnn", X, 50, output_dropout=0.5, locked=locked)
        dropped = layer(x)[0] == 0
        same = bool((dropped == dropped[0]).all())
        assert same == (locked is True or "output_dropout" in (locked or ()))
        assert not (dropped == dropped[:, :1]).all()  # rows have masks of their own


@pytest.mark.parametrize("engine", ENGINES)
def test_a_mask_of_a_sequence_is_drawn_anew_at_every_call(engine):
    """Carried state: each window of truncated BPTT has its own masks."""
    layer = cw.Recurrent("rnn", X, 50, engine=engine, recurrent_dropout=0.5)
    x, h = torch.ones(1, B, X), torch.ones(1, B, 50)
    torch.manual_seed(1)
    first, second = layer(x, h)[0], layer(x, h)[0]
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(layer(x, h)[0], first)


def test_a_mask_of_a_sequence_is_not_repeated_for_every_step_in_memory():
    layer = make(recurrent_dropout=0.5, update_dropout=0.5, locked=("update_dropout",))
    plan = layer._modes.training[0].programs.plan
    arrays = {a.name: a.rows for a in plan.training.arrays if not a.scratch}
    assert arrays["recurrent_dropout_h"] == arrays["update_dropout_g"] == "batch"
    assert arrays["x"] == "sequence"


def test_unbatched_and_batch_first_inputs_draw_as_a_batch_does():
    layer = make(**EVERY)
    x = normal(T, B, X, seed=1)
    first = make(**EVERY)
    first.batch_first = True
    first.load_state_dict(layer.state_dict())
    torch.manual_seed(5)
    assert torch.equal(first(x.transpose(0, 1))[0].transpose(0, 1), run(layer))
    torch.manual_seed(5)
    alone = layer(x[:, 0])[0]
    torch.manual_seed(5)
    assert torch.equal(layer(x[:, :1])[0][:, 0], alone)


@pytest.mark.parametrize("locked", [False, True])
def test_lengths_change_no_rows_masks_and_engines_agree_whatever_the_layout(locked):
    layers = [
        cw.Recurrent("lstm", X, H, 2, engine=e, locked=locked, **EVERY).double()
        for e in ENGINES
    ]
    layers[1].load_state_dict(layers[0].state_dict())
    x, lengths = normal(T, B, X, seed=1), torch.tensor([3, 6, 1])
    real = (torch.arange(T)[:, None] < lengths)[..., None]
    for layer in layers:
        assert_close(run(layer, lengths=lengths), run(layer) * real)
    resets = torch.zeros(T, B, dtype=torch.bool)
    resets[2, 1] = resets[1, 0] = True
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)

    def everything(layer):
        for options in ({"lengths": lengths, "resets": resets}, {"lengths": lengths}):
            torch.manual_seed(5)
            y, _ = layer(x, **options)
            cotangent = random_cotangents([y])[0]
            yield y
            yield from torch.autograd.grad(y, [*layer.parameters()], cotangent)
        torch.manual_seed(5)
        yield layer(packed)[0].data

    for a, b in zip(*map(everything, layers), strict=True):
        assert_close(a, b)


# -- weight drop -------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_weight_drop_keeps_the_parameters_and_hides_from_them_what_it_dropped(engine):
    layer = make("peephole", engine, weight_drop=0.5)
    before = copy.deepcopy(layer.state_dict())
    y, _ = layer(normal(T, B, X, seed=1))
    y.backward(random_cotangents([y])[0])
    assert all(torch.equal(v, before[n]) for n, v in layer.state_dict().items())
    gates = {"f": 2, "i": 2, "g": 1, "o": 1}  # states that the gate's matrix reads
    for name, states in gates.items():
        grad = getattr(layer.cells[0], name).weight.grad
        if name == "o":  # reads the new c first, the old h after it
            recurrent, rest = grad[:, H : 2 * H], grad[:, 2 * H :]
        else:
            recurrent, rest = grad[:, : states * H], grad[:, states * H :]
        assert 0.2 < (recurrent == 0).double().mean() < 0.8
        assert (rest != 0).all()


def test_weight_drop_leaves_the_columns_that_a_function_makes_whole():
    layer = cw.Recurrent("mc_lstm", X, H, inputs={"mass": 1}, weight_drop=0.5)
    assert "r" not in layer._modes.training[0].columns


def test_weight_drop_on_blocks():
    layers = [
        cw.Recurrent("slstm", X, 6, engine=e, weight_drop=0.5, heads=2).double()
        for e in ENGINES
    ]
    layers[1].load_state_dict(layers[0].state_dict())
    assert_close(run(layers[1]), run(layers[0]))


# -- a layer among torch's machinery -----------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_copies_draw_the_same_and_names_are_the_plain_layers(engine):
    layer = make(engine=engine, **EVERY)
    assert list(layer.state_dict()) == list(make().state_dict())
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(run(other), run(layer))
        other.eval(), layer.eval()
        assert torch.equal(run(other), run(layer))
        layer.train()


def test_compiled_code_draws_what_eager_code_draws():
    layer = make("gru_bias", **EVERY)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = normal(T, B, X, seed=1).requires_grad_()

    def grads(call):
        torch.manual_seed(5)
        y, _ = call(x)
        leaves = [x, *layer.parameters()]
        return [y, *torch.autograd.grad(y, leaves, random_cotangents([y])[0])]

    for a, b in zip(grads(compiled), grads(layer), strict=True):
        assert_close(a, b)


def test_data_parallel_trains_the_raw_parameters(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        layer = make(**EVERY)
        wrapped = torch.nn.parallel.DistributedDataParallel(layer)
        torch.manual_seed(5)
        y, _ = wrapped(normal(T, B, X, seed=1))
        assert torch.equal(y, run(layer))
        y.sum().backward()
        assert all(p.grad is not None for p in layer.parameters())
    finally:
        torch.distributed.destroy_process_group()


def test_second_derivatives_go_through_the_same_masks():
    layers = [make("gru_bias", e, **{**EVERY, "locked": True}) for e in ENGINES]
    layers[1].load_state_dict(layers[0].state_dict())
    found = []
    for layer in layers:
        x = normal(T, B, X, seed=1).requires_grad_()
        torch.manual_seed(5)
        y, _ = layer(x)
        (g,) = torch.autograd.grad(
            y, x, random_cotangents([y])[0].requires_grad_(), create_graph=True
        )
        (g * g).sum().backward()
        found.append([x.grad, *(p.grad for p in layer.parameters())])
    for a, b in zip(*found, strict=True):
        assert_close(a, b)


# -- conversion --------------------------------------------------------------------


def test_a_layer_that_torch_cannot_train_is_converted_in_evaluation():
    layer = make(dropout=0.25, weight_drop=0.25, recurrent_dropout=0.25, locked=True)
    with pytest.raises(
        ArgumentError, match=r"cannot train with dropout, recurrent.*weight_drop=0.25"
    ):
        cw.to_torch(layer)
    layer.eval()
    assert_close(cw.to_torch(layer)(normal(T, B, X, seed=1))[0], run(layer))
    assert cw.to_torch(make(dropout=0.25)).dropout == 0.25  # as torch has it
    with pytest.raises(ArgumentError, match=r"no zoneout.*zoneout=0\.1.*export_onnx"):
        cw.to_torch(make(zoneout=0.1).eval())


def test_a_module_of_torch_becomes_a_layer_with_regularisers():
    module = torch.nn.LSTM(X, H, 2, dropout=0.5).double()
    layer = cw.from_torch(module, dropout=0.0, zoneout=0.1, weight_drop=0.5)
    assert layer.regularisers.given == {"zoneout": 0.1, "weight_drop": 0.5}
    plain = cw.from_torch(module)
    assert plain.dropout == 0.5
    assert list(plain.state_dict()) == list(layer.state_dict())


@pytest.mark.parametrize(
    ("options", "kind"),
    [({"zoneout": 0.2}, "Scan"), (EVERY, "Scan"), ({**EVERY, "zoneout": 0.0}, "LSTM")],
)
def test_onnx_has_the_layer_as_it_is_evaluated(options, kind):
    onnxruntime = pytest.importorskip("onnxruntime")
    layer = cw.Recurrent("lstm", X, H, 2, **options)  # training, as it was made
    model = cw.export_onnx(layer)
    assert kind in {node.op_type for node in model.graph.node}
    session = onnxruntime.InferenceSession(model.SerializeToString())
    x = torch.randn(T, B, X)
    (y, *_) = session.run(None, {"x": x.numpy()})
    expected = layer.eval()(x)[0].detach()
    assert torch.allclose(torch.from_numpy(y), expected, atol=1e-6)


# -- what is evaluated, and what is refused ----------------------------------------


def test_the_cell_that_is_evaluated_has_zoneouts_expectation():
    layer = cw.Recurrent("rnn", X, H, zoneout=0.25)
    assert layer.cell.equations == [
        'h_before_zoneout = name("h_before_zoneout", tanh(W.h(h, x)))',
        "h_new = 0.25 * h + 0.75 * h_before_zoneout",
        "return h_new",
    ]
    plain = cw.Recurrent("rnn", X, H, recurrent_dropout=0.25)
    assert plain.cell is cw.cells.rnn


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"zoneout": 1.0},
            r"zoneout is a probability.*1\.0, expected at least 0 and less than 1",
        ),
        ({"zoneout": {"h": -0.1}}, r"zoneout is a probability.*-0\.1"),
        ({"zoneout": {"m": 0.1}}, r"no state 'm'.*Known: h, c"),
        (
            {"recurrent_dropout": True},
            r"recurrent_dropout is a probability.*received True",
        ),
        ({"weight_drop": "0.1"}, r"weight_drop is a probability.*received '0.1'"),
        ({"update_dropout": {"k": 0.1}}, r"no gate or named value 'k'"),
        ({"update_dropout": {"h": 0.1}}, r"no gate or named value 'h'"),
        ({"input_dropout": 1}, r"input_dropout is a probability.*less than 1"),
        ({"output_dropout": 2.0}, r"output_dropout is a probability"),
        ({"locked": "dropout"}, r"\[locked\].*'dropout', expected True, or some of"),
        ({"locked": ("zoneout",)}, r"\[locked\]"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(ArgumentError, match=message):
        cw.Recurrent("lstm", X, H, **options)


def test_a_cell_without_a_candidate_or_an_expectation_says_so():
    with pytest.raises(ArgumentError, match=r"no candidate called g, n, z"):
        cw.Recurrent("rnn", X, H, update_dropout=0.1)
    with pytest.raises(ArgumentError, match=r"'m'.*-inf.*by name"):
        cw.Recurrent("slstm", X, H, zoneout=0.1)
    cw.Recurrent("slstm", X, H, zoneout={"h": 0.1})

    @cw.cell
    def taken(W, x, h, *, zoneout_h):
        return cw.tanh(W.g(h, x)) * zoneout_h

    with pytest.raises(ArgumentError, match=r"'taken' has a 'zoneout_h'"):
        cw.Recurrent(taken, X, H, inputs={"zoneout_h": 1}, zoneout=0.1)


# -- penalties ---------------------------------------------------------------------


def test_penalties_are_means_over_real_steps():
    y = normal(T, B, H, seed=1).requires_grad_()
    lengths = [6, 3, 1]
    rows = [y[:n, b] for b, n in enumerate(lengths)]
    squares = torch.cat([r.flatten() for r in rows]) ** 2
    steps = torch.cat([(r[1:] - r[:-1]).flatten() for r in rows]) ** 2
    packed = torch.nn.utils.rnn.pack_padded_sequence(y, lengths)
    for function, parts in (
        (cw.activation_regularisation, squares),
        (cw.temporal_activation_regularisation, steps),
    ):
        expected = 3 * parts.sum() / parts.numel()
        (gradient,) = torch.autograd.grad(expected, y, retain_graph=True)
        for ours in (
            function(y, 3, lengths=lengths),
            function(y, 3, lengths=torch.tensor(lengths)),
            function(y.transpose(0, 1), 3, lengths=lengths, batch_first=True),
            function(packed, 3),
        ):
            assert_close(ours, expected)
            assert_close(torch.autograd.grad(ours, y, retain_graph=True)[0], gradient)
    plain = y.detach()
    assert_close(cw.activation_regularisation(plain), 2 * (plain**2).mean())
    differences = plain[1:] - plain[:-1]
    for z in (plain, plain[:, 0]):
        d = differences if z is plain else differences[:, 0]
        assert_close(cw.temporal_activation_regularisation(z), (d**2).mean())
    assert cw.temporal_activation_regularisation(plain[:1]) == 0


def test_penalties_refuse_what_is_no_output():
    y = normal(T, B, H, seed=1)
    with pytest.raises(ArgumentError, match=r"one length a row.*\(2,\), expected \(3,"):
        cw.activation_regularisation(y, lengths=[1, 2])
    with pytest.raises(ArgumentError, match=r"outputs of a layer; received \(6,\)"):
        cw.activation_regularisation(y[:, 0, 0])
    with pytest.raises(ArgumentError, match=r"beta weighs.*received -1"):
        cw.temporal_activation_regularisation(y, -1)


# -- what else looks at a layer ----------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_recording_and_stepping_see_the_step_that_runs(engine):
    layer = cw.Recurrent("lstm", X, H, engine=engine, zoneout=0.5, weight_drop=0.5)
    layer.double()
    plain = run(layer)
    with cw.record(layer) as values:
        recorded = run(layer)
    assert_close(recorded, plain)
    assert_close(values["h"], plain)
    kept = (plain[1:] == plain[:-1]).double().mean()
    assert 0.3 < kept < 0.7
    assert not torch.equal(values["h_before_zoneout"], plain)
    layer.eval()
    step = layer.stepper(batch_size=B)
    steps = torch.stack([step(x) for x in normal(T, B, X, seed=1)])
    assert_close(steps, layer(normal(T, B, X, seed=1))[0])
