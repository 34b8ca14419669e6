"""SOAP: Adam in the basis in which the gradients of a matrix are uncorrelated."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class SOAP(torch.optim.Optimizer):
    """AdamW in the eigenbasis of what a matrix reads (Vyas et al. 2024, "SOAP").

    Of a matrix W (m, n) with the gradient G, the second moment GᵀG (n, n) is averaged
    over steps. Adam's moments are those of G Q, where Q (n, n) has the eigenvectors of
    that average; the step is taken back with Qᵀ. Inputs of a layer are correlated, and
    Adam alone, which scales every element on its own, cannot see that. This is the
    paper's one-sided form, with the side of the inputs: the rows of W share what they
    read. Vectors, and matrices wider than `widest`, get AdamW.

    As in the paper Q begins with the eigenvectors of the first GᵀG, and follows the
    average C by one step of the power method, Q ← qr(C Q), every so many steps. Then
    the first moment, which is linear in G, is turned too; the second stays (algorithm
    3, where the first is kept unturned: the same step).

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        betas: decay of the two moments.
        eps: added to the root of the second moment.
        weight_decay: decoupled, as AdamW's.
        covariance_decay: of the average of GᵀG.
        covariance_every: steps between two GᵀG that are averaged.
        basis_every: steps between two changes of Q.
        widest: the most columns n of a matrix that gets a basis.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        covariance_decay: float = 0.95,
        covariance_every: int = 2,
        basis_every: int = 10,
        widest: int = 2048,
    ):
        options = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "covariance_decay": covariance_decay,
            "covariance_every": covariance_every,
            "basis_every": basis_every,
            "widest": widest,
        }
        super().__init__(params, options)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Args:
            closure: as torch's optimisers take it.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, group)
        return loss

    def _step(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if not state:
            state.update(_begin(gradient, group["widest"]))
        state["step"] += 1
        step, basis = int(state["step"]), None
        if state["basis"].numel():
            _follow(state, gradient, step, group)
            basis = state["basis"]
            gradient = gradient @ basis
        fast, slow = group["betas"]
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.lerp_(gradient, 1 - fast)
        square.mul_(slow).addcmul_(gradient, gradient, value=1 - slow)
        root = square.sqrt().div_((1 - slow**step) ** 0.5).add_(group["eps"])
        change = mean / root
        if basis is not None:
            change = change @ basis.t()
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(change, alpha=-group["lr"] / (1 - fast**step))

    def state_shapes(self, name: str, parameter: Tensor) -> list[tuple[int, ...]]:
        """The shapes that a parameter's entry of that name in the state can have."""
        if name == "step":
            return [()]
        if name in ("covariance", "basis"):
            return [(_side(parameter, self.defaults["widest"]),) * 2]
        return [tuple(parameter.shape)]


def _side(parameter: Tensor, widest: int) -> int:
    """How many columns get a basis: a matrix's, or none."""
    fits = parameter.ndim == 2 and parameter.shape[1] <= widest
    return parameter.shape[1] if fits else 0


def _begin(gradient: Tensor, widest: int) -> dict[str, Tensor]:
    """The state before the first step; what gets no basis has one of 0 × 0."""
    covariance = gradient.new_zeros(0, 0)
    basis = covariance.clone()
    if _side(gradient, widest):
        covariance = gradient.t() @ gradient
        # By rows, as a checkpoint has it: products of another order round otherwise.
        basis = torch.linalg.eigh(covariance)[1].contiguous()
    return {
        "step": torch.zeros(()),
        "exp_avg": torch.zeros_like(gradient),
        "exp_avg_sq": torch.zeros_like(gradient),
        "covariance": covariance,
        "basis": basis,
    }


def _follow(
    state: dict[str, Tensor], gradient: Tensor, step: int, group: dict[str, Any]
) -> None:
    """Average the gradient's covariance, and turn the basis and the mean with it."""
    covariance, basis = state["covariance"], state["basis"]
    if step % group["covariance_every"] == 0:
        decay = group["covariance_decay"]
        covariance.addmm_(gradient.t(), gradient, beta=decay, alpha=1 - decay)
    if step % group["basis_every"] == 0:
        turned = torch.linalg.qr(covariance @ basis)[0].contiguous()
        state["exp_avg"] = state["exp_avg"] @ (basis.t() @ turned)
        state["basis"] = turned
