"""Graph hypernetworks: from the computational graph of an architecture to its weights."""

from ghn import presets
from ghn.anymodel import OpenHypernetwork, Prediction, Report, calibrate, predict, predict_onnx, predict_params
from ghn.api import Hypernetwork, Preprocessing
from ghn.checkpoint import CheckpointError, load, save_file
from ghn.config import GHNConfig
from ghn.hypernetwork import GHN

__all__ = [
    "GHN",
    "CheckpointError",
    "GHNConfig",
    "Hypernetwork",
    "OpenHypernetwork",
    "Prediction",
    "Preprocessing",
    "Report",
    "calibrate",
    "load",
    "predict",
    "predict_onnx",
    "predict_params",
    "presets",
    "save_file",
]
