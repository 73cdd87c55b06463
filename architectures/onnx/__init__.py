"""ONNX files as architectures: a file becomes a JAX function of its weights, which is traced like any other model.

Needs the extra `onnx`.
"""

from architectures.onnx.model import OnnxError, OnnxModel
from architectures.onnx.reader import load

__all__ = ["OnnxError", "OnnxModel", "load"]
