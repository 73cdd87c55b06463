"""The folder of a run over a stream: what it holds between one start and the next."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ghn.checkpoint import CHECKPOINTS, load_state, save_run, save_state, steps_of
from train.continual.config import ScheduleConfig
from train.continual.learner import Learner
from train.continual.metrics import Matrix
from train.continual.streams import Stream
from train.metrics import write_whole
from train.run_folder import RunError

STREAM = "stream.json"


class Progress(NamedTuple):
    """Everything that a run changes; `step` counts over the whole stream."""

    state: Any
    classifier: Any
    matrix: Matrix
    step: int


def claim_stream(run: Path, stream: Stream, schedule: ScheduleConfig) -> None:
    """Records which stream a folder's checkpoints belong to, or checks it.

    Raises:
        RunError: it is another stream, or gone through in another way.
    """
    own = {"stream": repr(stream), "schedule": dataclasses.asdict(schedule)}
    path = run / STREAM
    if not path.exists():
        run.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(own, indent=2) + "\n")
        return
    recorded = json.loads(path.read_text())
    for name, value in own.items():
        if recorded.get(name) != value:
            raise RunError(f"{run}: its {name} was {recorded.get(name)}, is {value}; choose another folder")


def check_finite(run: Path | None, values: dict[str, float], step: int) -> None:
    """Raises RunError for metrics that are not finite."""
    if all(math.isfinite(value) for value in values.values()):
        return
    kept = f"checkpoint {steps_of(run)[-1]} is kept. " if run is not None and steps_of(run) else ""
    raise RunError(f"the loss is not finite before step {step} ({values}); {kept}Lower the learning rate or beta")


def _tree(progress: Progress) -> tuple[dict[str, Any], Callable[[dict[str, Any]], Progress]]:
    """A progress as a flat dictionary of arrays, and the way back; empty arrays, which Orbax refuses, are left out."""
    leaves, structure = jax.tree.flatten(progress)
    arrays = [np.asarray(leaf) for leaf in leaves]

    def back(tree: dict[str, Any]) -> Progress:
        own = [tree[str(index)] if array.size else array for index, array in enumerate(arrays)]
        restored: Progress = jax.tree.unflatten(structure, own)
        return restored._replace(matrix=np.asarray(restored.matrix, np.float64), step=int(restored.step))

    return {str(index): array for index, array in enumerate(arrays) if array.size}, back


def save(run: Path, learner: Learner, progress: Progress, tasks: int) -> None:
    """Writes a checkpoint and drops all but the one before it."""
    earlier = steps_of(run)
    tree = _tree(progress._replace(matrix=progress.matrix.astype(np.float32)))[0]
    hypernetwork = learner.trained(progress.state, tasks)
    try:
        if hypernetwork is None:
            save_state(run, progress.step, tree)
        else:
            save_run(run, dataclasses.replace(hypernetwork, step=progress.step), tree)
    except (OSError, ValueError) as error:  # tensorstore reports a full disk as a ValueError
        kept = f"checkpoint {earlier[-1]} is kept" if earlier else "there is none yet"
        raise RunError(
            f"{run}: checkpoint {progress.step} cannot be written ({error}); {kept}. "
            "Make room and run the same command again"
        ) from error
    for step in earlier[:-1]:
        shutil.rmtree(run / CHECKPOINTS / str(step))


def load(run: Path, progress: Progress) -> Progress:
    """The last checkpoint, in the form of a fresh progress; CheckpointError where it cannot be restored."""
    tree, back = _tree(progress._replace(matrix=progress.matrix.astype(np.float32)))
    return back(load_state(run, steps_of(run)[-1], tree))
