"""`ghn-eval predict`: the weights of a model named on the command line, as a file."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from orbax.checkpoint import v1 as ocp
from rich.console import Console
from safetensors.numpy import save_file

import ghn
from architectures.trace.api import paths_of

MADE_BY = {"made_by": "ghn-eval predict"}  # in a folder for Orbax: what may be replaced
FILES = {"_CHECKPOINT_METADATA", "orbax.checkpoint", "commit_success.txt", "state"}  # of such a folder
IN_THE_MODEL = (TypeError, ValueError, IndexError, AssertionError, flax.errors.FlaxError)


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """Which model, and what predicts."""

    input: tuple[str, ...] = ("1x224x224x3",)  # shape of every input, as 1x32x32x3 or, for tokens, 1x128:int32
    checkpoint: str | None = None  # hypernetwork: run folder, .safetensors file or packaged name; None: the package's
    strict: bool = False  # fail where a leaf is not predicted
    seed: int = 0  # of the model's initialiser, for leaves that are not predicted


def predict(model: str, config: PredictConfig, out: Path, console: Console) -> None:
    """Predicts, prints the report, writes `out`: .safetensors, or else a folder for Orbax.

    Args:
        model: module:attribute (a Linen or NNX module, or a function without arguments that returns one), or the path
            of an ONNX file, which says itself what its inputs are.
        config: what to predict from.
        out: where to; of an ONNX file, the copy with predicted weights.
        console: for the report.

    Raises:
        ValueError: no such module or attribute, an input that cannot be read or that the model does not take, a model
            that cannot be traced, an `out` that holds something else.
    """
    if model.endswith(".onnx"):
        _predict_file(Path(model), config, out, console)
        return
    _check_out(out)
    module = load_model(model)
    inputs = [parse_input(text) for text in config.input]
    hypernetwork = None if config.checkpoint is None else ghn.load(config.checkpoint)
    try:
        prediction = ghn.predict(
            module, *inputs, hypernetwork=hypernetwork, strict=config.strict, rng=jax.random.key(config.seed)
        )
    except IN_THE_MODEL as error:
        called = f"model {model!r} called with --input {' '.join(config.input)}"
        raise ValueError(f"{called} (give the shapes that it takes): {error}") from error
    console.print(prediction.report)
    tree = prediction.params if prediction.variables is None else prediction.variables
    if isinstance(tree, nnx.State):
        tree = nnx.to_pure_dict(tree)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".safetensors":
        flat = jax.tree_util.tree_flatten_with_path(tree)[0]
        names = paths_of([path for path, _ in flat])
        save_file({"/".join(name): np.asarray(leaf) for name, (_, leaf) in zip(names, flat, strict=True)}, out)
    else:
        ocp.save(out.absolute(), tree, overwrite=True, custom_metadata=MADE_BY)
    console.print(f"written to {out}")


def _check_out(out: Path) -> None:
    """Refuses what is no place for weights, before anything is computed.

    Raises:
        ValueError: an unknown suffix, or a folder whose files would be lost.
    """
    if out.suffix not in (".safetensors", ""):
        raise ValueError(
            f"out: {out} ends in {out.suffix}; give a .safetensors file, or a folder for Orbax without a suffix"
        )
    if out.suffix == ".safetensors" and out.is_dir():
        raise ValueError(f"out: {out} is a folder; choose another --out")
    if out.suffix == "" and out.is_file():
        raise ValueError(f"out: {out} is a file; give a folder for Orbax, or a .safetensors file")
    if out.suffix == "" and out.is_dir() and any(out.iterdir()) and not _earlier_prediction(out):
        raise ValueError(
            f"out: {out} holds something else than an earlier prediction, which would be lost; choose another --out"
        )


def _earlier_prediction(folder: Path) -> bool:
    """Whether a folder holds what this command wrote into it, and nothing else."""
    if {path.name for path in folder.iterdir()} != FILES:
        return False
    try:
        return ocp.metadata(folder.absolute()).custom_metadata == MADE_BY
    except (ValueError, OSError, KeyError):  # no checkpoint of Orbax, or a damaged one
        return False


def _predict_file(path: Path, config: PredictConfig, out: Path, console: Console) -> None:
    """The same for an ONNX file."""
    if out.suffix != ".onnx":
        raise ValueError(f"out: {out} is no .onnx file; predicted weights of {path} go into a copy of it")
    hypernetwork = None if config.checkpoint is None else ghn.load(config.checkpoint)
    try:
        prediction = ghn.predict_onnx(path, out, hypernetwork=hypernetwork, strict=config.strict)
    except (ImportError, FileNotFoundError) as error:
        raise ValueError(str(error)) from error
    console.print(prediction.report)
    console.print(f"written to {out}")


def load_model(text: str) -> Any:
    """The model that `module:attribute` names; modules of the working directory are found too."""
    name, _, attribute = text.partition(":")
    if not attribute:
        raise ValueError(f"model {text!r}: give module:attribute, such as my_models:resnet")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"model {text!r}: cannot import {name!r} ({error})") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ValueError(f"model {text!r}: {name} has no {part!r}")
        found = getattr(found, part)
    if not isinstance(found, nn.Module | nnx.Module) and callable(found):
        needed = _needed(found)
        if needed:
            raise ValueError(
                f"model {text!r}: needs arguments ({', '.join(needed)}); name a module, or a function without "
                "arguments that returns one"
            )
        found = found()
    if not isinstance(found, nn.Module | nnx.Module):
        raise ValueError(f"model {text!r}: {type(found).__name__} is neither a Linen nor an NNX module")
    return found


def _needed(function: Any) -> list[str]:
    """Names of the arguments that a call cannot leave out."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some built-in functions have no signature
        return []
    open_ended = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [own.name for own in parameters if own.default is own.empty and own.kind not in open_ended]


def parse_input(text: str) -> jax.ShapeDtypeStruct:
    """1x32x32x3 or 1x128:int32 as a shape.

    Raises:
        ValueError: anything else.
    """
    match = re.fullmatch(r"(\d+(?:x\d+)*)(?::(\w+))?", text)
    try:
        if match is None:
            raise TypeError
        return jax.ShapeDtypeStruct(tuple(map(int, match[1].split("x"))), jnp.dtype(match[2] or "float32"))
    except TypeError as error:
        raise ValueError(f"input {text!r}: write a shape as 1x32x32x3, with a dtype as 1x128:int32") from error
