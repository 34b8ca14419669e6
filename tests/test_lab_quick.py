"""Every experiment's quick form: its claims hold (`make lab-quick`)."""

import os

import pytest
import torch

from cellwright import lab


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
    # Nothing timed is held here: that is the machine's, and its neighbours'.
    claims = [c for c in result.claims if "time of a step" not in c.name]
    failed = [c for c in claims if not c.holds]
    assert not failed, "\n".join(
        f"{c.name}: {c.measured}, expected {c.interval}" for c in failed
    )
    assert result.conclusion
    assert os.path.getsize(lab.plot_path(name, tmp_path)) > 10_000
