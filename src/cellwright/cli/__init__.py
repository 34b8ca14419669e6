"""The command line: a file for each family of commands, each thin over the library.

Heavy imports stay inside the commands, so that `--help` is quick.
"""

from importlib import import_module

from .app import app, main

__all__ = ["app", "main"]

# In the order of the help.
for family in ("train", "pairs", "pages", "runs", "compare", "export", "cells", "lab"):
    import_module(f".{family}", __name__)
