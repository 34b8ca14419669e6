"""When numbers stop being finite: stop, say where, spare the last good checkpoint."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ..language.errors import CellwrightError
from .checkpoint import Store
from .gradients import gradient_norms, total_norm

if TYPE_CHECKING:
    from accelerate import Accelerator


class Diverged(CellwrightError):
    """The loss, a gradient or a weight is no longer a finite number."""


class Watch:
    """Looks at every step of a run before and after it is taken."""

    def __init__(self, model: nn.Module, accelerator: Accelerator, store: Store | None):
        self._model, self._store = model, store
        # In fp16 the scaler skips a step whose gradients overflow: no divergence.
        self._gradients_may_overflow = accelerator.scaler is not None
        self._norms: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] = {}

    def gradients(self, step: int, loss: float, rate: float) -> Tensor:
        """The norm of all gradients taken as one vector.

        Args:
            step: the one about to be taken, from 0.
            loss, rate: of the same step.

        Raises:
            Diverged: the loss or a gradient is not finite.
        """
        self._before, self._norms = self._norms, gradient_norms(self._model)
        self._step, self._loss, self._rate = step, loss, rate
        norm = total_norm(self._norms)
        finite = self._gradients_may_overflow or bool(norm.isfinite())
        if not (math.isfinite(loss) and finite):
            raise self._diverged()
        return norm

    def weights(self) -> None:
        """Raise Diverged unless all are finite: only these may become a checkpoint."""
        if not all(bool(p.isfinite().all()) for p in self._model.parameters()):
            raise self._diverged()

    def _diverged(self) -> Diverged:
        lines = [
            f"[step {self._step + 1}] training diverged; received a loss of "
            f"{self._loss}, expected finite numbers.",
            "Gradient norms by parameter, at this step and at the step before:",
        ]
        width = max(map(len, self._norms), default=0)
        for name, norm in self._norms.items():
            before = f"{self._before[name]:.3g}" if name in self._before else "–"
            lines.append(f"  {name:<{width}}  {norm.item():10.3g}  {before:>10}")
        lines.append(
            f"Try a lower learning rate (it was {self._rate:.3g}), a longer warm-up, "
            "stronger clipping by norm, or look for a logarithm, division or "
            "exponential in the cell that can overflow."
        )
        if self._store is not None and self._store.has():
            kept = f"The last good checkpoint is kept in {self._store.directory}."
            lines.append(kept)
        return Diverged("\n".join(lines))
