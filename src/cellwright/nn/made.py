"""Weights that torch makes of others: pruned, normalised, parametrised.

torch has two ways. A parametrization is a property: whoever reads the weight makes it.
A hook (`prune`, the older `weight_norm` and `spectral_norm`) makes it when its module
is called, which no engine but the reference does; so a layer runs these hooks itself,
once a call, and computes with what they made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ..language import ArgumentError


@dataclass(frozen=True)
class Maker:
    """A kind of hook that makes a weight.

    Attributes:
        hook: its class.
        label: the hook's attribute that says which weight.
        read, write: `(module, name, hook)`: a copy of what is kept in the weight's
            place, and its opposite, `(…, value)`.
    """

    hook: type
    label: str
    read: Callable[[nn.Module, str, Any], Tensor]
    write: Callable[[nn.Module, str, Any, Tensor], None]


def _read_original(module: nn.Module, name: str, hook: Any) -> Tensor:
    return getattr(module, f"{name}_orig").detach().clone()


def _write_original(module: nn.Module, name: str, hook: Any, value: Tensor) -> None:
    getattr(module, f"{name}_orig").copy_(value)


def _read_normed(module: nn.Module, name: str, hook: WeightNorm) -> Tensor:
    return hook.compute_weight(module).detach().clone()


def _write_normed(
    module: nn.Module, name: str, hook: WeightNorm, value: Tensor
) -> None:
    getattr(module, f"{name}_g").copy_(torch.norm_except_dim(value, 2, hook.dim))
    getattr(module, f"{name}_v").copy_(value)


MAKERS = (
    Maker(BasePruningMethod, "_tensor_name", _read_original, _write_original),
    Maker(SpectralNorm, "name", _read_original, _write_original),
    Maker(WeightNorm, "name", _read_normed, _write_normed),
)
HOOKS = tuple(maker.hook for maker in MAKERS)


def is_plain(module: nn.Module) -> bool:
    """Whether neither hooks nor parametrizations make a module's weights."""
    return not module._forward_pre_hooks and "parametrizations" not in module._modules


def make_weights(module: nn.Module) -> None:
    """Run the hooks that make a module's weights: each attribute is fresh then."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, HOOKS):
            hook(module, ())


def must_be_called(module: nn.Module) -> bool:
    """Whether calling a module does more than its class and its weights say.

    So it is with hooks that make no weights, and with a `forward` of its own.
    """
    if module._forward_hooks or module._backward_hooks or module._backward_pre_hooks:
        return True
    if "forward" in module.__dict__:
        return True
    hooks = module._forward_pre_hooks
    return bool(hooks) and not all(isinstance(h, HOOKS) for h in hooks.values())


def computes_otherwise(module: nn.Module) -> bool:
    """Whether a call may give other values than those of the class of torch or of ours.

    So it is with a user's hooks before or after it, and with a `forward` of their own.
    """
    kind = next(c for c in type(module).__mro__ if "forward" in vars(c))
    known = kind.__module__.startswith(("torch.nn.modules.", "cellwright."))
    if not known or "forward" in module.__dict__ or module._forward_hooks:
        return True
    return not all(isinstance(h, HOOKS) for h in module._forward_pre_hooks.values())


def keepable(state: dict[Any, Any]) -> dict[Any, Any]:
    """What a module keeps, made weights without their past, which cannot be copied.

    The next call makes them anew.
    """
    return {
        name: value.detach()
        if isinstance(value, Tensor) and not value.is_leaf
        else value
        for name, value in state.items()
    }


@contextmanager
def changing(
    module: nn.Module, name: str, *, exactly: bool = False
) -> Iterator[Tensor]:
    """A weight to change in place; at the end it is written, whatever makes it.

    Of a pruned weight, or one of `spectral_norm`'s hook, it is the original that
    changes; a parametrized one is assigned, as torch assigns it.

    Args:
        module, name: whose weight, and which.
        exactly: refuse where something makes other values of what was written; what
            is pruned stays pruned.

    Raises:
        ArgumentError: what makes the weight cannot be inverted, or is not known.
    """
    own = module._parameters.get(name)
    if own is not None:
        yield own.detach()  # unlike .data, it counts versions
        return
    found = _find(module, name)
    if found is None:
        value = getattr(module, name).detach().clone()
        yield value
        _assign(module, name, value)
    else:
        maker, hook = found
        with torch.no_grad():
            value = maker.read(module, name, hook)
            yield value
            maker.write(module, name, hook, value)
            hook(module, ())
        if maker.hook is BasePruningMethod:
            return
    if exactly:
        _check_written(module, name, value)


def _find(module: nn.Module, name: str) -> tuple[Maker, Any] | None:
    """The hook that makes a weight, if one does."""
    for hook in module._forward_pre_hooks.values():
        for maker in MAKERS:
            if isinstance(hook, maker.hook) and getattr(hook, maker.label) == name:
                return maker, hook
    return None


def _assign(module: nn.Module, name: str, value: Tensor) -> None:
    """Write a weight that is no parameter and that no known hook makes."""
    if parametrize.is_parametrized(module, name):
        try:
            setattr(module, name, value)
        except (RuntimeError, ValueError, NotImplementedError) as error:
            raise ArgumentError(
                f"[weights] {_called(module, name)} is parametrized and cannot be "
                f"assigned: {error}. {_REMEDY}"
            ) from error
        return
    current = getattr(module, name)
    if not current.is_leaf or must_be_called(module):
        raise ArgumentError(
            f"[weights] {_called(module, name)} is no parameter, and what makes it is "
            f"not known: what is written would be lost. {_REMEDY}"
        )
    with torch.no_grad():
        current.copy_(value)


def _check_written(module: nn.Module, name: str, value: Tensor) -> None:
    with torch.no_grad():
        off = (getattr(module, name) - value).abs().max().item() if value.numel() else 0
        allowed = 1e-5 * (1 + value.abs().max().item()) if value.numel() else 0
    if off > allowed:
        raise ArgumentError(
            f"[weights] {_called(module, name)} is made of another tensor, and does "
            f"not become what is written; received values that it misses by {off:.3g}. "
            f"{_REMEDY}"
        )


_REMEDY = (
    "Write the weight first and parametrize it afterwards (to undo it: "
    "torch.nn.utils.parametrize.remove_parametrizations, or the remove of what made it)"
)


def _called(module: nn.Module, name: str) -> str:
    """What the user calls a weight: `f.weight`, `weight_hh_l0`."""
    gate = getattr(module, "gate", None)
    return f"{gate}.{name}" if isinstance(gate, str) else name
