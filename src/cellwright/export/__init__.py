"""What a layer can be written as: a new target is one file here."""

from .c import export_c
from .onnx import export_onnx, onnx_translations
from .pairs import export_pairs

__all__ = ["export_c", "export_onnx", "export_pairs", "onnx_translations"]
