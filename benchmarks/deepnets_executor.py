"""What does one compilation for the whole DeepNets space cost in speed?

    python benchmarks/deepnets_executor.py [--quick] [--out benchmarks/results]

Forward and backward pass of networks of every split by the compile-once executor, against a program compiled for each
network alone in its own widths (the faster of plain and canonical layers): what padding, switches and loops cost
together, and how long both take to compile. Expected on two CPU cores: about 10 minutes, a third with --quick.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from pathlib import Path
from typing import Any

import common
import jax
import jax.numpy as jnp
import tyro
from executor import FORMS, images_16, ordinary_weights, relative_difference, shortened, value_and_grad
from executor import Config as ExecutorConfig
from jax import Array

from architectures.layers import Layers
from architectures.spaces import DeepNets
from architectures.spaces.deepnets_sampling import SPLITS


@dataclasses.dataclass(frozen=True)
class Config:
    """What is measured."""

    quick: bool = False  # one network a split, fewer repeats
    out: Path = Path("benchmarks/results")  # folder for the results
    seed: int = 0  # of networks, weights and images
    batch: int = 64  # images

    @property
    def repeats(self) -> int:
        """Timed rounds of each."""
        return 5 if self.quick else 15


@dataclasses.dataclass(frozen=True)
class Row:
    """One network; times are medians in ms, compilation in seconds."""

    kind: str
    network: str
    executor: float
    static: float
    compilation: float
    logits: float
    gradients: float

    @property
    def ratio(self) -> float:
        """Executor over static."""
        return self.executor / self.static


def networks(config: Config, space: DeepNets) -> list[tuple[str, Any]]:
    """(split or name, network)."""
    count = 1 if config.quick else 3
    drawn = [(split, space.sample_split(split, config.seed + i)) for split in SPLITS for i in range(count)]
    by_hand = space.models()
    names = ("resnet18", "vit") if config.quick else tuple(by_hand)
    return drawn + [(name, by_hand[name]) for name in names]


def compiled(step: Any, *arguments: Any) -> tuple[Any, float]:
    """The program, and seconds of its compilation."""
    start = time.perf_counter()
    program = step.lower(*arguments).compile()
    return program, time.perf_counter() - start


def compare(config: Config, space: DeepNets, executor: Any, kind: str, network: Any, data: tuple[Array, Array]) -> Row:
    """Times and differences on one network."""
    weights, code = ordinary_weights(space, network, config.seed), jax.tree.map(jnp.asarray, space.encode(network))
    arms: dict[str, Any] = {"executor": functools.partial(executor, weights, *data, code)}
    seconds_of_compilation = []
    for form in FORMS:

        def static(weights: Any, images: Array, form: Any = form) -> Array:
            return space.forward_static(weights, network, images, Layers(form))

        program, seconds = compiled(value_and_grad(static), weights, *data)
        seconds_of_compilation.append(seconds)
        arms[form] = functools.partial(program, weights, *data)
    seconds = common.medians(common.interleaved(arms, config.repeats, warmup=2))
    (_, logits), gradients = arms["executor"]()
    others = [arms[form]() for form in FORMS]
    return Row(
        kind,
        space.to_string(network),
        1e3 * seconds["executor"],
        1e3 * min(seconds[form] for form in FORMS),
        min(seconds_of_compilation),
        max(float(jnp.abs(logits - other).max()) for (_, other), _ in others),
        max(relative_difference(gradients, other) for _, other in others),
    )


def main(config: Config) -> None:
    """Runs the benchmark."""
    space = DeepNets(input_shape=(16, 16, 1))
    data = images_16(ExecutorConfig(batch=config.batch))
    every = networks(config, space)
    step = value_and_grad(lambda weights, images, code: space.forward(weights, code, images, Layers())[0])
    first = every[0][1]
    executor, seconds = compiled(step, ordinary_weights(space, first, config.seed), *data, space.encode(first))
    with common.progress() as progress:
        rows = [
            compare(config, space, executor, kind, network, data)
            for kind, network in progress.track(every, description="executor against static")
        ]
    report(config, rows, seconds)


def report(config: Config, rows: list[Row], compilation: float) -> None:
    """Writes the results."""
    results = {
        "ratio": round(statistics.median(row.ratio for row in rows), 3),
        "executor_ms": round(statistics.median(row.executor for row in rows), 2),
        "static_ms": round(statistics.median(row.static for row in rows), 2),
        "executor_compilation_s": round(compilation, 1),
        "static_compilation_s": round(statistics.median(row.compilation for row in rows), 1),
        "compilations": 1,
        "max_abs_difference": max(row.logits for row in rows),
        "max_relative_gradient_difference": max(row.gradients for row in rows),
        "networks": [dataclasses.asdict(row) | {"ratio": row.ratio} for row in rows],
    }
    header = ("split or name", "network", "executor ms", "own program ms", "ratio", "its compilation s")
    cells = [
        (
            row.kind,
            f"`{shortened(row.network, 90)}`",
            f"{row.executor:.1f}",
            f"{row.static:.1f}",
            f"{row.ratio:.2f}",
            f"{row.compilation:.1f}",
        )
        for row in rows
    ]
    notes = [
        f"One compilation ({compilation:.0f} s) for all networks; alone, each takes "
        f"{results['static_compilation_s']} s. "
        f"Forward and backward pass, 16x16, batch {config.batch}: {results['executor_ms']} ms by the executor, "
        f"{results['static_ms']} by a program of its own in its own widths (medians; ratio **{results['ratio']}**).",
        f"Largest difference of logits {results['max_abs_difference']:.1e}, of gradients "
        f"{results['max_relative_gradient_difference']:.1e} (relative to the largest of their group).",
    ]
    common.finish("deepnets_executor", results, header, cells, notes, config.seed, config.out)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
