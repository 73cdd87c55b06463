"""Does running every architecture under one compilation cost speed?

    python benchmarks/executor.py [--quick] [--out benchmarks/results]

Forward and backward pass of NAS-Bench-201 and of SMASH networks by the compile-once executor, against a program
compiled for each architecture alone (the faster of plain and canonical convolution gradients, at the same padded
width); the difference of what they compute; for SMASH, what padding costs: that program against one in the
architecture's own widths; and the number of compilations of a whole training run over 2 and over 200 architectures.
Expected on two CPU cores: about 8 minutes; ratios at most 1.25, differences at most 1e-5, as many compilations for 200
as for 2.
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
from architectures.spaces import SMASH, NASBench201, SearchSpace
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
    tight: float | None = None  # the faster static program in the architecture's own widths, where they differ

    @property
    def padding(self) -> float | None:
        """What padding costs: the faster static program over the same in the architecture's own widths."""
        return None if self.tight is None else min(self.plain, self.canonical) / self.tight

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


def executor_step(space: SearchSpace[Any]) -> Step:
    """One program for every architecture, which it takes as its last argument."""
    return value_and_grad(lambda weights, images, encoding: space.forward(weights, encoding, images, Layers())[0])


def static_step(space: SearchSpace[Any], architecture: Any, form: Any) -> Step:
    """A program for `architecture` alone, in the executor's widths."""
    forward = space.forward_padded if isinstance(space, SMASH) else space.forward_static
    return value_and_grad(lambda weights, images: forward(weights, architecture, images, Layers(form)))


def tight_step(space: SMASH, architecture: Any, form: Any) -> Step:
    """A program for `architecture` alone, in its own widths."""
    return value_and_grad(lambda weights, images: space.forward_static(weights, architecture, images, Layers(form)))


def sample_connected(space: SearchSpace[Any], count: int, seed: int) -> list[Any]:
    """Random architectures whose output depends on their input."""
    rng = np.random.default_rng(seed)
    cells: list[Any] = []
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


def ordinary_weights(space: SearchSpace[Any], cell: Any, seed: int) -> WeightArrays:
    """He-initialised weights."""
    variants = {
        name: jnp.asarray(filled.variant) for name, filled in occupancy(space.layout, space.graph(cell)).items()
    }
    return initialise(space.layout, jax.random.key(seed), variants)


def compare(
    config: Config, space: SearchSpace[Any], executor: Step, cell: Any, data: tuple[Array, Array]
) -> Comparison:
    """Times and differences on one architecture."""
    weights, encoding = ordinary_weights(space, cell, config.seed), jax.tree.map(jnp.asarray, space.encode(cell))
    arms = {"executor": functools.partial(executor, weights, *data, encoding)}
    arms |= {form: functools.partial(static_step(space, cell, form), weights, *data) for form in FORMS}
    tight = {}
    if isinstance(space, SMASH):
        tight = {f"tight {form}": functools.partial(tight_step(space, cell, form), weights, *data) for form in FORMS}
    seconds = common.medians(common.interleaved({**arms, **tight}, config.repeats, warmup=2))
    (_, logits), gradients = arms["executor"]()
    static = [step() for name, step in {**arms, **tight}.items() if name != "executor"]
    return Comparison(
        space.to_string(cell),
        **{name: 1e3 * seconds[name] for name in arms},
        tight=min(1e3 * seconds[name] for name in tight) if tight else None,
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
    spaces: list[SearchSpace[Any]] = [
        NASBench201(channels=config.channels, cells=config.cells, input_shape=(16, 16, 1), classes=10),
        SMASH(input_shape=(16, 16, 1), classes=10),
    ]
    data = images_16(config)
    rows: dict[str, list[Comparison]] = {}
    with common.progress() as progress:
        for space in spaces:
            executor = executor_step(space)
            sampled = sample_connected(space, config.architectures, config.seed)
            rows[space.name] = [
                compare(config, space, executor, architecture, data)
                for architecture in progress.track(sampled, description=f"{space.name}: executor against static")
            ]
        counts = {}
        for count in progress.track((2, 200), description="compilations of training runs"):
            counts[count] = common.in_fresh_process(count_compilations, count, config.seed)
    report(config, rows, counts)


def summarise(rows: list[Comparison]) -> dict[str, Any]:
    """The figures of one space."""
    summary = {
        "ratio": round(statistics.median(row.ratio for row in rows), 4),
        "max_abs_difference": max(row.logits for row in rows),
        "max_relative_gradient_difference": max(row.gradients for row in rows),
        "executor_ms": round(statistics.median(row.executor for row in rows), 3),
        "static_ms": round(statistics.median(min(row.plain, row.canonical) for row in rows), 3),
        "architectures": [dataclasses.asdict(row) | {"ratio": row.ratio} for row in rows],
    }
    padding = [row.padding for row in rows if row.padding is not None]
    return summary | ({"padding_cost": round(statistics.median(padding), 4)} if padding else {})


def report(config: Config, rows: dict[str, list[Comparison]], counts: dict[int, dict[str, int]]) -> None:
    """Writes the results."""
    compilations = {str(count): sum(names.values()) for count, names in counts.items()}
    summaries = {space: summarise(own) for space, own in rows.items()}
    names = {str(count): names for count, names in counts.items()}
    results = {**summaries, "compilations": compilations, "compiled_programs": names}
    header = (
        *("space", "architecture", "executor ms", "plain ms", "canonical ms", "ratio", "own widths ms"),
        *("logits differ", "gradients differ"),
    )
    cells = [
        (
            space,
            f"`{shortened(row.architecture)}`",
            *(f"{ms:.2f}" for ms in (row.executor, row.plain, row.canonical)),
            f"{row.ratio:.3f}",
            "-" if row.tight is None else f"{row.tight:.2f}",
            *(f"{row.logits:.1e}", f"{row.gradients:.1e}"),
        )
        for space, own in rows.items()
        for row in own
    ]
    notes = [
        f"{space}: executor over the faster static program at the same widths, median over {len(rows[space])} "
        f"architectures: **{summary['ratio']:.3f}** (forward and backward, 16x16, batch {config.batch}). Largest "
        f"difference of logits {summary['max_abs_difference']:.1e} (absolute), of gradients "
        f"{summary['max_relative_gradient_difference']:.1e} (relative to the largest of their group)."
        for space, summary in summaries.items()
    ]
    notes += [
        f"smash: padding costs a factor of {summaries['smash']['padding_cost']:.2f}: the static program in the "
        "executor's widths over that in the architecture's own.",
        f"Compilations of a whole training run: {compilations['2']} for 2 architectures, "
        f"{compilations['200']} for 200.",
    ]
    common.finish("executor", results, header, cells, notes, config.seed, config.out)


def shortened(text: str, most: int = 60) -> str:
    """An architecture's text for a table."""
    text = text.replace("|", "/")
    return text if len(text) <= most else f"{text[: most - 3]}..."


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
