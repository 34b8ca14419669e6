"""Greff et al.'s random search: its cases, a trial, and what is said of the trials."""

import pytest
import torch

from cellwright.lab import variants
from cellwright.lab.experiment import Keep, Rows
from cellwright.lab.tasks import Music, Sequences


def rows(**tests):
    """Trials of variants by their test figures, which are the validation's too."""
    found = [
        {
            "variant": name,
            "trial": k,
            "epochs": 15,
            "rate": 0.01,
            "units": 50,
            "noise": 0.1,
            "validation": test,
            "test": test,
            "done": 1.0,
        }
        for name, figures in tests.items()
        for k, test in enumerate(figures)
    ]
    return Rows(tuple(found))


def test_every_variant_has_the_same_draws_within_the_papers_ranges():
    cases = variants.cases(False, 0)
    assert len(cases) == 9 * 200
    own = ("variant",)
    for k in range(0, len(cases), 9):
        shared = [
            {n: v for n, v in c.items() if n not in own} for c in cases[k : k + 9]
        ]
        assert all(settings == shared[0] for settings in shared)
        assert {c["variant"] for c in cases[k : k + 9]} == set(variants.VARIANTS)
    for name, low, high in (
        ("rate", 1e-6, 1e-2),
        ("units", 20, 200),
        ("momentum", 0, 0.99),
        ("noise", 0, 1),
    ):
        drawn = [c[name] for c in cases]
        assert low <= min(drawn) < max(drawn) <= high
    assert variants.cases(False, 0) == cases != variants.cases(False, 1)


def test_work_counts_the_matrices_of_a_variant():
    case = {"units": 10, "epochs": 2}
    steps, output = 3 * 2 * 13_578, 10 * 88
    vanilla = variants.work(case | {"variant": "vanilla"})
    assert vanilla == steps * (4 * 10 * 98 + output)
    more = variants.work(case | {"variant": "fgr"}) - vanilla
    assert more == steps * 9 * 10 * 10, "three gates see three gates"
    assert variants.work(case | {"variant": "cifg"}) == steps * (3 * 10 * 98 + output)


@pytest.fixture
def chorales(monkeypatch):
    """A few pieces, as JSB has them."""
    torch.manual_seed(0)
    pieces = [(torch.rand(n, 88) < 0.05).float() for n in (7, 5, 6, 9, 4, 8)]
    data = Music(pieces, pieces[:2], pieces[2:4])
    monkeypatch.setattr(variants, "chorales", lambda: data)
    return data


def small(variant="vanilla", **settings):
    (case,) = [
        c
        for c in variants.cases(False, 0)
        if (c["variant"], c["trial"]) == (variant, 0)
    ]
    return case | {"units": 6, "epochs": 3, "rate": 0.001} | settings


@pytest.mark.parametrize("variant", ["vanilla", "fgr"])
def test_a_trial_trains_and_tests_where_it_validates_best(chorales, tmp_path, variant):
    reports = []
    keep = Keep(tmp_path, lambda measured, done: reports.append((measured, done)))
    torch.manual_seed(0)
    found = variants.run(small(variant), keep)
    assert found["epoch"] == len(found["curve"]) == 3
    assert found["validation"] == pytest.approx(min(found["curve"]), abs=1e-4)
    assert found["curve"][-1] < found["curve"][0]
    assert [done for _, done in reports] == [pytest.approx(k / 3) for k in (1, 2, 3)]
    first = reports[0][0]
    assert first["test"] is not None
    assert first["epoch"] == 1


def test_pieces_of_a_batch_add_up():
    """The sum over all frames, which a mean of a batch would not be."""
    torch.manual_seed(0)
    x = (torch.rand(5, 2, 88) < 0.1).float()
    lengths = torch.tensor([5, 3])
    model = variants.build({"variant": "np", "units": 4})
    batch = Sequences(x, x.flip(0), lengths)
    loss, _ = variants._objective(model, batch, None, 0, noise=0.0)
    one_by_one = sum(
        variants._objective(
            model,
            Sequences(x[:n, [k]], x.flip(0)[:n, [k]], lengths[[k]]),
            None,
            0,
            noise=0.0,
        )[0]
        for k, n in enumerate((5, 3))
    )
    torch.testing.assert_close(loss, one_by_one)
    other, _ = variants._objective(model, batch, None, 0, noise=0.5)
    assert not torch.allclose(loss, other)


LOW, HIGH = [8.5 + k / 100 for k in range(10)], [8.8 + k / 100 for k in range(10)]


@pytest.mark.parametrize(
    ("figures", "says"),
    [
        (HIGH, "worse"),
        ([*LOW[:5], *[9.9] * 5], "no clear change"),  # the better half is compared
        ([v - 1 for v in LOW], "better"),
        ([9.0, 9.1, 9.2, 5e3, *[None] * 6], "worse"),  # grown beyond bounds
        ([*HIGH[:3], *[None] * 7], "worse"),
    ],
)
def test_a_part_is_judged_by_the_ranks_of_the_better_half(figures, says):
    found = rows(vanilla=LOW, nfg=figures)
    assert variants.verdict(found, "nfg") == says


def test_the_chance_is_the_share_of_orders_that_are_as_far_apart():
    vanilla, worse = [1, 2, 3, 5, *[9] * 4], [4, 6, 7, 8, *[9] * 4]
    found = rows(vanilla=vanilla, nfg=worse)
    assert variants.chance(found, "nfg") == pytest.approx(2 / 70)  # of (8 over 4)
    assert variants.above(found, "nfg") == 6.5 - 2.5
    few = rows(vanilla=vanilla[:6], nfg=[v + 9 for v in vanilla[:6]])
    assert variants.chance(few, "nfg") is None, "of three and three, 1 / 20 at best"


def test_a_trial_counts_when_every_variant_has_finished_it():
    both = rows(vanilla=[8.0, 8.1, 8.2], nfg=[8.3, 8.4])
    assert variants.whole(both).values("trial") == [0, 1]
    stopped = [r | {"done": 0.5} if r["test"] == 8.4 else r for r in both]
    assert variants.whole(Rows(tuple(stopped))).values("trial") == [0]


def test_what_is_said_of_many_trials_and_of_none(chorales):
    costs = dict(zip(variants.PAPER, (0.5, 0.4, 0.3, 0, 0, 0, 0, 0), strict=True))
    found = rows(
        vanilla=LOW, **{n: [v + cost for v in LOW] for n, cost in costs.items()}
    )
    (table,) = variants.tables(found)
    assert table.rows[2][3] == "+0.40"
    assert [row[5] for row in table.rows[1:]] == [
        *["worse"] * 3,
        *["no clear change"] * 5,
    ]
    claims = variants.claims(found)
    assert all(claim.holds for claim in claims)
    assert [c.measured for c in claims[1:3]] == [pytest.approx(0.5), 2]
    assert "agrees with Greff et al. on 8 of 8" in variants.conclude(found)
    nothing = Rows(())
    assert variants.tables(nothing) == []
    assert variants.claims(nothing) == []
    assert variants.conclude(nothing) == "No trial is finished yet."
    few = Rows(tuple(r for r in found if r["trial"] < 2))
    assert len(variants.claims(few)) == 3
    assert "too few to judge" in variants.conclude(few)
