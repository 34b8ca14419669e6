"""Every experiment's quick form: its claims hold (`make lab-quick`)."""

import os

import pytest
import torch

from cellwright import lab
from cellwright.exam.questions import load

#: Claims of key points that the quick forms do not measure, or not without the music.
FULL_ALONE = {"sentiment: the tree", "copy, T = 1000", "JSB Chorales, TCN"}


@pytest.mark.lab
@pytest.mark.parametrize("name", lab.NAMES)
def test_the_claims_of_the_quick_form_hold(name, tmp_path):
    experiment = lab.get(name)
    reason = experiment.needs()
    if reason is not None:
        pytest.skip(reason)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        result = lab.run_experiment(experiment, tmp_path, quick=True)
    finally:
        torch.set_num_threads(threads)
    failed = [c for c in result.claims if not c.holds]
    assert not failed, "\n".join(
        f"{c.name}: {c.measured}, expected {c.interval}" for c in failed
    )
    assert result.conclusion
    assert os.path.getsize(lab.plot_path(name, tmp_path)) > 10_000
    asked = [p for q in load() if q.experiment == name for p in q.points if p.claim]
    for point in asked:
        found = [c for c in result.claims if c.name.startswith(point.claim)]
        assert len(found) == 1 or (not found and point.claim in FULL_ALONE), point
