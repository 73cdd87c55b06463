"""Graph hypernetworks: from the computational graph of an architecture to its weights."""

from ghn import presets
from ghn.api import Hypernetwork, Preprocessing
from ghn.checkpoint import CheckpointError, load, save_file
from ghn.config import GHNConfig
from ghn.hypernetwork import GHN

__all__ = ["GHN", "CheckpointError", "GHNConfig", "Hypernetwork", "Preprocessing", "load", "presets", "save_file"]
