"""Checkpoints: Orbax directories for runs, single safetensors files for shipping, one description for both.

The description (`describe`) names everything that the arrays alone do not say: format version, space, configuration,
vocabulary, preprocessing. It is checked before any array is read.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from orbax.checkpoint import v1 as ocp
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file as save_safetensors

from architectures.spaces import SearchSpace, from_settings, settings
from ghn.api import Hypernetwork, Parameters, Preprocessing, abstract_network
from ghn.config import GHNConfig

FORMAT = 2  # 1: bases were in units of the initialiser's scale
DTYPES = ("float16", "float32", "float64")  # that files hold parameters in
CHECKPOINTS = "checkpoints"  # folder of a run that holds one Orbax directory a step


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or made for something else; the message names it and the way out."""


def describe(hypernetwork: Hypernetwork) -> dict[str, Any]:
    """The description as JSON values."""
    return {
        "format": FORMAT,
        "space": settings(hypernetwork.space),
        "config": dataclasses.asdict(hypernetwork.config),
        "vocabulary": list(hypernetwork.space.op_names),
        "preprocessing": dataclasses.asdict(hypernetwork.preprocessing),
        "step": hypernetwork.step,
        "held_out": list(hypernetwork.held_out),
        "tasks": list(hypernetwork.tasks),
    }


def load(source: str | Path, space: SearchSpace[Any] | None = None, step: int | None = None) -> Hypernetwork:
    """A trained hypernetwork.

    Args:
        source: a run's folder, a .safetensors file, or the name of a checkpoint in the package, such as "demo".
        space: the space, for spaces of your own (those of this package are rebuilt from the checkpoint). It has to be
            the one that the checkpoint was trained on.
        step: of a run's folder, an earlier checkpoint; the last one by default.

    Returns:
        A `Hypernetwork`; of a file that holds an open one, such as the package's "default", a `ghn.OpenHypernetwork`
        (the annotation names the former alone).

    Raises:
        CheckpointError: nothing there, a damaged file, another format version, another space, a step that is not kept.
    """
    path = Path(source)
    if path.is_dir():
        return _load_run(path, space, step)
    if step is not None:
        raise CheckpointError(f"checkpoint {str(source)!r}: is no run folder, so it holds no checkpoint of step {step}")
    if path.is_file():
        return _load_file(path, space)
    packaged = resources.files("ghn") / "checkpoints" / f"{source}.safetensors"
    if packaged.is_file():
        with resources.as_file(packaged) as file:
            return _load_file(file, space)
    raise CheckpointError(
        f"checkpoint {str(source)!r}: no such run folder, .safetensors file, or checkpoint of the package "
        f"({', '.join(packaged_names()) or 'none'}); train one with ghn-train"
    )


def packaged_names() -> list[str]:
    """Names of the checkpoints that the package ships."""
    folder = resources.files("ghn") / "checkpoints"
    if not folder.is_dir():
        return []
    return sorted(
        file.name.removesuffix(".safetensors") for file in folder.iterdir() if file.name.endswith(".safetensors")
    )


def save_file(hypernetwork: Hypernetwork, path: str | Path, dtype: str = "float32") -> None:
    """Writes one safetensors file with its description, and its folder where there is none yet; the file appears
    complete or not at all.

    Raises:
        ValueError: a `dtype` other than float16, float32 or float64, in which numbers would be lost.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r}: parameters are floating-point numbers; use one of {', '.join(DTYPES)}")
    path = Path(path)
    tensors = {
        name: np.asarray(leaf.get_value()).astype(dtype) for name, leaf in _flat(hypernetwork.parameters).items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    save_safetensors(tensors, temporary, {"description": json.dumps(describe(hypernetwork))})
    temporary.replace(path)


def _load_file(path: Path, space: SearchSpace[Any] | None) -> Hypernetwork:
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, struct.error) as error:
        raise CheckpointError(f"{path}: damaged or no safetensors file ({error}); copy or train it again") from error
    if "description" not in metadata:
        raise CheckpointError(f"{path}: a safetensors file, but not a hypernetwork's (it has no description)")
    try:
        description = json.loads(metadata["description"])
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}: its description is no JSON ({error}); copy or train it again") from error
    if isinstance(description, dict) and description.get("kind") == "open":
        return _load_open(path, description, tensors)
    hypernetwork = _empty(str(path), description, space)
    expected = _flat(hypernetwork.parameters)
    if set(expected) != set(tensors):
        odd = sorted(set(expected) ^ set(tensors))
        raise CheckpointError(
            f"{path}: tensors missing or unknown: {', '.join(odd[:3])}; it was made by another version"
        )
    for name, leaf in expected.items():
        if leaf.shape != tensors[name].shape:
            raise CheckpointError(f"{path}: {name} has shape {tensors[name].shape}, expected {leaf.shape}")
    values = {name: jax.numpy.asarray(tensors[name], jax.numpy.float32) for name in expected}
    state = nnx.from_flat_state(
        [
            (key, leaf.replace(values["/".join(map(str, key))]))
            for key, leaf in nnx.to_flat_state(hypernetwork.parameters)
        ]
    )
    return dataclasses.replace(hypernetwork, parameters=state)


def _load_open(path: Path, description: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Any:
    from ghn.anymodel.files import restored  # which imports this module

    try:
        return restored(str(path), description, tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: no open hypernetwork of this version ({error})") from error


def _flat(parameters: Parameters) -> dict[str, Any]:
    return {"/".join(map(str, key)): leaf for key, leaf in nnx.to_flat_state(parameters)}


def _empty(where: str, description: Any, space: SearchSpace[Any] | None) -> Hypernetwork:
    """The described hypernetwork with abstract parameters.

    Raises:
        CheckpointError: a description that is incomplete, of another format version, or of another space.
    """
    try:
        return _described(where, description, space)
    except CheckpointError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{where}: its description cannot be read ({error!r}); it was made by another version"
        ) from error


def _described(where: str, description: Mapping[str, Any], space: SearchSpace[Any] | None) -> Hypernetwork:
    """The described hypernetwork with abstract parameters; CheckpointError where it fits not this version or space."""
    if description.get("format") != FORMAT:
        raise CheckpointError(
            f"{where}: format {description.get('format')}, this version reads {FORMAT}; "
            "load it with the version that wrote it"
        )
    if space is None:
        try:
            space = from_settings(description["space"])
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{where}: {error}") from error
    elif json.loads(json.dumps(settings(space))) != description["space"]:
        raise CheckpointError(
            f"{where}: trained on the space {description['space']}, not on {settings(space)}; "
            "use a space with those settings"
        )
    if list(space.op_names) != description["vocabulary"]:
        raise CheckpointError(
            f"{where}: its vocabulary {description['vocabulary']} is not the space's {space.op_names}"
        )
    config = GHNConfig(**description["config"])
    preprocessing = Preprocessing(**{key: tuple(value) for key, value in description["preprocessing"].items()})
    share, seed = description["held_out"]
    state = nnx.state(abstract_network(space, config), nnx.Param)
    tasks = tuple(description.get("tasks", ()))  # checkpoints of older versions have none
    return Hypernetwork(space, config, state, preprocessing, description["step"], (share, seed), tasks)


def save_run(run: Path, hypernetwork: Hypernetwork, training: Any) -> None:
    """Writes checkpoint `hypernetwork.step` of a run: parameters, and whatever else the training needs to continue.

    Orbax writes to a temporary folder and renames it, so an interrupted save leaves no half checkpoint.
    """
    ocp.save_checkpointables(
        (run / CHECKPOINTS / str(hypernetwork.step)).absolute(),
        {"hypernetwork": nnx.to_pure_dict(hypernetwork.parameters), "training": training},
        custom_metadata=describe(hypernetwork),
        overwrite=True,
    )


def save_state(run: Path, step: int, state: Any) -> None:
    """Writes checkpoint `step` of a run that trains no hypernetwork: any pytree of arrays."""
    ocp.save_checkpointables((run / CHECKPOINTS / str(step)).absolute(), {"training": state}, overwrite=True)


def load_state(run: Path, step: int, abstract: Any) -> Any:
    """What a checkpoint holds beside the hypernetwork's parameters, in the form of the abstract tree given."""
    return _restore_trees(run / CHECKPOINTS / str(step), {"training": abstract})["training"]


def steps_of(run: Path) -> list[int]:
    """Steps of the finished checkpoints of a run, in ascending order."""
    folder = run / CHECKPOINTS
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def load_training(
    run: Path, step: int, abstract_parameters: Parameters, abstract_training: Any
) -> tuple[Parameters, Any]:
    """Parameters and training state of one checkpoint, in the form of the abstract trees given."""
    path = run / CHECKPOINTS / str(step)
    return _restore(path, abstract_parameters, {"training": abstract_training})


def _load_run(run: Path, space: SearchSpace[Any] | None, step: int | None) -> Hypernetwork:
    steps = steps_of(run)
    if not steps:
        raise CheckpointError(f"{run}: no finished checkpoint in {run / CHECKPOINTS}; train it with ghn-train")
    if step is not None and step not in steps:
        raise CheckpointError(f"{run}: no checkpoint of step {step}; there are {', '.join(map(str, steps))}")
    path = run / CHECKPOINTS / str(steps[-1] if step is None else step)
    try:
        description = ocp.checkpointables_metadata(path.absolute()).custom_metadata
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); delete it, the one before it will be used") from error
    hypernetwork = _empty(str(path), description or {}, space)
    return dataclasses.replace(hypernetwork, parameters=_restore(path, hypernetwork.parameters, {})[0])


def _restore(path: Path, parameters: Parameters, others: dict[str, Any]) -> tuple[Parameters, Any]:
    loaded = _restore_trees(path, {"hypernetwork": nnx.to_pure_dict(parameters), **others})
    state = jax.tree.map(lambda leaf: leaf, parameters)
    nnx.replace_by_pure_dict(state, loaded["hypernetwork"])
    return state, loaded.get("training")


def _restore_trees(path: Path, trees: dict[str, Any]) -> dict[str, Any]:
    """Arrays on one device, in the form of the trees given."""

    def abstract(leaf: Any) -> jax.ShapeDtypeStruct:
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)

    try:
        return dict(ocp.load_checkpointables(path.absolute(), jax.tree.map(abstract, trees)))
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path}: cannot be restored ({error}); delete it, the one before it will be used"
        ) from error
