"""Continual learning: does one hypernetwork hold a stream of tasks, for any target, and what do its weights start?

    python benchmarks/continual.py --mnist path/to/mnist [--cifar path/to/cifar-10] [--quick] [--parts ...]

Parts, each with its own settings below:
- reduced: three permutations of MNIST (4,000 / 1,000 images), MLP 100-100, 300 steps of 128 a task, CL1, beta .05
  and 0, in a fresh process whose CPU seconds are counted from its start, imports and compilation included. Reference
  figures (another implementation, one seed): mean 89.57 with forgetting about 0, 44.27 with beta 0, 23 CPU seconds, a
  hypernetwork of 121,819 parameters for a target of 91,630.
- streams: Split-MNIST in CL1 and CL3, Permuted-MNIST-10 in CL1 and, with --cifar, Split-CIFAR-10 on a convolutional
  target, against all baselines; strengths of penalties are chosen on score images of a seed that is not reported.
- dependency: message passing, an RNN over layers and neither, at equal size.
- initialization: baselines from weights that a hypernetwork generates (trained on the Fashion-MNIST images in the
  package, targets unseen) and from an ordinary initialiser.
- change: after two of three tasks the target is replaced by one that was never emitted.
- cost: milliseconds a step against the number of tasks, drawing one earlier task a step or summing over all.

`--quick` takes a few minutes on two CPU cores: one seed, few steps.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import common
import jax
import numpy as np
import tyro

from architectures.spaces import MLPSpace
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
    StreamConfig,
    learn,
)
from train.continual.baselines import DirectLearner
from train.continual.build import changed_learner, make_learner
from train.continual.config import METHODS
from train.continual.learner import Chunk, adam
from train.continual.loop import score
from train.continual.metrics import Summary, summarise
from train.data import DataConfig

PARTS = ("reduced", "streams", "dependency", "initialization", "change", "cost")
PENALISED = ("ewc", "online_ewc", "si", "lwf")
STRENGTHS = {"ewc": (1e0, 1e2, 1e4), "online_ewc": (1e0, 1e2, 1e4), "si": (1e-2, 1e0, 1e2), "lwf": (0.1, 1.0, 10.0)}
TUNING_SEED = 100  # of the runs that choose strengths, on score images
Rows = list[list[str]]


@dataclasses.dataclass(frozen=True)
class Config:
    """What is run."""

    mnist: Path  # folder of the four idx files
    cifar: Path | None = None  # folder of CIFAR-10 binary batches; None: that stream is left out
    quick: bool = False  # one seed and few steps everywhere
    parts: tuple[Literal["reduced", "streams", "dependency", "initialization", "change", "cost"], ...] = PARTS
    out: Path = Path("benchmarks/results")  # folder for the results
    seeds: int = 5  # of every row but those that say otherwise

    @property
    def runs(self) -> range:
        """Seeds of a row."""
        return range(1 if self.quick else self.seeds)

    def steps(self, full: int) -> int:
        """Steps of a task."""
        return min(full, 100) if self.quick else full

    @property
    def data(self) -> DataConfig:
        """MNIST at its own size."""
        return DataConfig(source=str(self.mnist), image_size=None)


def reduced_config(config: Config, seed: int = 0, **fields: Any) -> ContinualConfig:
    """The reduced permuted setting of the reference implementation."""
    stream = StreamConfig("permuted", config.data, tasks=3, train_images=4000, test_images=1000)
    schedule = ScheduleConfig(steps=config.steps(300), seed=seed)
    base = ContinualConfig(stream=stream, regulariser=RegulariserConfig(0.05, subset=None), schedule=schedule)
    return dataclasses.replace(base, **fields)


def go(config: ContinualConfig) -> Summary:
    """Learns a stream in memory."""
    stream = config.stream.build()
    learner = make_learner(config, stream)
    later = {config.change_at: changed_learner(config, learner)} if config.change_to else None
    return summarise(learn(stream, learner, config.schedule, later=later).matrix)


# ----------------------------------------------------------------------------------------------------------- reduced


def timed(config: ContinualConfig) -> tuple[Summary, float, int, int]:
    """Summary, CPU seconds of this process from its start, parameters of the hypernetwork and of the target."""
    stream = config.stream.build()
    learner = make_learner(config, stream)
    assert isinstance(learner, HypernetworkLearner)
    summary = summarise(learn(stream, learner, config.schedule).matrix)
    target = learner.space.cost(learner.architectures[0]).parameters
    return summary, time.process_time(), learner.hypernetwork.parameter_count, target


def reduced(config: Config, rows: Rows) -> dict[str, Any]:
    """The reduced permuted run, with and without protection."""
    held, cpu_s, parameters, target = common.in_fresh_process(timed, reduced_config(config))
    loose = common.in_fresh_process(timed, reduced_config(config, regulariser=RegulariserConfig(beta=0.0)))[0]
    rows.append(["reduced permuted, beta .05", f"{100 * held.average:.2f}", f"{100 * held.forgetting:.2f}", "1"])
    rows.append(["reduced permuted, beta 0", f"{100 * loose.average:.2f}", f"{100 * loose.forgetting:.2f}", "1"])
    return {
        "mean": held.average,
        "forgetting": held.forgetting,
        "mean_beta0": loose.average,
        "hypernetwork_parameters": parameters,
        "target_parameters": target,
        "cpu_s": cpu_s,
    }


# ----------------------------------------------------------------------------------------------------------- streams


def stream_settings(config: Config) -> Iterator[tuple[str, ContinualConfig]]:
    """Name and setting of every stream; the hypernetwork's, whose fields baselines share."""
    split = StreamConfig("split", config.data)
    mlp = SpaceConfig("mlp", widths=(400,), depths=(2,))
    ghn = GHNConfig(width=32, hidden=64, tile=50, decoder="chunks", residual=False)
    base = ContinualConfig(split, mlp, "400-400", ghn=ghn, learning_rate=3e-3, regulariser=RegulariserConfig(0.01, 1))
    schedule = ScheduleConfig(steps=config.steps(600), memory=2000)
    yield "split_mnist_cl1", dataclasses.replace(base, schedule=schedule)
    told = dataclasses.replace(schedule, inference="classifier")
    yield "split_mnist_cl3", dataclasses.replace(base, scenario="CL3", schedule=told)
    permuted = StreamConfig("permuted", config.data, tasks=10, train_images=10_000)
    yield "permuted_mnist_10_cl1", dataclasses.replace(base, stream=permuted, schedule=schedule)
    if config.cifar is not None:
        data = DataConfig(source=str(config.cifar), image_size=16)
        space = SpaceConfig("nasbench201", channels=8, cells=1)
        cell = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
        yield (
            "split_cifar_10_cl1",
            dataclasses.replace(base, stream=StreamConfig("split", data), space=space, target=cell, schedule=schedule),
        )


def tuned(setting: ContinualConfig) -> ContinualConfig:
    """With the strength that does best on score images of a seed of its own."""
    schedule = dataclasses.replace(setting.schedule, evaluate="score", seed=TUNING_SEED)
    candidates = [dataclasses.replace(setting, strength=strength) for strength in STRENGTHS[setting.method]]
    best = max(candidates, key=lambda one: go(dataclasses.replace(one, schedule=schedule)).average)
    return dataclasses.replace(setting, strength=best.strength)


def seeded(setting: ContinualConfig, seeds: Sequence[int]) -> list[Summary]:
    """One summary a seed."""
    each = [dataclasses.replace(setting.schedule, seed=seed) for seed in seeds]
    return [go(dataclasses.replace(setting, schedule=schedule)) for schedule in each]


def streams(config: Config, rows: Rows) -> dict[str, Any]:
    """Every method on every stream."""
    results: dict[str, Any] = {}
    for name, base in stream_settings(config):
        for method in METHODS:
            setting = dataclasses.replace(base, method=method)
            if method != "hypernetwork":
                setting = dataclasses.replace(setting, learning_rate=1e-3)
            if method in PENALISED:
                setting = tuned(setting)
            found = seeded(setting, config.runs)
            mean = estimate([one.average for one in found])
            forgotten = estimate([one.forgetting for one in found]).mean
            key = name if method == "hypernetwork" else f"{name}/{method}"
            results[key] = {
                "scenario": base.scenario,
                **_interval(mean),
                "forgetting": forgotten,
                "seeds": len(found),
                "strength": setting.strength if method in PENALISED else None,
            }
            rows.append([key, mean.percent(), f"{100 * forgotten:.2f}", str(len(found))])
    return results


def _interval(found: Estimate) -> dict[str, float | None]:
    return found._asdict()


# -------------------------------------------------------------------------------------------------------- dependency


def dependency(config: Config, rows: Rows) -> dict[str, Any]:
    """What carries the dependency of layers, at equal size: the decoder's width makes up for what the others lack."""
    wanted = _parameters(reduced_config(config))
    results = {}
    for propagation in ("gatedgnn", "rnn", "none"):
        ghn = dataclasses.replace(reduced_config(config).ghn, propagation=propagation)
        sizes = [dataclasses.replace(ghn, hidden=ghn.hidden + more) for more in range(-8, 9)]
        nearest = min(sizes, key=lambda one: abs(_parameters(reduced_config(config, ghn=one)) - wanted))
        setting = reduced_config(config, ghn=nearest)
        mean = estimate([one.average for one in seeded(setting, config.runs)])
        results[propagation] = {**_interval(mean), "parameters": _parameters(setting)}
        rows.append([f"dependency: {propagation}", mean.percent(), f"{results[propagation]['parameters']:,}", ""])
    return results


def _parameters(setting: ContinualConfig) -> int:
    space = setting.space.build((28, 28, 1), 10 * setting.stream.tasks)
    return Hypernetwork.create(space, dataclasses.replace(setting.ghn, tasks=setting.stream.tasks)).parameter_count


# ---------------------------------------------------------------------------------------------------- initialization

INITIALISED = ("finetune", "ewc", "si", "replay", "lwf")


def initialization(config: Config, rows: Rows) -> dict[str, Any]:
    """Split-MNIST, CL1, from generated weights and from an ordinary initialiser; three unseen targets."""
    space = MLPSpace((28, 28, 1), 10, (50, 100, 200), (1, 2, 3))
    source = PermutedStream(DataConfig(image_size=None), tasks=1)  # all of Fashion-MNIST
    rng = np.random.default_rng(0)
    drawn = list(dict.fromkeys(space.sample(rng) for _ in range(40)))
    targets, pool = drawn[:3], drawn[3:19]
    ghn = GHNConfig(hidden=64, tile=50, decoder="chunks", tasks=1)
    schedule = ScheduleConfig(steps=config.steps(3000))
    learner = HypernetworkLearner(
        Hypernetwork.create(space, ghn), pool, Heads("CL1", 1, 10, own=False), optimizer=adam(3e-3, schedule.steps)
    )
    state = learn(source, learner, schedule).state
    emitting = learner.changed([*targets, *pool[len(targets) :]])
    starts = [emitting.weights(state, 0, index) for index in range(len(targets))]
    stream = StreamConfig("split", config.data).build()
    results = {}
    for method in INITIALISED:
        pairs = []
        for seed in config.runs:
            for target, start in zip(targets, starts, strict=True):
                schedule = ScheduleConfig(steps=config.steps(300), memory=2000, seed=seed)

                def average(start: Any, target: Any = target, schedule: ScheduleConfig = schedule) -> float:
                    heads = Heads("CL1", 5, 2, own=True)
                    optimizer, strength = adam(1e-3, schedule.steps), STRENGTHS.get(method, (1.0, 1.0))[1]  # noqa: B023
                    direct = DirectLearner(space, target, heads, method, optimizer, strength, schedule.seed, start)  # type: ignore[arg-type]  # noqa: B023
                    return summarise(learn(stream, direct, schedule).matrix).average

                pairs.append((average(start), average(None)))
        generated, default = np.array(pairs).T
        gain = estimate(list(generated - default))
        results[method] = {
            "generated": float(generated.mean()),
            "default": float(default.mean()),
            "interval": [gain.low, gain.high],
        }
        row = [f"{100 * generated.mean():.2f} against {100 * default.mean():.2f}", f"gain {gain.percent()}"]
        rows.append([f"initialised: {method}", *row, str(len(pairs))])
    return results


# ------------------------------------------------------------------------------------------------------------ change


def change(config: Config, rows: Rows) -> dict[str, Any]:
    """Two tasks on 100-100, then 200-100-50, never emitted: accuracy on both before, at the change, after task 3."""
    results = {}
    for name, beta in (("protected", 0.05), ("not protected", 0.0)):
        found = []
        for seed in config.runs:
            setting = reduced_config(
                config,
                seed,
                space=SpaceConfig("mlp", widths=(50, 100, 200), depths=(1, 2, 3)),
                others=16,
                change_at=2,
                change_to="200-100-50",
                regulariser=RegulariserConfig(beta, subset=1),
            )
            setting = dataclasses.replace(
                setting, schedule=dataclasses.replace(setting.schedule, steps=config.steps(1000))
            )
            stream = setting.stream.build()
            learner = make_learner(setting, stream)
            first_two = learn(stream, learner, setting.schedule, stop=2).state
            new = changed_learner(setting, learner)
            parts = [stream.checked(task).test for task in range(2)]
            before, at_change = (float(np.mean(score(one, first_two, parts))) for one in (learner, new))
            matrix = learn(stream, learner, setting.schedule, later={2: new}).matrix
            found.append((before, at_change, float(matrix[2, :2].mean()), float(matrix[2, 2])))
        columns = ("before", "at_change", "after", "new_task")
        values = {key: estimate(list(column)) for key, column in zip(columns, np.array(found).T, strict=True)}
        results[name] = {key: _interval(value) for key, value in values.items()}
        shown = [f"{key} {value.percent()}" for key, value in values.items()]
        rows.append([f"change of target, {name}", "; ".join(shown[:3]), shown[3], str(len(found))])
    protected = results["protected"]
    return {"before": protected["before"]["mean"], "after": protected["after"]["mean"], **results}


# -------------------------------------------------------------------------------------------------------------- cost


def cost(config: Config, rows: Rows) -> dict[str, Any]:
    """Milliseconds a step at the last of T tasks; and accuracy at ten tasks, one drawn a step against all."""
    results: dict[str, Any] = {}
    for subset in (1, None):
        for tasks in (2, 10) if config.quick else (2, 5, 10, 20, 50, 100):
            space = MLPSpace(classes=10, widths=(100,), depths=(2,))
            ghn = dataclasses.replace(ContinualConfig().ghn, tasks=tasks)
            learner = HypernetworkLearner(
                Hypernetwork.create(space, ghn),
                [space.from_string("100-100")],
                Heads("CL1", tasks, 10, own=False),
                RegulariserConfig(subset=subset),
            )
            milliseconds = _milliseconds(learner, tasks - 1)
            kind = "one drawn" if subset else "all"
            results.setdefault(kind, {})[tasks] = milliseconds
            rows.append([f"cost: {tasks} tasks, {kind}", f"{milliseconds:.1f} ms a step", "", ""])
    accuracies = {}
    for subset in (1, None):
        setting = reduced_config(config, heads="shared", regulariser=RegulariserConfig(0.05, subset))
        stream = dataclasses.replace(setting.stream, tasks=3 if config.quick else 10)
        found = seeded(dataclasses.replace(setting, stream=stream), config.runs)
        accuracies["one drawn" if subset else "all"] = _interval(estimate([one.average for one in found]))
    rows.append(["ten tasks: one drawn, all", *(f"{100 * value['mean']:.2f}" for value in accuracies.values()), ""])
    return {"milliseconds": results, "accuracy": accuracies}


def _milliseconds(learner: HypernetworkLearner, task: int, steps: int = 20) -> float:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((steps, 128, *learner.space.input_shape), np.float32)
    labels = rng.integers(0, learner.heads.classes, (steps, 128)).astype(np.int32)
    chunk = Chunk(images, labels, np.full((steps, 128), task, np.int32), np.arange(steps, dtype=np.int32))
    state = learner.begin(learner.init(), task)

    def run() -> Any:
        return learner.update(state, task, chunk)[0].parameters

    return 1000 * common.medians(common.interleaved({"step": run}, 5))["step"] / steps


def main(config: Config) -> None:
    """Runs the parts that are asked for."""
    functions = {
        "reduced": ("reduced_permuted", reduced),
        "streams": ("streams", streams),
        "dependency": ("dependency", dependency),
        "initialization": ("initialization", initialization),
        "change": ("change_of_target", change),
        "cost": ("cost", cost),
    }
    results: dict[str, Any] = {}
    rows: Rows = []
    for part in config.parts:
        key, function = functions[part]
        start = time.perf_counter()
        results[key] = function(config, rows)
        results.setdefault("hours", {})[part] = (time.perf_counter() - start) / 3600
        jax.clear_caches()
    header = ("what", "mean accuracy, %", "forgetting, points", "seeds")
    notes = [f"{part}: {hours:.2f} h" for part, hours in results["hours"].items()]
    common.finish("continual", results, header, rows, notes, list(config.runs), config.out)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
