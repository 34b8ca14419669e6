"""Cells built as dynamical systems: what they keep, and what they cannot do."""

from ..language import cell, name
from ..language.ops import abs_, sigmoid, softmax, softplus, sum_, tanh


@cell
def lem(W, x, y, z, *, dt=1.0):
    """Long expressive memory, two time scales (Rusch, Mishra, Erichson & Mahoney 2022,
    eq. 3): each unit of y and z has its own step, at most `dt`."""
    step_z = dt * sigmoid(W.s(y, x))
    step_y = dt * sigmoid(W.t(y, x))
    z = (1 - step_z) * z + step_z * tanh(W.u(y, x))
    y = (1 - step_y) * y + step_y * tanh(W.v(z, x))
    return y, z


@cell
def antisymmetric(W, x, h, *, epsilon=0.1, gamma=0.01):
    """AntisymmetricRNN (Chang, Chen, Haber & Chi 2019, arXiv 1902.09689, section 3): a
    step ε of an equation that neither grows nor dies, γ damps it."""
    inside = W.a(h, bias=False, antisymmetric=True) - gamma * h
    return h + epsilon * name("n", tanh(inside + W.n(x)))


@cell
def gated_antisymmetric(W, x, h, *, epsilon=0.1, gamma=0.01):
    """AntisymmetricRNN with gating (Chang, Chen, Haber & Chi 2019, section 3): each
    unit has its own step, at most ε; gate and candidate share the matrix."""
    inside = W.a(h, bias=False, antisymmetric=True) - gamma * h
    z = name("z", sigmoid(inside + W.z(x)))
    n = name("n", tanh(inside + W.n(x)))
    return h + epsilon * z * n


@cell
def cfn(W, x, h):
    """Chaos-free network: without input it falls to zero (Laurent & von Brecht 2017,
    eq. 1–2)."""
    theta = sigmoid(W.theta(h, x))
    eta = sigmoid(W.eta(h, x))
    return theta * tanh(h) + eta * tanh(W.g(x, bias=False))


@cell
def mc_lstm(W, x, c, *, mass: 1):  # type: ignore
    """Mass-conserving LSTM (Hoedt et al. 2021, arXiv 2101.05186, section 2): what comes
    in is stored, or goes out.

    `mass` is what is conserved, `x` what else is known. i and the columns of r, which
    moves mass between units, sum to 1. The output is the mass that leaves.
    """
    share = name("share", c / (sum_(abs_(c)) + 1e-5))  # an empty store divides by ε
    i = softmax(W.i(share, x))
    o = sigmoid(W.o(share, x))
    total = name("total", W.r(c, bias=False, columns=softmax) + i * mass)
    return o * total, (1 - o) * total


@cell
def cornn(W, x, y, z, *, dt=0.05, gamma=1.0, epsilon=1.0):
    """Coupled oscillators, coRNN (Rusch & Mishra 2021, arXiv 2010.00951, eq. 3,
    explicit in the damping as in their code): z is the velocity of y."""
    force = tanh(W.force(y, z, x))
    z = z + dt * (force - gamma * y - epsilon * z)
    return y + dt * z, z


@cell
def unicornn(W, x, y, z, *, dt=0.05, alpha=1.0):
    """Undamped independent oscillators, UnICORNN (Rusch & Mishra 2021, arXiv
    2103.05487): each unit has its own step, at most `dt`."""
    step = dt * sigmoid(W.vector("c"))
    z = z - step * (tanh(W.w * y + W.u(x)) + alpha * y)
    return y + step * z, z


@cell
def cfc(W, x, h, *, dt: 1):  # type: ignore
    """Closed-form continuous-time network (Hasani et al. 2022, arXiv 2106.13898), with
    one layer before its heads as in the authors' `ncps`; `dt` is the time since the
    last step."""
    z = 1.7159 * tanh(0.666 * W.z(x, h))
    f = tanh(W.f(z))
    g = tanh(W.g(z))
    t = name("t", sigmoid(W.a(z) * dt + W.b(z)))
    return f * (1 - t) + t * g


@cell
def ltc(W, x, h, *, dt: 1, unfolds=6):  # type: ignore
    """Liquid time-constant network (Hasani et al. 2021, eq. 3 and algorithm 1, the
    fused solver), `unfolds` steps of it over the time `dt`; f is σ of an affine map."""
    part, tau = dt / unfolds, softplus(W.vector("tau", init=0.5))
    for _ in range(unfolds):
        f = sigmoid(W.f(h, x))
        h = (h + part * f * W.a) / (1 + part * (1 / tau + f))
    return h
