"""The formats that models are exported to, by name."""

from hfft.results.formats import onnx, timm
from hfft.results.formats.format import Format

FORMATS = {"timm": Format(timm.require, timm.write), "onnx": Format(onnx.require, onnx.write)}

__all__ = ["FORMATS", "Format"]
