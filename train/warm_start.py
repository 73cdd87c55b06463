"""Training that begins with the parameters of a trained hypernetwork."""

from __future__ import annotations

import dataclasses

from flax import nnx

from ghn.api import Hypernetwork, Parameters
from ghn.checkpoint import load
from train.run_folder import RunError


def warm_started(hypernetwork: Hypernetwork, source: str) -> Hypernetwork:
    """The hypernetwork with the parameters of another one; its space, data and steps stay its own.

    Args:
        hypernetwork: about to be trained.
        source: a run's folder, a .safetensors file, or the name of a checkpoint in the package. A hypernetwork of a
            space fits that space alone; an open one fits every space of its configuration.

    Raises:
        CheckpointError: nothing there, or a damaged file.
        RunError: parameters of other names or shapes; names the first, and the fields of `GHNConfig` that differ.
    """
    trained = load(source)
    own, found = _shapes(hypernetwork.parameters), _shapes(trained.parameters)
    if own != found:
        odd = min(name for name in {*own, *found} if own.get(name) != found.get(name))
        before, now = dataclasses.asdict(trained.config), dataclasses.asdict(hypernetwork.config)
        fields = [f"ghn.{name} was {before[name]!r}, is {now[name]!r}" for name in now if before[name] != now[name]]
        raise RunError(
            f"start={source!r}: its parameter {odd} is {found.get(odd, 'not there')}, here "
            f"{own.get(odd, 'not there')} ({'; '.join(fields) or 'another space'}); train with its configuration and "
            "on its space, or without start"
        )
    return dataclasses.replace(hypernetwork, parameters=trained.parameters)


def _shapes(parameters: Parameters) -> dict[str, tuple[int, ...]]:
    return {"/".join(map(str, key)): tuple(leaf.shape) for key, leaf in nnx.to_flat_state(parameters)}
