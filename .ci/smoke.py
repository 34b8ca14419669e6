"""What an installed package must do: `smoke.py native`, or `smoke.py pure`."""

import sys
from pathlib import Path

import torch

import cellwright as cw


def check_place() -> None:
    """The package is the one of this environment, not the sources' own."""
    where = Path(cw.__file__).resolve()
    assert Path(sys.prefix).resolve() in where.parents, where


def check_training(layer: torch.nn.Module, peer: torch.nn.Module) -> None:
    """The layer's outputs and gradients are its peer's."""
    peer.load_state_dict(layer.state_dict())
    x = torch.randn(5, 3, 4)
    results = []
    for module in (layer, peer):
        y = module(x)[0]
        results.append([y, *torch.autograd.grad(y.sum(), list(module.parameters()))])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def native() -> None:
    for cell in ("lstm", "peephole", "gru"):
        layer = cw.Recurrent(cell, 4, 6)
        assert layer.engine == "native", layer.engine_reason
        check_training(layer, cw.Recurrent(cell, 4, 6, engine="reference"))
    layer = cw.LSTM(4, 6)
    assert layer.engine == "native", layer.engine_reason
    check_training(layer, torch.nn.LSTM(4, 6))
    print("native:", layer.engine_reason)


def pure() -> None:
    for cell, engine in (("lstm", "torch"), ("peephole", "reference")):
        layer = cw.Recurrent(cell, 4, 6)
        assert layer.engine == engine, layer.engine_reason
        check_training(layer, cw.Recurrent(cell, 4, 6, engine="reference"))
    try:
        cw.Recurrent("peephole", 4, 6, engine="native")
    except cw.ArgumentError as error:
        message = str(error)
    else:
        raise AssertionError("engine='native' must be an error without the core")
    assert "no compiled core" in message, message
    assert "CELLWRIGHT_NO_NATIVE" in message, message
    assert "No module named 'cellwright._core'" in message, message
    print("engine='native':", message)


if __name__ == "__main__":
    torch.manual_seed(0)
    check_place()
    {"native": native, "pure": pure}[sys.argv[1]]()
