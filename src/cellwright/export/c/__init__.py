"""A model as one C file: `export_c`."""

from .export import export_c

__all__ = ["export_c"]
