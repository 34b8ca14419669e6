"""Every test starts from the same draws, and leaves torch's settings as they were."""

import os
import sys

# Triton decides when it is imported whether kernels are interpreted, on the CPU.
os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "cellwright",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],  # it is about the machine
)
settings.load_profile("cellwright")


@pytest.fixture(autouse=True)
def _same_draws():
    torch.manual_seed(20)


@pytest.fixture(autouse=True)
def _default_dtype_is_restored():
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


@pytest.fixture(autouse=True)
def _nothing_is_compiled_before():
    """Dynamo counts how often one function was compiled, whoever compiled it."""
    yield
    if "torch._dynamo" in sys.modules:
        sys.modules["torch._dynamo"].reset()
