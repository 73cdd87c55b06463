"""Going through a stream: task after task, scored after each on all tasks so far, resumable at any checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from architectures.spaces import MLPSpace, SearchSpace
from ghn.api import Hypernetwork, Preprocessing
from ghn.checkpoint import CHECKPOINTS, load_state, save_run, save_state, steps_of
from train.continual.baselines import DirectLearner
from train.continual.batches import StreamBatches
from train.continual.config import ContinualConfig, ScheduleConfig
from train.continual.heads import Heads
from train.continual.learner import HypernetworkLearner, Learner, adam
from train.continual.metrics import Matrix, summarise
from train.continual.scoring import InferTask, accuracy, logits_of, lowest_entropy
from train.continual.streams import Part, Stream
from train.metrics import MetricsWriter, TrainingProgress, write_whole
from train.run_folder import RunError, claim

CLASSIFIER_WIDTH = 400  # hidden units of the classifier of tasks
RESULT = "result.json"


class Result(NamedTuple):
    """What came of a stream.

    Attributes:
        matrix: [T, T] accuracy on task j (column) after task i (row), nan above the diagonal.
        state: the learner's, after the last task.
        seconds: of training, without evaluation, in this process.
    """

    matrix: Matrix
    state: Any
    seconds: float


class Progress(NamedTuple):
    """Everything that a run changes; `step` counts over the whole stream."""

    state: Any
    classifier: Any
    matrix: Matrix
    step: int


def learn(
    stream: Stream,
    learner: Learner,
    schedule: ScheduleConfig = ScheduleConfig(),
    run: Path | None = None,
    show: bool = False,
    later: Mapping[int, Learner] | None = None,
    stop: int | None = None,
) -> Result:
    """Learns a stream, and scores every task so far after each.

    Args:
        stream: the tasks; each is checked before it is used.
        learner: what learns them.
        schedule: how.
        run: folder for checkpoints and metrics, continued at its last checkpoint; None: nothing is written.
        show: a live progress display.
        stop: number of tasks after which to stop; None: at the end of the stream.
        later: task -> another learner that goes on with the state from that task on (a change of target).

    Raises:
        ValueError: a task that does not fit, heads of another number of tasks or classes.
        RunError: the loss stopped being finite (the last good checkpoint is kept).
    """
    _check_heads(stream, learner.heads)
    batches = StreamBatches(stream, schedule.batch, schedule.memory, schedule.seed)
    classifier = _task_classifier(stream, learner, schedule)
    progress = Progress(learner.init(), classifier and classifier.init(), np.full((stream.tasks,) * 2, np.nan), 0)
    if run is not None and steps_of(run):
        progress = _load(run, progress)
    seconds, total = 0.0, stream.tasks * schedule.steps
    with (
        contextlib.nullcontext() if run is None else MetricsWriter(run, progress.step) as writer,
        TrainingProgress(progress.step, total, show) as display,
    ):
        for task in range(progress.step // schedule.steps, stream.tasks if stop is None else stop):
            start, end = task * schedule.steps, (task + 1) * schedule.steps
            learner = learner_at(learner, later, task)
            state, judge = progress.state, progress.classifier
            if progress.step == start:
                state = learner.begin(state, task)
                judge = classifier and classifier.begin(judge, task)
            for first in range(progress.step, end, schedule.log_every):
                steps = np.arange(first, min(first + schedule.log_every, end), dtype=np.int32)
                chunk = batches.chunk(task, start, steps, learner.replays)
                since = time.perf_counter()
                state, metrics = learner.update(state, task, chunk)
                values = {name: float(np.mean(column)) for name, column in metrics.items()}
                seconds += time.perf_counter() - since
                if classifier is not None:
                    mixed = batches.chunk(task, start, steps, "balanced")
                    judge, _ = classifier.update(judge, task, mixed._replace(labels=mixed.tasks))
                done = int(steps[-1]) + 1
                _check_finite(run, values, done)
                if writer is not None:
                    writer.write(done, {"task": task, **values})
                display.update(done, values)
                progress = Progress(state, judge, progress.matrix, done)
                if run is not None and done < end and (done - start) % schedule.checkpoint_every == 0:
                    _save(run, learner, progress, task + 1)
            state = learner.finish(state, task, batches.task(task).train)
            matrix = progress.matrix.copy()
            infer = _inference(learner, classifier, judge, task)
            parts = [batches.part(earlier, schedule.evaluate) for earlier in range(task + 1)]
            matrix[task, : task + 1] = score(learner, state, parts, infer)
            progress = Progress(state, judge, matrix, end)
            if run is not None:
                _save(run, learner, progress, task + 1)
    return Result(progress.matrix, progress.state, seconds)


def run(config: ContinualConfig, folder: Path, show: bool = True) -> Result:
    """Learns the stream of a configuration into a folder; the same call continues it.

    Files: config.json, metrics.jsonl, checkpoints/<step>/, and at the end result.json.

    Raises:
        ValueError: parts that do not fit each other.
        RunError: the folder belongs to another run.
        DataError: the data cannot be read.
    """
    stream = config.stream.build()
    learner = make_learner(config, stream)
    defaults = dataclasses.asdict(ContinualConfig())
    claim(folder, dataclasses.asdict(config), defaults, dict(stream.splits.provenance))
    later = {config.change_at: changed_learner(config, learner)} if config.change_to else {}
    result = learn(stream, learner, config.schedule, folder, show, later)
    last = learner_at(learner, later, stream.tasks - 1)
    write_whole(folder / RESULT, json.dumps(result_json(config, stream, last, result), indent=2) + "\n")
    return result


def learner_at(learner: Learner, later: Mapping[int, Learner] | None, task: int) -> Learner:
    """The one that learns a task."""
    begun = [start for start in later or {} if start <= task]
    return (later or {})[max(begun)] if begun else learner


def make_learner(config: ContinualConfig, stream: Stream) -> Learner:
    """The method of a configuration, for the tasks of a stream."""
    schedule = config.schedule
    heads = Heads(config.scenario, stream.tasks, stream.classes, config.heads == "own" and config.scenario != "CL2")
    space = config.space.build(stream.input_shape, heads.outputs)
    target = space.from_string(config.target)
    optimizer = adam(config.learning_rate, schedule.steps)
    if config.method != "hypernetwork":
        return DirectLearner(space, target, heads, config.method, optimizer, config.strength, schedule.seed)
    others = _others(space, config)
    splits = stream.splits
    hypernetwork = dataclasses.replace(
        Hypernetwork.create(space, dataclasses.replace(config.ghn, tasks=stream.tasks), schedule.seed),
        preprocessing=Preprocessing(splits.train.mean, splits.train.std, splits.train.class_names),
    )
    return HypernetworkLearner(
        hypernetwork, [target, *others], heads, config.regulariser, optimizer, seed=schedule.seed
    )


def changed_learner(config: ContinualConfig, learner: Learner) -> HypernetworkLearner:
    """The learner after the change of target: the old target takes the place of the last of the others."""
    assert isinstance(learner, HypernetworkLearner)
    old, *others = learner.architectures
    new = learner.space.from_string(config.change_to)
    return learner.changed([new, *others[:-1], old] if others else [new])


def _others(space: SearchSpace[Any], config: ContinualConfig) -> list[Any]:
    """Random architectures beside the target, none of them the target or the one that it changes to."""
    rng = np.random.default_rng(config.schedule.seed)
    apart = {space.canonical(space.from_string(text)) for text in (config.target, config.change_to) if text}
    others: list[Any] = []
    for _ in range(1000 * config.others):
        if len(others) == config.others:
            break
        drawn = space.sample(rng)
        if space.canonical(drawn) not in apart:
            apart.add(space.canonical(drawn))
            others.append(drawn)
    if len(others) < config.others:
        raise ValueError(f"others={config.others}: the space has only {len(others)} besides the targets; use fewer")
    return others


def result_json(config: ContinualConfig, stream: Stream, learner: Learner, result: Result) -> dict[str, Any]:
    """What a finished run says, as JSON values; sizes are those of the last target."""
    rows = [[None if math.isnan(value) else value for value in row] for row in result.matrix.tolist()]
    target = learner.space.cost(learner.space.from_string(config.change_to or config.target)).parameters
    trained = learner.trained(result.state, stream.tasks)
    return {
        "matrix": rows,
        **summarise(result.matrix)._asdict(),
        "stream": stream.name,
        "method": config.method,
        "scenario": config.scenario,
        "seed": config.schedule.seed,
        "evaluated_on": config.schedule.evaluate,
        "target_parameters": target,
        "learner_parameters": target if trained is None else trained.parameter_count,
        "memory_images": config.schedule.memory if _remembers(config) else 0,
    }


def _remembers(config: ContinualConfig) -> bool:
    told = config.scenario == "CL1" or config.method not in ("hypernetwork", "scratch")
    return config.method == "replay" or (config.schedule.inference == "classifier" and not told)


def _check_heads(stream: Stream, heads: Heads) -> None:
    if (heads.tasks, heads.classes) != (stream.tasks, stream.classes):
        raise ValueError(
            f"heads: for {heads.tasks} tasks of {heads.classes} classes, the stream has {stream.tasks} of "
            f"{stream.classes}; use Heads(scenario, {stream.tasks}, {stream.classes}, own=...)"
        )


def _check_finite(run: Path | None, values: dict[str, float], step: int) -> None:
    if all(math.isfinite(value) for value in values.values()):
        return
    kept = f"checkpoint {steps_of(run)[-1]} is kept. " if run is not None and steps_of(run) else ""
    raise RunError(f"the loss is not finite before step {step} ({values}); {kept}Lower the learning rate or beta")


# ------------------------------------------------------------------------------------------------------------ scores


def score(learner: Learner, state: Any, parts: Sequence[Part], infer: InferTask | None = None) -> list[float]:
    """Accuracy on the tasks so far.

    Args:
        learner: of the state.
        state: after the last of these tasks.
        parts: images of each.
        infer: names the task of an image where that is not told and makes a difference.
    """
    tasks = range(len(parts))
    weights = [learner.weights(state, task) for task in (tasks if learner.conditional else tasks[-1:])]
    judged = functools.partial(accuracy, learner.space, learner.encoding, learner.heads, weights, infer=infer)
    return [judged(part, task) for task, part in enumerate(parts)]


def _task_classifier(stream: Stream, learner: Learner, schedule: ScheduleConfig) -> DirectLearner | None:
    """Names the task of an image, from the current task's images and a memory of earlier ones; None if not needed."""
    if schedule.inference != "classifier" or learner.heads.scenario == "CL1" or not learner.conditional:
        return None
    tasks = stream.tasks
    space = MLPSpace(stream.input_shape, tasks, (CLASSIFIER_WIDTH,), (1,))
    heads = Heads("CL2", tasks, tasks, own=False)
    target = space.from_string(str(CLASSIFIER_WIDTH))
    return DirectLearner(space, target, heads, "finetune", adam(1e-3, schedule.steps), seed=schedule.seed)


def _inference(learner: Learner, classifier: DirectLearner | None, judge: Any, task: int) -> InferTask | None:
    """How the task of an image is found; None where it is told or makes no difference."""
    if learner.heads.scenario == "CL1" or not learner.conditional:
        return None
    if classifier is None:
        return lowest_entropy
    space, encoding = classifier.space, classifier.encoding

    def named(images: NDArray[np.float32], logits_TNK: NDArray[np.float32]) -> NDArray[np.int64]:
        return np.argmax(logits_of(space, judge.weights, encoding, images)[:, : task + 1], -1)

    return named


# ------------------------------------------------------------------------------------------------------- checkpoints


def _tree(progress: Progress) -> tuple[dict[str, Any], Callable[[dict[str, Any]], Progress]]:
    """A progress as a flat dictionary of arrays, and the way back."""
    leaves, structure = jax.tree.flatten(progress)

    def back(tree: dict[str, Any]) -> Progress:
        restored: Progress = jax.tree.unflatten(structure, [tree[str(index)] for index in range(len(leaves))])
        return restored._replace(matrix=np.asarray(restored.matrix, np.float64), step=int(restored.step))

    return {str(index): np.asarray(leaf) for index, leaf in enumerate(leaves)}, back


def _save(run: Path, learner: Learner, progress: Progress, tasks: int) -> None:
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


def _load(run: Path, progress: Progress) -> Progress:
    tree, back = _tree(progress._replace(matrix=progress.matrix.astype(np.float32)))
    return back(load_state(run, steps_of(run)[-1], tree))
