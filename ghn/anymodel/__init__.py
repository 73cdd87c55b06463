"""Weights for any JAX model: tracing's graphs, a hypernetwork that knows ops by name, and what the user gets back."""

from ghn.anymodel.calibrate import calibrate
from ghn.anymodel.hypernetwork import OpenHypernetwork
from ghn.anymodel.onnx import predict_onnx
from ghn.anymodel.predict import Prediction, predict, predict_params
from ghn.anymodel.report import LeafReport, Report

__all__ = [
    "LeafReport",
    "OpenHypernetwork",
    "Prediction",
    "Report",
    "calibrate",
    "predict",
    "predict_onnx",
    "predict_params",
]
