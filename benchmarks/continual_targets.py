"""Layers, starts and changes of targets (parts of `continual.py`)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from continual_settings import (
    STRENGTHS,
    UNREPORTED,
    Config,
    Rows,
    average,
    best_strength,
    forgetting,
    learned_change,
    reduced_config,
    scheduled,
    seeded,
    selecting,
)
from kept import Kept

from architectures.layout import WeightArrays
from architectures.spaces import MLP, MLPSpace
from eval.continual import Estimate, estimate
from ghn.api import Hypernetwork
from ghn.config import GHNConfig
from train.config import SpaceConfig
from train.continual import (
    ContinualConfig,
    Heads,
    HypernetworkLearner,
    PermutedStream,
    RegulariserConfig,
    ScheduleConfig,
    SplitStream,
    learn,
)
from train.continual.baselines import DirectLearner
from train.continual.config import Method
from train.continual.learner import Chunk, Metrics, adam
from train.continual.metrics import summarise
from train.data import DataConfig

# -------------------------------------------------------------------------------------------------------- dependency


def dependency(config: Config, kept: Kept, rows: Rows) -> dict[str, Any]:
    """What carries the dependency of layers, at equal size: the decoder's width makes up for what the others lack."""
    base = reduced_config(config)
    wanted, results = _parameters(base), {}
    for propagation in ("gatedgnn", "rnn", "none"):
        ghn = dataclasses.replace(base.ghn, propagation=propagation)
        sizes = [dataclasses.replace(base, ghn=dataclasses.replace(ghn, hidden=ghn.hidden + m)) for m in range(-8, 9)]
        setting = min(sizes, key=lambda one: abs(_parameters(one) - wanted))
        found, size = seeded(kept, setting, config.each), _parameters(setting)
        results[propagation] = {**average(found)._asdict(), "forgetting": forgetting(found), "parameters": size}
        besides = f"forgetting {100 * forgetting(found):.2f}; {size:,} parameters"
        rows.append(["dependency", propagation, average(found).percent(), besides, str(len(found))])
    return results


def _parameters(setting: ContinualConfig) -> int:
    space = setting.space.build((28, 28, 1), 10 * setting.stream.tasks)
    return Hypernetwork.create(space, dataclasses.replace(setting.ghn, tasks=setting.stream.tasks)).parameter_count


# ---------------------------------------------------------------------------------------------------- initialization

INITIALISED: tuple[Method, ...] = ("finetune", "ewc", "si", "replay", "lwf")
SOON = 50  # steps of a task within which it is told how fast it is learned
Measures: TypeAlias = dict[str, dict[str, Any]]  # by start: strength, values [seed][measure]
SPACE = MLPSpace((28, 28, 1), 10, (50, 100, 200), (1, 2, 3))


class Watched(DirectLearner):
    """Keeps the accuracy of every batch before its step: what was not yet trained on, while a task is new."""

    batches: list[np.ndarray]

    def restarted(self, seed: int, start: WeightArrays | None) -> Watched:
        """The same learner, compiled once, from other weights."""
        self._seed, self._start, self.batches = seed, start, []
        return self

    def update(self, state: Any, task: int, chunk: Chunk) -> tuple[Any, Metrics]:
        """n steps."""
        state, metrics = super().update(state, task, chunk)
        self.batches.append(np.asarray(metrics["accuracy"]))
        return state, metrics

    def soon(self, steps: int) -> float:
        """Mean over the first batches of all tasks but the first, of `steps` each."""
        batches_TS = np.concatenate(self.batches).reshape(-1, steps)
        return float(batches_TS[1:, :SOON].mean())


@functools.cache
def generated_starts(steps: int, seed: int = 0) -> tuple[list[MLP], list[WeightArrays]]:
    """Two targets that a hypernetwork of their space was not trained on, and its weights for them.

    It is trained on the Fashion-MNIST images in the package and 16 other architectures.
    """
    rng = np.random.default_rng(0)
    drawn = list(dict.fromkeys(SPACE.sample(rng) for _ in range(40)))
    targets, pool = drawn[:2], drawn[2:18]
    ghn, schedule = GHNConfig(hidden=64, tile=50, decoder="chunks", tasks=1), ScheduleConfig(steps=steps, seed=seed)
    heads = Heads("CL1", 1, 10, own=False)
    learner = HypernetworkLearner(
        Hypernetwork.create(SPACE, ghn, seed), pool, heads, optimizer=adam(3e-3, steps), seed=seed
    )
    state = learn(PermutedStream(DataConfig(image_size=None), tasks=1), learner, schedule).state
    emitting = learner.changed([*targets, *pool[len(targets) :]])
    return targets, [emitting.weights(state, 0, index) for index in range(len(targets))]


def initialised(
    data: DataConfig, method: Method, steps: int, source_steps: int, seeds: Sequence[int]
) -> list[Measures]:
    """Measures of each target, from generated weights and from its own initialiser.

    Where the method has a strength, it is chosen for either start by itself.
    """
    targets, generated = generated_starts(source_steps)
    measures = []
    for target, weights in zip(targets, generated, strict=True):
        starts: dict[str, WeightArrays | None] = {"generated": weights, "default": None}
        measures.append({name: _measured(data, method, steps, seeds, target, start) for name, start in starts.items()})
    return measures


def _measured(
    data: DataConfig, method: Method, steps: int, seeds: Sequence[int], target: MLP, start: WeightArrays | None
) -> dict[str, Any]:
    """A method on a target from one start: its strength; by seed average accuracy, forgetting, accuracy soon."""
    schedule = functools.partial(ScheduleConfig, steps=steps, memory=2000)

    @functools.cache
    def learner(strength: float) -> Watched:
        return Watched(SPACE, target, Heads("CL1", 5, 2, own=True), method, adam(1e-3, steps), strength)

    def run(strength: float, stream: SplitStream, schedule: ScheduleConfig) -> list[float]:
        own = learner(strength).restarted(schedule.seed, start)
        summary = summarise(learn(stream, own, schedule).matrix)
        return [summary.average, summary.forgetting, own.soon(steps)]

    def worth(strength: float) -> float:
        return run(strength, SplitStream(selecting(data)), schedule(seed=UNREPORTED, evaluate="score"))[0]

    strength = best_strength(method, worth) if method in STRENGTHS else 1.0
    values = [run(strength, SplitStream(data), schedule(seed=seed)) for seed in seeds]
    return {"strength": strength, "values": values}


def initialization(config: Config, kept: Kept, rows: Rows) -> dict[str, Any]:
    """Split-MNIST, task told, from generated weights and from an ordinary initialiser; two unseen targets.

    Differences are taken within a seed and target, and averaged over targets; intervals are over seeds of the
    baselines, for one hypernetwork.
    """
    steps, source_steps = config.steps(200), config.steps(2000)
    results: dict[str, Any] = {method: {} for method in INITIALISED}
    for method in INITIALISED:
        found = kept(initialised, config.data, method, steps, source_steps, list(config.each))
        values = {
            start: np.mean([target[start]["values"] for target in found], 0) for start in ("generated", "default")
        }
        for index, measure in enumerate(("average", "forgetting", "soon")):
            generated, own = (values[start][:, index] for start in ("generated", "default"))
            gain = estimate(list(generated - own))
            results[method][measure] = {
                "generated": float(generated.mean()),
                "default": float(own.mean()),
                "interval": [gain.low, gain.high],
            }
            shown = f"{100 * generated.mean():.2f} against {100 * own.mean():.2f}"
            rows.append(
                ["initialization", f"{method}: {measure}", shown, f"difference {gain.percent()}", str(len(own))]
            )
        results[method] |= results[method]["average"]
        if method in STRENGTHS:
            chosen = {start: [target[start]["strength"] for target in found] for start in values}
            results[method]["strengths"] = chosen
            shown = "; ".join(f"{start} {', '.join(f'{one:g}' for one in own)}" for start, own in chosen.items())
            rows.append(["initialization", f"{method}: strengths", shown, "of the two targets", ""])
    return results


# ------------------------------------------------------------------------------------------------------------ change


def change(config: Config, kept: Kept, rows: Rows) -> dict[str, Any]:
    """Two tasks on 100-100, then 200-100-50, never emitted: accuracy on both before, at the change, after task 3."""
    results: dict[str, Any] = {}
    for name, beta in (("protected", 0.05), ("not protected", 0.0)):
        setting = reduced_config(
            config,
            space=SpaceConfig("mlp", widths=(50, 100, 200), depths=(1, 2, 3)),
            others=16,
            change_at=2,
            change_to="200-100-50",
            regulariser=RegulariserConfig(beta, subset=1),
        )
        setting = scheduled(setting, steps=config.steps(1000))
        found = np.array([kept(learned_change, scheduled(setting, seed=seed)) for seed in config.each])
        columns = ("before", "at_change", "after", "new_task")
        values: dict[str, Estimate] = {
            key: estimate(list(column)) for key, column in zip(columns, found.T, strict=True)
        }
        results[name] = {key: value._asdict() for key, value in values.items()}
        for key, value in values.items():
            rows.append(["change", f"{name}: {key.replace('_', ' ')}", value.percent(), "", str(len(found))])
    protected = results["protected"]
    return {"before": protected["before"]["mean"], "after": protected["after"]["mean"], **results}
