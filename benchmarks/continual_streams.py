"""Whole streams: the hypernetwork against all baselines, whose strengths are tuned (parts of `continual.py`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from continual_settings import (
    STRENGTHS,
    Config,
    Matrix,
    Rows,
    average,
    forgetting,
    learned_scenarios,
    mean_matrix,
    scheduled,
    seeded,
    tuned,
)
from kept import Kept

from ghn.config import GHNConfig
from train.config import SpaceConfig
from train.continual import ContinualConfig, RegulariserConfig, ScheduleConfig, StreamConfig
from train.data import DataConfig

Results = dict[str, Any]


def split_mnist(config: Config) -> ContinualConfig:
    """The full setting: all images, MLP 400-400.

    The tile network has to keep (tasks x tiles of the target) outputs apart with `hidden` features: with tiles of 200
    that are 70 with 64 features. Smaller tiles make a smaller hypernetwork, whose tasks are learned less well.
    """
    return ContinualConfig(
        StreamConfig("split", config.data),
        SpaceConfig("mlp", widths=(400,), depths=(2,)),
        "400-400",
        ghn=GHNConfig(width=32, hidden=64, tile=200, decoder="chunks", residual=False),
        learning_rate=1e-3,
        regulariser=RegulariserConfig(0.1, 1),
        schedule=ScheduleConfig(steps=config.steps(600), memory=2000, inference="classifier"),
    )


def permuted_mnist(config: Config) -> ContinualConfig:
    """Ten permutations of all images; reduced: MLP 200-200, 1,000 steps a task."""
    stream = StreamConfig("permuted", config.data, tasks=3 if config.quick else 10)
    space = SpaceConfig("mlp", widths=(200,), depths=(2,))
    setting = dataclasses.replace(split_mnist(config), stream=stream, space=space, target="200-200")
    return scheduled(setting, steps=config.steps(1000))


def split_cifar(config: Config) -> ContinualConfig:
    """Pairs of classes at 16 x 16, a convolutional cell; reduced: 300 steps a task, no batch 5 in training."""
    stream = StreamConfig("split", DataConfig(source=str(config.cifar), image_size=16))
    space = SpaceConfig("nasbench201", channels=8, cells=1)
    cell = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
    base = split_mnist(config)
    ghn = dataclasses.replace(base.ghn, tile=32)
    setting = dataclasses.replace(base, stream=stream, space=space, target=cell, ghn=ghn, learning_rate=3e-3)
    return scheduled(setting, steps=config.steps(300))


def split(config: Config, kept: Kept, rows: Rows) -> Results:
    """Split-MNIST: one hypernetwork a seed, scored with the task told (CL1) and not told (CL3)."""
    return scenarios(kept, rows, "split", split_mnist(config), config.each)


def long(config: Config, kept: Kept, rows: Rows) -> Results:
    """The hypernetwork alone with 2,000 steps a task: Permuted-MNIST-10 and Split-MNIST, one seed."""
    steps = config.steps(2000)
    name, base = f"permuted_mnist_10_cl1/{steps}_steps", scheduled(permuted_mnist(config), steps=steps)
    results = {name: told_of(rows, "long", name, base, seeded(kept, base, [0]))}
    whole = scenarios(kept, rows, "long", scheduled(split_mnist(config), steps=steps), [0], f"/{steps}_steps")
    return results | whole


def scenarios(
    kept: Kept,
    rows: Rows,
    part: str,
    base: ContinualConfig,
    seeds: Sequence[int],
    suffix: str = "",
) -> Results:
    """Split-MNIST by one hypernetwork a seed in each scenario, whose name ends in the suffix."""
    runs = [kept(learned_scenarios, scheduled(base, seed=seed)) for seed in seeds]
    results: Results = {}
    for prefix, way in (
        ("split_mnist_cl1", "told"),
        ("split_mnist_cl3", "classifier"),
        ("split_mnist_cl3/entropy", "entropy"),
    ):
        name = prefix + suffix
        results[name] = told_of(rows, part, name, base, [run[way] for run in runs])
    return results


def split_cl1(config: Config, kept: Kept, rows: Rows) -> Results:
    """The baselines where the task is told."""
    return baselines(config, kept, rows, "split_cl1", "split_mnist_cl1", split_mnist(config), config.each)


def split_cl3(config: Config, kept: Kept, rows: Rows) -> Results:
    """The baselines where the task is not told, and is inferred by the same classifier where weights depend on it."""
    base = dataclasses.replace(split_mnist(config), scenario="CL3")
    return baselines(config, kept, rows, "split_cl3", "split_mnist_cl3", base, config.each)


def permuted(config: Config, kept: Kept, rows: Rows) -> Results:
    """Permuted-MNIST-10, task told, one seed; strengths are tuned on the first three tasks."""
    name, base = "permuted_mnist_10_cl1", permuted_mnist(config)
    results = {name: told_of(rows, "permuted", name, base, seeded(kept, base, [0]))}
    return results | baselines(config, kept, rows, "permuted", name, base, [0], tuned_on=2)


def cifar(config: Config, kept: Kept, rows: Rows) -> Results:
    """Split-CIFAR-10, task told, one seed."""
    if config.cifar is None:
        return {}
    name, base = "split_cifar_10_cl1", split_cifar(config)
    results = {name: told_of(rows, "cifar", name, base, seeded(kept, base, [0]))}
    return results | baselines(config, kept, rows, "cifar", name, base, [0], tuned_on=2)


def baselines(
    config: Config,
    kept: Kept,
    rows: Rows,
    part: str,
    prefix: str,
    base: ContinualConfig,
    seeds: Sequence[int],
    tuned_on: int | None = None,
) -> Results:
    """Every baseline on a stream; `tuned_on` tasks of it serve to choose strengths (None: all)."""
    results = {}
    for method in config.baselines:
        setting = dataclasses.replace(base, method=method, learning_rate=1e-3)
        if method in STRENGTHS:
            setting = tuned(kept, setting, tuned_on)
        found = seeded(kept, setting, seeds)
        results[f"{prefix}/{method}"] = told_of(rows, part, f"{prefix}/{method}", setting, found)
    return results


def told_of(rows: Rows, part: str, name: str, setting: ContinualConfig, found: Sequence[Matrix]) -> Results:
    """The result of a method on a stream; its row is added."""
    strength = setting.strength if setting.method in STRENGTHS else None
    besides = [f"forgetting {100 * forgetting(found):.2f}"]
    if strength is not None:
        besides.append(f"strength {strength:g}")
    infers = setting.method == "hypernetwork" and "cl3" in name and "entropy" not in name  # the task, by a classifier
    if setting.method == "replay" or infers:
        besides.append(f"memory {setting.schedule.memory:,} images")
    rows.append([part, name, average(found).percent(), "; ".join(besides), str(len(found))])
    return {
        "scenario": "CL3" if "cl3" in name else "CL1",
        **average(found)._asdict(),
        "forgetting": forgetting(found),
        "seeds": len(found),
        "strength": strength,
        "matrix": mean_matrix(found),
    }
