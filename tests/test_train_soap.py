"""SOAP, held to a plain loop in NumPy, to Adam where they agree, and in whole runs."""

import numpy as np
import pytest
import torch
from torch import nn

from cellwright.train.checkpoint import CheckpointError, Store
from cellwright.train.loop import train
from cellwright.train.optimisers import make_optimiser
from cellwright.train.plan import Plan
from cellwright.train.schedules import Cosine
from cellwright.train.soap import SOAP
from test_train_loop import Series, Stop, StopAt, assert_same, new_model, objective

LR, DECAY, SLOW, FAST, EPS = 0.03, 0.1, 0.97, 0.8, 1e-8
KEPT, OFTEN, SELDOM = 0.9, 2, 3


def walk(shape, steps, seed=0):
    """Gradients whose columns are correlated."""
    draw = np.random.default_rng(seed)
    mix = draw.normal(size=(shape[-1], shape[-1]))
    return [draw.normal(size=shape) @ mix for _ in range(steps)]


def by_hand(start, gradients):
    """Algorithm 3 of Vyas et al., one-sided: Adam's mean is kept unturned."""
    w, m, v = start.copy(), np.zeros_like(start), np.zeros_like(start)
    c = gradients[0].T @ gradients[0]
    q = np.linalg.eigh(c)[1]
    for t, g in enumerate(gradients, start=1):
        if t % OFTEN == 0:
            c = KEPT * c + (1 - KEPT) * g.T @ g
        if t % SELDOM == 0:
            q = np.linalg.qr(c @ q)[0]
        m = FAST * m + (1 - FAST) * g
        v = SLOW * v + (1 - SLOW) * (g @ q) ** 2
        turned = (m @ q) / (1 - FAST**t)
        step = turned / (np.sqrt(v / (1 - SLOW**t)) + EPS) @ q.T
        w = w - LR * DECAY * w - LR * step
    return w


def ours(start, gradients, **options):
    parameter = nn.Parameter(torch.tensor(start))
    usual = {
        "covariance_every": OFTEN,
        "basis_every": SELDOM,
        "covariance_decay": KEPT,
    }
    optimiser = SOAP([parameter], LR, (FAST, SLOW), EPS, DECAY, **{**usual, **options})
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        optimiser.step()
    return parameter.detach().numpy()


def test_it_is_the_papers_algorithm():
    start, gradients = walk((9, 5), 1)[0], walk((9, 5), 12, seed=1)
    expected = by_hand(start, gradients)
    assert np.abs(ours(start, gradients) - expected).max() < 1e-10
    never = ours(start, gradients, basis_every=99)
    assert np.abs(never - expected).max() > 1e-3  # the basis does follow


@pytest.mark.parametrize(("shape", "widest"), [((7,), 2048), ((4, 6), 5)])
def test_vectors_and_wide_matrices_get_adamw(shape, widest):
    gradients = walk((shape[0], shape[-1]), 8)
    gradients = [g.reshape(-1)[: np.prod(shape)].reshape(shape) for g in gradients]
    start = gradients.pop()
    theirs = nn.Parameter(torch.tensor(start))
    adamw = torch.optim.AdamW([theirs], LR, (FAST, SLOW), EPS, DECAY)
    for gradient in gradients:
        theirs.grad = torch.tensor(gradient)
        adamw.step()
    found = ours(start, gradients, widest=widest)
    assert np.abs(found - theirs.detach().numpy()).max() < 1e-12


def test_the_inputs_may_be_turned():
    """A rotation of what a matrix reads changes nothing, which Adam cannot say."""
    gradients = walk((8, 4), 10)
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(4, 4)))[0]
    start = np.ones((8, 4))
    turned = ours(start @ turn, [g @ turn for g in gradients])
    assert np.abs(turned - ours(start, gradients) @ turn).max() < 1e-10
    plain = [
        ours(s, g, widest=1)
        for s, g in ((start, gradients), (start @ turn, [g @ turn for g in gradients]))
    ]
    assert np.abs(plain[1] - plain[0] @ turn).max() > 1e-2


def test_what_has_no_gradient_stays():
    moving, still = (nn.Parameter(torch.ones(3, 2)) for _ in range(2))
    optimiser = SOAP([moving, still])
    moving.grad = torch.randn(3, 2)

    def closure():
        assert torch.is_grad_enabled()
        return 5.0

    assert optimiser.step(closure) == 5.0
    assert torch.equal(still, torch.ones(3, 2))
    assert not torch.equal(moving, torch.ones(3, 2))


def soap_run(plan, store=None, resume=False, **options):
    model = new_model()
    optimiser = make_optimiser("soap", model, 0.01, weight_decay=0.1)
    torch.manual_seed(1)
    schedule = Cosine(warm_up=3, steps=plan.steps)
    parts = model, Series(), objective, optimiser, schedule, plan
    return model, train(*parts, store=store, resume=resume, **options)


def test_a_resumed_run_is_the_same_run(tmp_path):
    """It stops between two changes of the basis, and goes on over the next one."""
    plan = Plan(50, checkpoint_every=7)
    whole, _ = soap_run(plan)
    store = Store(tmp_path / "run")
    with pytest.raises(Stop):
        soap_run(plan, store, reporter=StopAt(30))
    resumed, _ = soap_run(plan, store, resume=True)
    assert_same(whole, resumed)


def test_a_basis_of_another_shape_is_refused(tmp_path):
    store = Store(tmp_path / "run")
    soap_run(Plan(3), store)
    kept = store.load()
    matrix = next(
        state
        for state in kept.training["optimiser"]["state"].values()
        if state["basis"].numel()
    )
    matrix["basis"] = torch.zeros(2, 2)
    store.save(3, kept.model, kept.training, ("last",))
    with pytest.raises(CheckpointError, match=r"basis of parameter 0 has the shape"):
        soap_run(Plan(5), store, resume=True)
