"""Initialisers against their definitions, for Recurrent and the drop-ins."""

import math

import pytest
import torch

import cellwright as cw
import oracles
from cellwright import init
from oracles import normal

X, H = 5, 8


def layers(name):
    """The same cell as Recurrent and as drop-in, two layers, both directions."""
    drop_in = {"lstm": cw.LSTM, "gru_reset_after": cw.GRU, "rnn": cw.RNN}[name]
    options = {"num_layers": 2, "bidirectional": True, "dtype": torch.float64}
    return [cw.Recurrent(name, X, H, **options), drop_in(X, H, **options)]


def split(weights, name):
    """A gate's matrix and columns (for h, for x), in a Recurrent or a drop-in."""
    gate = getattr(weights, name)
    if hasattr(gate, "weight_hh"):
        return gate.weight_hh, gate.weight_ih
    return gate.weight[:, :H], gate.weight[:, H:]


def others(layer, gates):
    """Every bias but those of `gates`, to see that they are left alone."""
    return [
        getattr(weights, n).bias.clone()
        for weights in layer.cells
        for n in ("f", "i", "g", "o")
        if n not in gates
    ]


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("value", [1.0, 2.0])
def test_forget_bias_sets_that_bias_in_every_layer_and_no_other(kind, value):
    layer = layers("lstm")[kind]
    before = others(layer, "f")
    weights = [split(w, "f")[0].clone() for w in layer.cells]
    assert init.forget_bias_(layer, value) is layer
    assert len(layer.cells) == 4
    for k, w in enumerate(layer.cells):
        assert w.f.bias.tolist() == [value] * H
        assert torch.equal(split(w, "f")[0], weights[k])
    assert all(map(torch.equal, before, others(layer, "f")))


def test_forget_bias_takes_the_gates_name():
    layer = init.forget_bias_(cw.GRU(X, H), 1.5, gate="z")
    assert layer.cells[0].z.bias.tolist() == [1.5] * H
    assert layer.bias_ih_l0[H : 2 * H].tolist() == [1.5] * H
    assert layer.bias_hh_l0[H : 2 * H].tolist() == [0.0] * H
    assert layer.bias_ih_l0[:H].abs().max() < 1


@pytest.mark.parametrize(
    "layer", [cw.Recurrent("gru", X, H), cw.LSTM(X, H, bias=False)]
)
def test_a_gate_without_a_bias_is_an_error(layer):
    gate = "z" if isinstance(layer, cw.Recurrent) else "f"
    with pytest.raises(cw.ArgumentError, match="has no bias to set"):
        init.forget_bias_(layer, gate=gate)


@pytest.mark.parametrize("layer", [cw.Recurrent("gru_bias", X, H), cw.GRU(X, H)])
def test_an_unknown_gate_is_an_error_that_lists_the_gates(layer):
    with pytest.raises(cw.ArgumentError, match=r"no gate 'f'; expected one of .*z"):
        init.forget_bias_(layer)


@pytest.mark.parametrize("name", ["lstm", "gru_reset_after", "rnn"])
@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("gain", [1.0, 0.7])
def test_recurrent_matrices_become_orthogonal_gate_by_gate(name, kind, gain):
    layer = layers(name)[kind]
    gates = {"lstm": "figo", "gru_reset_after": "rz", "rnn": "h"}[name]
    before = [[split(w, g)[1].clone() for g in gates] for w in layer.cells]
    assert init.orthogonal_(layer, gain) is layer
    eye = torch.eye(H, dtype=torch.float64)
    seen = []
    for k, w in enumerate(layer.cells):
        for j, g in enumerate(gates):
            for_h, for_x = split(w, g)
            torch.testing.assert_close(for_h @ for_h.T, gain**2 * eye)
            assert torch.equal(for_x, before[k][j])
            seen.append(for_h)
        if name == "gru_reset_after":
            m = w.m.weight_hh if kind else w.m.weight
            torch.testing.assert_close(m @ m.T, gain**2 * eye)
    assert not any(torch.equal(seen[0], s) for s in seen[1:])


def test_columns_that_meet_a_value_computed_from_a_state_are_recurrent():
    """The candidate of the GRU sees r * h; the peephole's o sees the new c."""
    gru = init.orthogonal_(cw.Recurrent("gru", X, H, dtype=torch.float64))
    for_h = gru.cells[0].n.weight[:, :H]
    eye = torch.eye(H, dtype=torch.float64)
    torch.testing.assert_close(for_h @ for_h.T, eye)
    peephole = init.orthogonal_(cw.Recurrent("peephole", X, H, dtype=torch.float64))
    for gate in "fio":
        for columns in peephole.cells[0].get_submodule(gate).weight.split(H, 1)[:2]:
            torch.testing.assert_close(columns @ columns.T, eye)


def test_each_head_becomes_orthogonal():
    @cw.cell
    def headed(W, x, h):
        return cw.tanh(W.a(h, x, heads=2))

    layer = init.orthogonal_(cw.Recurrent(headed, 6, H, dtype=torch.float64))
    for block in layer.cells[0].a.weight[:, :, : H // 2]:
        eye = torch.eye(H // 2, dtype=torch.float64)
        torch.testing.assert_close(block @ block.T, eye)


@pytest.mark.parametrize("kind", [0, 1])
def test_identity_makes_an_irnn(kind):
    layer = [
        cw.Recurrent("rnn_relu", X, H, dtype=torch.float64),
        cw.RNN(X, H, nonlinearity="relu", dtype=torch.float64),
    ][kind]
    before = split(layer.cells[0], "h")[1].clone()
    assert init.identity_(layer, scale=0.5) is layer
    for_h, for_x = split(layer.cells[0], "h")
    assert torch.equal(for_h, 0.5 * torch.eye(H, dtype=torch.float64))
    assert torch.equal(for_x, before)
    assert layer.cells[0].h.bias.tolist() == [0.0] * H
    h = normal(1, 2, H, seed=1, grad=False).abs()
    _, last = layer(torch.zeros(3, 2, X, dtype=torch.float64), h)
    torch.testing.assert_close(last, h / 8)


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("gain", [1.0, 2.0])
def test_glorot_draws_each_operand_from_its_own_fans(kind, gain):
    torch.manual_seed(1)
    layer = [cw.Recurrent("lstm", 200, 50), cw.LSTM(200, 50)][kind]
    assert init.glorot_(layer, gain) is layer
    for name in "figo":
        gate = getattr(layer.cells[0], name)
        if kind:
            for_h, for_x = gate.weight_hh, gate.weight_ih
        else:
            for_h, for_x = gate.weight[:, :50], gate.weight[:, 50:]
        for matrix, fans in ((for_h, 100), (for_x, 250)):
            bound = gain * math.sqrt(6 / fans)
            assert 0.97 * bound < matrix.abs().max() <= bound
            deviation = bound / math.sqrt(3)  # of a uniform draw
            assert abs(float(matrix.detach().std()) / deviation - 1) < 0.05


@pytest.mark.parametrize("kind", [0, 1])
def test_chrono_draws_log_uniform_forget_biases_and_negates_the_input_gate(kind):
    torch.manual_seed(2)
    layer = [cw.Recurrent("lstm", 2, 4000), cw.LSTM(2, 4000)][kind]
    before = layer.cells[0].o.bias.clone()
    assert init.chrono_(layer, longest=100) is layer
    forget, store = layer.cells[0].f.bias.detach(), layer.cells[0].i.bias.detach()
    assert torch.equal(store, -forget)
    steps = forget.exp()
    assert steps.min() >= 1 - 1e-5
    assert steps.max() <= 99 + 1e-3
    assert abs(float(steps.mean()) - 50) < 1.5  # U(1, 99)
    assert abs(float(steps.std()) - 98 / math.sqrt(12)) < 1
    assert torch.equal(layer.cells[0].o.bias, before)


def test_chrono_takes_the_gates_names():
    gru = init.chrono_(cw.GRU(X, H), 20, forget="z")
    assert gru.cells[0].z.bias.min() >= 0
    assert gru.cells[0].z.bias.max() <= math.log(19)
    coupled = init.chrono_(cw.Recurrent("coupled", X, H), 20)
    assert coupled.cells[0].f.bias.min() >= 0
    odyssey = cw.Recurrent("np", X, H)
    init.chrono_(odyssey, 20, forget="f", store="z")
    assert torch.equal(odyssey.cells[0].z.bias, -odyssey.cells[0].f.bias)


@pytest.mark.parametrize("longest", [2, 1, 0, -5])
def test_chrono_needs_more_than_two_steps(longest):
    with pytest.raises(cw.ArgumentError, match=f"received {longest}, expected more"):
        init.chrono_(cw.LSTM(X, H), longest)


@pytest.mark.parametrize(
    "initialise",
    [
        init.forget_bias_,
        init.orthogonal_,
        init.identity_,
        init.glorot_,
        lambda layer: init.chrono_(layer, 10),
    ],
)
@pytest.mark.parametrize("kind", [0, 1])
def test_initialised_parameters_are_the_same_leaves_and_train(initialise, kind):
    layer = layers("lstm")[kind]
    before = dict(layer.named_parameters())
    initialise(layer)
    after = dict(layer.named_parameters())
    assert all(
        after[n] is p and p.is_leaf and p.requires_grad for n, p in before.items()
    )
    y, _ = layer(normal(3, 2, X, seed=1))
    y.backward(oracles.random_cotangents([y])[0])
    assert all(p.grad is not None and p.grad.any() for p in after.values())


def test_the_initialisers_follow_torchs_seed():
    draws = []
    for _ in range(2):
        torch.manual_seed(5)
        layer = init.chrono_(init.glorot_(cw.Recurrent("lstm", X, H)), 10)
        draws.append([p.clone() for p in layer.parameters()])
    assert all(map(torch.equal, *draws))


@pytest.mark.parametrize("name", sorted(cw.cells.all()))
def test_every_initialiser_of_matrices_takes_every_cell(name):
    layer = cw.Recurrent(name, X, H)
    for initialise in (init.orthogonal_, init.identity_, init.glorot_):
        initialise(layer)
    named = {i.name: torch.rand(2, 3, int(i.size)) for i in layer.graphs[0].inputs[1:]}
    y, _ = layer(torch.randn(2, 3, X), **named)
    assert torch.isfinite(y).all()


def test_default_draws_are_uniform_within_one_over_root_h():
    torch.manual_seed(3)
    layer = cw.Recurrent("peephole_diagonal", 100, 64)
    bound = 1 / 8
    for parameter in layer.parameters():
        assert parameter.abs().max() <= bound
    weight = layer.cells[0].f.weight.detach()
    assert weight.abs().max() > 0.99 * bound
    assert abs(float(weight.std()) / (bound / math.sqrt(3)) - 1) < 0.02
    torch.manual_seed(3)
    again = cw.Recurrent("peephole_diagonal", 100, 64)
    assert torch.equal(again.cells[0].f.weight, layer.cells[0].f.weight)
    again.reset_parameters()
    assert not torch.equal(again.cells[0].f.weight, layer.cells[0].f.weight)


def test_ring_spreads_the_factors_of_an_lru_evenly():
    layer = init.ring_(cw.Recurrent("lru", X, 4000, num_layers=2), 0.5, 0.9, 1.0)
    for weights in layer.cells:
        factors = torch.exp(torch.complex(-weights.nu.exp(), weights.theta.exp()))
        radius, angle = factors.abs(), factors.angle()
        assert 0.5 <= radius.min() < radius.max() <= 0.9
        assert 0.0 < angle.min() < angle.max() <= 1.0
        area = (radius**2 - 0.5**2) / (0.9**2 - 0.5**2)
        for even in (area, angle):
            assert even.mean().item() == pytest.approx(0.5, abs=0.03)
            assert even.var().item() == pytest.approx(1 / 12, abs=0.01)
        torch.testing.assert_close(weights.gamma.exp() ** 2 + radius**2, 1 + 0 * radius)


def test_ring_sets_the_radii_of_an_rg_lru():
    layer = init.ring_(cw.Recurrent("rg_lru", X, 4000))
    radius = torch.exp(-torch.nn.functional.softplus(layer.cells[0].decay))
    assert 0.9 <= radius.min() < radius.max() <= 0.999 + 1e-6
    area = (radius**2 - 0.9**2) / (0.999**2 - 0.9**2)
    assert area.mean().item() == pytest.approx(0.5, abs=0.03)


def test_ring_refuses_other_cells_and_other_radii():
    with pytest.raises(cw.ArgumentError, match=r"\[ring_\].*expected cells\.lru"):
        init.ring_(cw.Recurrent("lstm", X, H))
    with pytest.raises(cw.ArgumentError, match=r"low 0\.9, high 1\.0"):
        init.ring_(cw.Recurrent("lru", X, H), 0.9, 1.0)


# -- as the authors start them -----------------------------------------------------


def published(name, **options):
    torch.manual_seed(4)
    layer = cw.Recurrent(name, X, 2000, num_layers=2, **options)
    assert init.published_(layer) is layer
    return layer


def assert_log_uniform(steps, low=1e-3, high=0.1):
    assert low * 0.999 <= steps.min() < 1.05 * low
    assert 0.95 * high < steps.max() <= high * 1.001
    middle = float(steps.log().mean()) / math.log(math.sqrt(low * high))
    assert abs(middle - 1) < 0.02  # of a uniform draw the mean is the middle


def test_published_mlstm_has_forget_biases_from_3_to_6():
    for weights in published("mlstm", heads=1000).cells:
        assert not weights.f.weight.any()
        assert not weights.i.weight.any()
        assert torch.equal(weights.f.bias, torch.linspace(3, 6, 1000))
        assert abs(float(weights.i.bias.detach().std()) - 0.1) < 0.01
        assert weights.q.weight.any()


def test_published_slstm_forgets_by_a_power_of_its_layer():
    """xlstm, slstm/cell.py: −(−5 + 12 (k/(d − 1))^(0.3 + 1.3 ratio)) in each head."""
    layer = published("slstm", heads=2)
    for weights, ratio in zip(layer.cells, (0.0, 1.0), strict=True):
        k = torch.arange(1000) / 999
        own = -(-5.0 + 12.0 * k ** (0.3 + 1.3 * ratio))
        torch.testing.assert_close(weights.f.bias.detach(), torch.cat([own, own]))
        for gate in "zifo":
            assert not getattr(weights, f"r_{gate}").weight.any()
            assert gate == "f" or not getattr(weights, gate).bias.any()
            assert getattr(weights, gate).weight.any()


def test_published_gated_delta_net_draws_rates_and_steps():
    for weights in published("gated_delta_net", heads=1000).cells:
        rates = weights.log_rate.detach().exp()
        assert rates.max() <= 16.001
        assert abs(float(rates.mean()) - 8) < 0.5
        assert_log_uniform(torch.nn.functional.softplus(weights.step.bias.detach()))


def test_published_selective_ssm_is_s4d_real():
    for weights in published("selective_ssm", state_size=3, rank=4).cells:
        rows = -weights.log_A.detach().exp()
        torch.testing.assert_close(rows, torch.tensor([[-1.0, -2, -3]]).expand(2000, 3))
        assert_log_uniform(torch.nn.functional.softplus(weights.delta.bias.detach()))
        assert 0.49 < weights.delta.weight.abs().max() <= 0.5  # ±1/√rank
        assert torch.equal(weights.skip, torch.ones(2000))


@pytest.mark.parametrize("name", ["lru", "rg_lru"])
def test_published_linear_units_lie_on_a_ring(name):
    layer = published(name)
    torch.manual_seed(4)
    ring = init.ring_(cw.Recurrent(name, X, 2000, num_layers=2))
    assert all(map(torch.equal, layer.parameters(), ring.parameters()))


def test_published_refuses_other_cells():
    with pytest.raises(
        cw.ArgumentError,
        match=r"cell 'lstm' has no start of its own; expected one of mlstm",
    ):
        init.published_(cw.Recurrent("lstm", X, H))
