"""The command line: a file for each family of commands, each thin over the library.

Heavy imports stay inside the commands, so that `--help` is quick.
"""

from importlib import import_module

from .app import app, main

__all__ = ["app", "main"]

for family in (
    "train",
    "pages",
    "runs",
    "export",
    "cells",
    "lab",
):  # in the order of the help
    import_module(f".{family}", __name__)
