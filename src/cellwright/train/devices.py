"""Device, precision and processes: accelerate decides, from how it was started."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..extras import require
from ..language.errors import ArgumentError

if TYPE_CHECKING:
    from accelerate import Accelerator


def make_accelerator(
    precision: str = "no",
    tensorboard_directory: Path | None = None,
    device: str = "auto",
) -> Accelerator:
    """An accelerator for one process, or for all that torchrun started.

    Args:
        precision: "no", "bf16" or "fp16" mixed precision.
        tensorboard_directory: where TensorBoard's events go; None for no tracker.
        device: "auto" for a GPU where there is one, or the type of a device.

    Raises:
        ArgumentError: this machine has no such device.
    """
    check_device(device)
    require("cellwright.train", "train")
    from accelerate import Accelerator

    return Accelerator(
        # Without this, processes on a machine with no GPU would not find each other.
        cpu=device == "cpu" or not torch.accelerator.is_available(),
        mixed_precision=precision,
        log_with="tensorboard" if tensorboard_directory else None,
        project_dir=tensorboard_directory,
    )


def check_device(device: str) -> None:
    """Raise ArgumentError for a device that this machine, or this torch, lacks."""
    found = ["auto", "cpu"]
    if torch.accelerator.is_available():
        found.append(str(torch.accelerator.current_accelerator()).partition(":")[0])
    if device not in found:
        raise ArgumentError(
            f"[device] torch finds no such device here; received {device!r}, expected "
            f"one of {', '.join(found)}"
        )


def from_main(value: Any) -> Any:
    """The main process's value, on every process: all of them must go on alike."""
    from accelerate.utils import broadcast_object_list

    values = [value]
    broadcast_object_list(values)
    return values[0]
