"""How many candidates a second does the evaluator score, and how much of the time is not the networks' own arithmetic?

    python benchmarks/scoring.py

Own arithmetic is the forward passes of the scored networks on the scored images, run by the executor on weights that
lie ready. Everything else is counted as overhead: building graphs, their transfer, generating the weights, losses and
temperatures, gathering the scores. Arms take turns in one process. The last arm is the plain program of each network,
compiled for it alone (compilation not counted): what the executor itself costs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from common import console, finish, interleaved, medians

import ghn
from architectures.layers import Layers
from eval.scoring import CHUNK, ScoreConfig, Scorer
from ghn import Hypernetwork
from ghn.features import stack_inputs
from train.data import DataConfig, load


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run."""

    checkpoint: str = "demo"  # a hypernetwork trained on the images in the package
    candidates: int = 64  # architectures, a multiple of 16
    images: int = 1000  # of each of the two splits
    static: int = 6  # architectures that are also compiled one by one
    repeats: int = 5  # timed rounds
    quick: bool = False  # 16 candidates, 2 compiled one by one, 3 rounds
    out: Path = Path("benchmarks/results")  # results


def main(options: Options) -> None:
    """Times the arms, prints the shares."""
    if options.quick:
        options = dataclasses.replace(options, candidates=CHUNK, static=2, repeats=3)
    hypernetwork, splits = ghn.load(options.checkpoint), load(DataConfig())
    space = hypernetwork.space
    architectures = [space.sample(seed) for seed in range(options.candidates)]
    images = [jnp.asarray(split.images[: options.images]) for split in (splits.train, splits.score)]
    scorer = Scorer(hypernetwork, splits.train, splits.score, ScoreConfig(options.images))
    weights = jax.block_until_ready([hypernetwork(space.graph(a)).arrays for a in architectures])
    arms = {
        "scoring": lambda: scorer(architectures),
        "own arithmetic": _executor(hypernetwork, architectures, weights, images),
    }
    seconds = medians(interleaved(arms, options.repeats))
    some = slice(0, options.static)
    few = medians(
        interleaved(
            {
                "executor": _executor(hypernetwork, architectures[some], weights[some], images),
                "plain": _plain(hypernetwork, architectures[some], weights[some], images),
            },
            options.repeats,
        )
    )
    share = 1 - seconds["own arithmetic"] / seconds["scoring"]
    results = {
        "candidates": options.candidates,
        "candidates_per_second": options.candidates / seconds["scoring"],
        "seconds_per_candidate": seconds["scoring"] / options.candidates,
        "own_arithmetic_seconds_per_candidate": seconds["own arithmetic"] / options.candidates,
        "share_outside_own_arithmetic": share,
        "executor_over_plain": few["executor"] / few["plain"],
    }
    rows = [
        ["scoring, candidates a second", f"{results['candidates_per_second']:.2f}"],
        ["scoring, s a candidate", f"{results['seconds_per_candidate']:.4f}"],
        ["own arithmetic, s a candidate", f"{results['own_arithmetic_seconds_per_candidate']:.4f}"],
        ["share outside own arithmetic", f"{share:.1%}"],
        ["executor over plain program", f"{results['executor_over_plain']:.2f}"],
    ]
    notes = [
        f"{options.candidates} random architectures of {space.describe()}, {options.images} images of each of two "
        f"splits; medians over {options.repeats} rounds. Target: a share under 15%."
    ]
    console.print(f"{options.static} architectures were also compiled one by one")
    finish("scoring", results, ["", ""], rows, notes, 0, options.out)


def _executor(
    hypernetwork: Hypernetwork, architectures: Sequence[Any], weights: Sequence[Any], images: Sequence[jax.Array]
) -> Any:
    """A function that runs all forward passes in the executor, in one program."""
    space = hypernetwork.space
    encodings = stack_inputs([space.encode(architecture) for architecture in architectures])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *weights)

    @jax.jit
    def run(stacked: Any, encodings: Any) -> Any:
        def one(pair: Any) -> list[jax.Array]:
            return [space.forward(*pair, x, Layers())[0].sum() for x in images]

        return jax.lax.map(one, (stacked, encodings))

    return lambda: run(stacked, encodings)


def _plain(
    hypernetwork: Hypernetwork, architectures: Sequence[Any], weights: Sequence[Any], images: Sequence[jax.Array]
) -> Any:
    """A function that runs the same forward passes, each network by its own program."""
    space = hypernetwork.space
    programs = [
        jax.jit(lambda arrays, x, own=architecture: space.forward_static(arrays, own, x, Layers()).sum())
        for architecture in architectures
    ]
    return lambda: [
        np.asarray(program(arrays, x)) for program, arrays in zip(programs, weights, strict=True) for x in images
    ]


if __name__ == "__main__":
    main(tyro.cli(Options))
