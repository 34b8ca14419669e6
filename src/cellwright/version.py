"""The version, in a module of its own: whatever writes files imports it."""

__version__ = "0.1.0"
