"""Does running every architecture under one compilation cost speed?

    python benchmarks/executor.py [--quick] [--out benchmarks/results]

Forward and backward pass of NAS-Bench-201 networks by the compile-once executor, against a program compiled for each
architecture alone (the faster of plain and canonical convolution gradients, at the same padded width); the difference
of what they compute; and the number of compilations of a whole training run over 2 and over 200 architectures.
Expected on two CPU cores: about 3 minutes; ratio at most 1.25, difference at most 1e-5, as many compilations for 200 as
for 2.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jax import Array

from architectures.layers import Layers
from architectures.layout import WeightArrays, initialise, occupancy
from architectures.spaces import Cell, NASBench201
from ghn.config import GHNConfig
from train.config import SpaceConfig, TrainConfig
from train.data import DataConfig, load
from train.loop import train

FORMS = ("plain", "canonical")
COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
SMALLEST_SHARE = 1e-3  # a group's gradient is compared relative to at least this share of the largest gradient


@dataclasses.dataclass(frozen=True)
class Config:
    """What is measured."""

    quick: bool = False  # fewer architectures and repeats
    out: Path = Path("benchmarks/results")  # folder for the results
    seed: int = 0  # of architectures, weights and images
    channels: int = 16  # of the first stage
    cells: int = 1  # in each stage
    batch: int = 64  # images

    @property
    def architectures(self) -> int:
        """How many are timed."""
        return 3 if self.quick else 10

    @property
    def repeats(self) -> int:
        """Timed rounds of each."""
        return 5 if self.quick else 21


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Executor and static programs on one architecture; times are medians in ms."""

    architecture: str
    executor: float
    plain: float
    canonical: float
    logits: float  # largest absolute difference
    gradients: float  # largest relative difference

    @property
    def ratio(self) -> float:
        """Executor over the faster static program."""
        return self.executor / min(self.plain, self.canonical)


# ------------------------------------------------------------------------------------------------------------- speed


Step = Callable[..., tuple[tuple[Array, Array], WeightArrays]]  # ((loss, logits), gradients)


def value_and_grad(forward: Callable[..., Array]) -> Step:
    """Jitted loss, logits and gradients by the weights of `forward(weights, images, *rest)`."""

    def loss_fn(weights: WeightArrays, images: Array, labels: Array, *rest: Any) -> tuple[Array, Array]:
        logits = forward(weights, images, *rest)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), logits

    return jax.jit(jax.value_and_grad(loss_fn, has_aux=True))


def executor_step(space: NASBench201) -> Step:
    """One program for every architecture, which it takes as its last argument."""
    return value_and_grad(lambda weights, images, encoding: space.forward(weights, encoding, images, Layers())[0])


def static_step(space: NASBench201, cell: Cell, form: Any) -> Step:
    """A program for `cell` alone."""
    return value_and_grad(lambda weights, images: space.forward_static(weights, cell, images, Layers(form)))


def sample_connected(space: NASBench201, count: int, seed: int) -> list[Cell]:
    """Random cells whose output depends on their input."""
    rng = np.random.default_rng(seed)
    cells: list[Cell] = []
    while len(cells) < count:
        cell = space.sample(rng)
        if space.connected(cell) and cell not in cells:
            cells.append(cell)
    return cells


def images_16(config: Config) -> tuple[Array, Array]:
    """The first training images, their 14x14 pixels padded to 16x16, and labels."""
    split = load(DataConfig()).train
    images = np.pad(split.images[: config.batch], ((0, 0), (1, 1), (1, 1), (0, 0)))
    return jnp.asarray(images), jnp.asarray(split.labels[: config.batch])


def ordinary_weights(space: NASBench201, cell: Cell, seed: int) -> WeightArrays:
    """He-initialised weights."""
    variants = {
        name: jnp.asarray(filled.variant) for name, filled in occupancy(space.layout, space.graph(cell)).items()
    }
    return initialise(space.layout, jax.random.key(seed), variants)


def compare(config: Config, space: NASBench201, executor: Step, cell: Cell, data: tuple[Array, Array]) -> Comparison:
    """Times and differences on one architecture."""
    weights, encoding = ordinary_weights(space, cell, config.seed), jax.tree.map(jnp.asarray, space.encode(cell))
    arms = {"executor": functools.partial(executor, weights, *data, encoding)}
    arms |= {form: functools.partial(static_step(space, cell, form), weights, *data) for form in FORMS}
    seconds = common.medians(common.interleaved(arms, config.repeats, warmup=2))
    (_, logits), gradients = arms["executor"]()
    static = [arms[form]() for form in FORMS]
    return Comparison(
        space.to_string(cell),
        **{name: 1e3 * value for name, value in seconds.items()},
        logits=max(float(jnp.abs(logits - other).max()) for (_, other), _ in static),
        gradients=max(relative_difference(gradients, other) for _, other in static),
    )


def relative_difference(gradients: WeightArrays, reference: WeightArrays) -> float:
    """Largest difference within a group over the group's largest reference value.

    Biases that a normalisation follows have no gradient but rounding, hence the least value to divide by.
    """
    largest = {name: float(np.abs(array).max()) for name, array in reference.items()}
    least = SMALLEST_SHARE * max(largest.values())
    differences = {name: float(jnp.abs(gradients[name] - reference[name]).max()) for name in reference}
    return max(differences[name] / max(largest[name], least) for name in reference)


# ------------------------------------------------------------------------------------------------------ compilations


def count_compilations(architectures: int, seed: int) -> dict[str, int]:
    """Compilations of `train.loop.train`, data, checkpoints and all, by the name of the program."""
    names: collections.Counter[str] = collections.Counter()

    def listen(event: str, duration_secs: float, **details: str | int) -> None:
        if event == COMPILE_EVENT:
            names[str(details.get("fun_name", "unnamed"))] += 1

    config = TrainConfig(
        space=SpaceConfig(channels=2),
        data=DataConfig(image_size=7),
        ghn=GHNConfig(width=8, message_width=4, hidden=8, tile=8),
        steps=architectures,  # one architecture a step
        batch=16,
        seed=seed,
    )
    jax.monitoring.register_event_duration_secs_listener(listen)
    with tempfile.TemporaryDirectory() as folder:
        train(config, Path(folder) / "run")
    return dict(names)


def main(config: Config) -> None:
    """Runs the benchmark."""
    space = NASBench201(channels=config.channels, cells=config.cells, input_shape=(16, 16, 1), classes=10)
    executor, data, rows = executor_step(space), images_16(config), []
    with common.progress() as progress:
        cells = sample_connected(space, config.architectures, config.seed)
        for cell in progress.track(cells, description="executor against static programs"):
            rows.append(compare(config, space, executor, cell, data))
        counts = {}
        for count in progress.track((2, 200), description="compilations of training runs"):
            counts[count] = common.in_fresh_process(count_compilations, count, config.seed)
    report(config, rows, counts)


def report(config: Config, rows: list[Comparison], counts: dict[int, dict[str, int]]) -> None:
    """Writes the results."""
    ratio = statistics.median(row.ratio for row in rows)
    compilations = {str(count): sum(names.values()) for count, names in counts.items()}
    speed = {
        "ratio": round(ratio, 4),
        "max_abs_difference": max(row.logits for row in rows),
        "max_relative_gradient_difference": max(row.gradients for row in rows),
        "executor_ms": round(statistics.median(row.executor for row in rows), 3),
        "static_ms": round(statistics.median(min(row.plain, row.canonical) for row in rows), 3),
        "architectures": [dataclasses.asdict(row) | {"ratio": row.ratio} for row in rows],
    }
    names = {str(count): names for count, names in counts.items()}
    results = {"nasbench201": speed, "compilations": compilations, "compiled_programs": names}
    header = ("architecture", "executor ms", "plain ms", "canonical ms", "ratio", "logits differ", "gradients differ")
    cells = [
        (
            f"`{row.architecture.replace('|', '/')}`",
            *(f"{ms:.2f}" for ms in (row.executor, row.plain, row.canonical)),
            *(f"{row.ratio:.3f}", f"{row.logits:.1e}", f"{row.gradients:.1e}"),
        )
        for row in rows
    ]
    notes = [
        f"Executor over the faster static program, median over {len(rows)} architectures: **{ratio:.3f}** "
        f"(forward and backward, {config.channels} channels, 16x16, batch {config.batch}).",
        f"Largest difference of logits {speed['max_abs_difference']:.1e} (absolute), of gradients "
        f"{speed['max_relative_gradient_difference']:.1e} (relative to the largest of their group).",
        f"Compilations of a whole training run: {compilations['2']} for 2 architectures, "
        f"{compilations['200']} for 200.",
    ]
    common.finish("executor", results, header, cells, notes, config.seed, config.out)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
