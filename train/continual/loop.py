"""Going through a stream: task after task, scored after each on all tasks so far, resumable at any checkpoint."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from architectures.spaces import MLPSpace
from ghn.checkpoint import steps_of
from train.continual.baselines import DirectLearner
from train.continual.batches import StreamBatches
from train.continual.config import ScheduleConfig
from train.continual.heads import Heads
from train.continual.learner import Learner, adam
from train.continual.metrics import Matrix
from train.continual.scoring import InferTask, accuracy, logits_of, lowest_entropy
from train.continual.store import Progress, check_finite, claim_stream, load, save
from train.continual.streams import Part, Stream
from train.metrics import MetricsWriter, TrainingProgress

CLASSIFIER_WIDTH = 400  # hidden units of the classifier of tasks


class Result(NamedTuple):
    """What came of a stream.

    Attributes:
        matrix: [T, T] accuracy on task j (column) after task i (row), nan above the diagonal.
        state: the learner's, after the last task.
    """

    matrix: Matrix
    state: Any


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
        run: folder for checkpoints and metrics, continued at its last checkpoint; None: nothing is written. To be
            continued with the same learner.
        show: a live progress display.
        stop: number of tasks after which to stop; None: at the end of the stream.
        later: task -> another learner that goes on with the state from that task on (a change of target).

    Raises:
        ValueError: a task that does not fit, heads of another number of tasks or classes.
        RunError: the folder is another stream's; the loss stopped being finite (the last good checkpoint is kept).
    """
    _check_heads(stream, learner.heads)
    if run is not None:
        claim_stream(run, stream, schedule)
    batches = StreamBatches(stream, schedule.batch, schedule.memory, schedule.seed)
    classifier = _task_classifier(stream, learner, schedule)
    progress = Progress(learner.init(), classifier and classifier.init(), np.full((stream.tasks,) * 2, np.nan), 0)
    if run is not None and steps_of(run):
        progress = load(run, progress)
    with (
        contextlib.nullcontext() if run is None else MetricsWriter(run, progress.step) as writer,
        TrainingProgress(progress.step, stream.tasks * schedule.steps, show) as display,
    ):

        def tell(step: int, values: dict[str, float]) -> None:
            check_finite(run, values, step)
            if writer is not None:
                writer.write(step, values)
            display.update(step, values)

        for task in range(progress.step // schedule.steps, stream.tasks if stop is None else stop):
            learner = learner_at(learner, later, task)
            for reached in _learn_task(batches, learner, classifier, schedule, task, progress, tell):
                progress = reached
                if run is not None:
                    save(run, learner, progress, task + 1)
    return Result(progress.matrix, progress.state)


def _learn_task(
    batches: StreamBatches,
    learner: Learner,
    classifier: DirectLearner | None,
    schedule: ScheduleConfig,
    task: int,
    progress: Progress,
    tell: Callable[[int, dict[str, float]], None],
) -> Iterator[Progress]:
    """The states of one task that are worth keeping; the last one comes with the scores after it."""
    start, end = task * schedule.steps, (task + 1) * schedule.steps
    state, judge = progress.state, progress.classifier
    if progress.step == start:
        state, judge = learner.begin(state, task), classifier and classifier.begin(judge, task)
    for first in range(progress.step, end, schedule.log_every):
        steps = np.arange(first, min(first + schedule.log_every, end), dtype=np.int32)
        state, metrics = learner.update(state, task, batches.chunk(task, start, steps, learner.replays))
        if classifier is not None:
            mixed = batches.chunk(task, start, steps, "balanced")
            judge, _ = classifier.update(judge, task, mixed._replace(labels=mixed.tasks))
        done = int(steps[-1]) + 1
        tell(done, {"task": task, **{name: float(np.mean(column)) for name, column in metrics.items()}})
        if done < end and (done - start) % schedule.checkpoint_every == 0:
            yield Progress(state, judge, progress.matrix, done)
    state = learner.finish(state, task, batches.task(task).train)
    matrix = progress.matrix.copy()
    parts = [batches.part(earlier, schedule.evaluate) for earlier in range(task + 1)]
    scores = score(learner, state, parts, _inference(learner, classifier, judge, task))
    matrix[task, : task + 1] = np.array(scores, np.float32)  # as checkpoints hold them
    yield Progress(state, judge, matrix, end)


def learner_at(learner: Learner, later: Mapping[int, Learner] | None, task: int) -> Learner:
    """The one that learns a task."""
    begun = [start for start in later or {} if start <= task]
    return (later or {})[max(begun)] if begun else learner


def _check_heads(stream: Stream, heads: Heads) -> None:
    if (heads.tasks, heads.classes) != (stream.tasks, stream.classes):
        raise ValueError(
            f"heads: for {heads.tasks} tasks of {heads.classes} classes, the stream has {stream.tasks} of "
            f"{stream.classes}; use Heads(scenario, {stream.tasks}, {stream.classes}, own=...)"
        )


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
