"""What a cell's kernels are written for: the type of factors, and a device's memory."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch

#: Bytes of shared memory that a program may have: on an H100, and in the interpreter.
H100_SHARED = 227 * 1024


class Target(NamedTuple):
    """What the kernels are for.

    Attributes:
        dtype: of the factors of products.
        precision: of products in float32, "ieee" or "tf32"; or "interpreted".
        shared: bytes of shared memory that a program may have.
    """

    dtype: torch.dtype = torch.float32
    precision: str = "ieee"
    shared: int = H100_SHARED

    @property
    def has_no_tensor_cores(self) -> bool:
        """Whether products are in full float32."""
        return self.dtype is torch.float32 and self.precision == "ieee"

    def constants(self) -> dict[str, Any]:
        """What a kernel with products is called with."""
        import triton.language as tl

        factors = {
            torch.float32: tl.float32,
            torch.float16: tl.float16,
            torch.bfloat16: tl.bfloat16,
        }
        return {"FACTORS": factors[self.dtype], "PRECISION": self.precision}


def target_of(device: torch.device, dtype: torch.dtype) -> Target:
    """That of a device, with torch's present switch for TF32."""
    if device.type != "cuda":
        return Target(dtype, "interpreted", H100_SHARED)
    return Target(dtype, rounding(), _shared(device.index or 0))


def rounding() -> str:
    """How torch's products in float32 round: "ieee" or "tf32"."""
    products = torch.backends.cuda.matmul
    if hasattr(products, "fp32_precision"):  # torch 2.9
        return "tf32" if products.fp32_precision == "tf32" else "ieee"
    return "tf32" if products.allow_tf32 else "ieee"


@lru_cache
def _shared(index: int) -> int:
    import triton

    active: Any = triton.runtime.driver.active
    properties = active.utils.get_device_properties(index)
    return properties["max_shared_mem"]
