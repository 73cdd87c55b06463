"""What does the hypernetwork add to the cost of a training step?

    python benchmarks/train_step.py [--quick] [--out benchmarks/results]

At the demo's size (the defaults of `TrainConfig`, embedded data) and for 1 and 4 architectures a step: steps a second
of the jitted `train_step`; the time of its part that a weight-sharing supernet would need as well (the executor's
forward and backward pass, given weights) and hence the hypernetwork's share of a step; peak memory of a process that
does nothing but train. Expected on two CPU cores: about 4 minutes; share at most 0.30.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import jax
import jax.numpy as jnp
import tyro
from flax import nnx
from jax import Array

from architectures.layout import WeightArrays
from ghn.api import Hypernetwork, Parameters
from ghn.features import GraphInputs
from train.batches import BatchStream
from train.config import TrainConfig
from train.data import load
from train.loop import make_hypernetwork
from train.optimizer import make_optimizer
from train.step import Batch, evaluate_weights, init_state, train_step

META_BATCHES = (1, 4)


@dataclasses.dataclass(frozen=True)
class Config:
    """What is measured."""

    quick: bool = False  # fewer passes
    out: Path = Path("benchmarks/results")  # folder for the results
    seed: int = 0  # of the run whose steps are timed
    architectures: int = 48  # random ones in a pass, the same in every pass and for all parts; a multiple of 4

    @property
    def passes(self) -> int:
        """Timed passes over the batches."""
        return 3 if self.quick else 15


def supernet_part(hypernetwork: Hypernetwork) -> Callable[[WeightArrays, Batch], tuple[Array, WeightArrays]]:
    """Jitted loss and gradients by given weights: what is left of a step without a hypernetwork."""

    def loss_fn(weights_A: WeightArrays, batch: Batch) -> Array:
        return evaluate_weights(hypernetwork.space, weights_A, batch.encodings, batch.images, batch.labels)[0].mean()

    return jax.jit(jax.value_and_grad(loss_fn))


def hypernetwork_part(hypernetwork: Hypernetwork) -> Callable[[Parameters, GraphInputs, WeightArrays], Parameters]:
    """Jitted generation of weights and its backward pass, given the gradients by the weights."""

    def pull_back(parameters: Parameters, graphs: GraphInputs, gradients_A: WeightArrays) -> tuple[Any, Parameters]:
        def generate(parameters: Parameters) -> WeightArrays:
            return jax.vmap(nnx.merge(hypernetwork.definition, parameters))(graphs)

        weights_A, backward = jax.vjp(generate, parameters)
        return weights_A, backward(gradients_A)[0]

    return jax.jit(pull_back)


def measure(meta_batch: int, config: Config) -> dict[str, float]:
    """All figures for one size of the meta-batch; to be called in a fresh process."""
    run = TrainConfig(meta_batch=meta_batch, seed=config.seed)
    splits = load(run.data)
    hypernetwork, optimizer = make_hypernetwork(run, splits), make_optimizer(run.optimizer, run.steps)
    stream = BatchStream(run, hypernetwork, splits.train)
    batches = [stream[step] for step in range(config.architectures // meta_batch)]
    step_fn = jax.jit(functools.partial(train_step, hypernetwork.definition, optimizer))
    state = init_state(hypernetwork, optimizer)

    def steps() -> Any:
        nonlocal state
        for batch in batches:  # waits only at the end of a pass, as the training loop does
            state, metrics = step_fn(state, batch)
        return metrics

    jax.block_until_ready(steps())
    peak = common.peak_mb()  # before anything that training does not need is compiled
    parts = {"step": steps, **given_weights(hypernetwork, batches)}
    return figures(common.interleaved(parts, config.passes), len(batches)) | {"peak_mb": round(peak, 1)}


def given_weights(hypernetwork: Hypernetwork, batches: list[Batch]) -> dict[str, Callable[[], Any]]:
    """Passes over the batches by the two parts alone."""
    generate = jax.jit(jax.vmap(nnx.merge(hypernetwork.definition, hypernetwork.parameters)))
    weights = [jax.tree.map(jnp.asarray, generate(batch.graphs)) for batch in batches]
    supernet, generation = supernet_part(hypernetwork), hypernetwork_part(hypernetwork)
    gradients = supernet(weights[0], batches[0])[1]

    def supernet_pass() -> Any:
        return [supernet(weights_A, batch) for weights_A, batch in zip(weights, batches, strict=True)]

    def generation_pass() -> Any:
        return [generation(hypernetwork.parameters, batch.graphs, gradients) for batch in batches]

    return {"supernet": supernet_pass, "generation": generation_pass}


def figures(seconds: dict[str, list[float]], batches: int) -> dict[str, float]:
    """Times of a step and its parts in ms, and the share, from the seconds of interleaved passes."""
    ms = {name: 1e3 * value / batches for name, value in common.medians(seconds).items()}
    shares = [1 - part / step for step, part in zip(seconds["step"], seconds["supernet"], strict=True)]
    return {
        "steps_per_s": round(1e3 / ms["step"], 2),
        "hypernetwork_share": round(1 - ms["supernet"] / ms["step"], 4),
        "hypernetwork_share_low": round(min(shares), 4),
        "hypernetwork_share_high": round(max(shares), 4),
        "step_ms": round(ms["step"], 3),
        "supernet_ms": round(ms["supernet"], 3),
        "generation_ms": round(ms["generation"], 3),
        "rest_ms": round(ms["step"] - ms["supernet"] - ms["generation"], 3),
    }


def main(config: Config) -> None:
    """Runs the benchmark."""
    with common.progress() as progress:
        sizes = progress.track(META_BATCHES, description="architectures a step")
        results: dict[str, Any] = {f"m{size}": common.in_fresh_process(measure, size, config) for size in sizes}
    header = ("architectures a step", "steps/s", "step ms", "supernet part ms", "generation ms", "rest ms")
    rows = [
        (
            *(name.removeprefix("m"), f"{values['steps_per_s']:.1f}"),
            *(f"{values[key]:.2f}" for key in ("step_ms", "supernet_ms", "generation_ms", "rest_ms")),
            *(f"{values['hypernetwork_share']:.1%}", f"{values['peak_mb']:,.0f}"),
        )
        for name, values in results.items()
    ]
    spread = statistics.mean(v["hypernetwork_share_high"] - v["hypernetwork_share_low"] for v in results.values())
    notes = [
        f"Medians over {config.passes} passes over {config.architectures} random architectures; step and parts "
        "take turns, pass by pass.",
        "Supernet part: forward and backward pass of the networks, given their weights. Generation: weights from "
        "graphs and the backward pass through that. Rest: optimiser and everything else. The hypernetwork's share is "
        f"all but the supernet part; over single passes it spreads by {spread:.1%} on average.",
        "Peak memory: resident, of a process that trains and does nothing else, compilation included.",
    ]
    common.finish(
        "train_step", results, (*header, "hypernetwork's share", "peak MB"), rows, notes, config.seed, config.out
    )


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
