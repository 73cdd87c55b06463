"""From a configuration to a stream, what learns it, and its folder."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from architectures.spaces import SearchSpace
from ghn.api import Hypernetwork, Preprocessing
from train.continual.baselines import DirectLearner
from train.continual.config import ContinualConfig
from train.continual.heads import Heads
from train.continual.learner import HypernetworkLearner, Learner, adam
from train.continual.loop import Result, learn, learner_at
from train.continual.metrics import summarise
from train.continual.streams import Stream
from train.metrics import write_whole
from train.run_folder import claim

RESULT = "result.json"


def run(config: ContinualConfig, folder: Path, show: bool = True) -> Result:
    """Learns the stream of a configuration into a folder; the same call continues it.

    Files: config.json, metrics.jsonl, checkpoints/<step>/, and at the end result.json.

    Raises:
        ValueError: parts that do not fit each other; the folder is left as it was.
        RunError: the folder belongs to another run.
        DataError: the data cannot be read.
    """
    stream = config.stream.build()
    learner = make_learner(config, stream)
    later = {config.change_at: changed_learner(config, learner)} if config.change_to else {}
    check_ends(stream, config.schedule.batch)
    defaults = dataclasses.asdict(ContinualConfig())
    claim(folder, dataclasses.asdict(config), defaults, dict(stream.splits.provenance))
    result = learn(stream, learner, config.schedule, folder, show, later)
    last = learner_at(learner, later, stream.tasks - 1)
    write_whole(folder / RESULT, json.dumps(result_json(config, stream, last, result), indent=2) + "\n")
    return result


def check_ends(stream: Stream, batch: int) -> None:
    """ValueError where the first or the last task cannot be made, or does not fill a batch."""
    for index in sorted({0, stream.tasks - 1}):
        count = len(stream.checked(index).train.labels)
        if batch > count:
            raise ValueError(
                f"ScheduleConfig.batch={batch}: task {index} has only {count} training images; use a smaller batch"
            )


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
