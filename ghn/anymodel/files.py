"""Open hypernetworks as safetensors files, with the description that `ghn.load` reads."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from ghn.anymodel.hypernetwork import OpenHypernetwork
from ghn.config import GHNConfig
from ghn.features import Bounds
from ghn.open_network import OpenGHN

KIND = "open"
FORMAT = 1


def save_open(hypernetwork: OpenHypernetwork, path: Path, dtype: str = "float32") -> None:
    """Writes one safetensors file with configuration, vocabulary and bounds; it appears complete or not at all."""
    description = {
        "kind": KIND,
        "format": FORMAT,
        "config": dataclasses.asdict(hypernetwork.config),
        "vocabulary": list(hypernetwork.vocabulary),
        "bounds": {name: dataclasses.asdict(bounds) for name, bounds in hypernetwork.bounds.items()},
        "step": hypernetwork.step,
    }
    flat = nnx.to_flat_state(hypernetwork.parameters)
    tensors = {"/".join(map(str, key)): np.asarray(leaf.get_value()).astype(dtype) for key, leaf in flat}
    temporary = path.with_suffix(".partial")
    save_file(tensors, temporary, {"description": json.dumps(description)})
    temporary.replace(path)


def restored(where: str, description: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> OpenHypernetwork:
    """The open hypernetwork of a file.

    Raises:
        ValueError: another format, or tensors that do not fit the description.
    """
    if description.get("format") != FORMAT:
        raise ValueError(f"{where}: format {description.get('format')}, this version reads {FORMAT}")
    config, vocabulary = GHNConfig(**description["config"]), tuple(description["vocabulary"])
    abstract = nnx.state(nnx.eval_shape(lambda: OpenGHN(config, vocabulary, rngs=nnx.Rngs(0))), nnx.Param)
    leaves = []
    for key, leaf in nnx.to_flat_state(abstract):
        name = "/".join(map(str, key))
        if name not in tensors or tensors[name].shape != leaf.shape:
            raise ValueError(f"{where}: tensor {name} of shape {leaf.shape} is missing; it was made by another version")
        leaves.append((key, leaf.replace(jnp.asarray(tensors[name], jnp.float32))))
    bounds = {name: Bounds(**values) for name, values in description["bounds"].items()}
    return OpenHypernetwork(config, nnx.from_flat_state(leaves), vocabulary, bounds, description["step"])
