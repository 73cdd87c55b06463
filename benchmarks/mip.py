"""Does the magnitude-invariant parametrisation (MIP) make a hypernetwork learn in fewer steps?

    python benchmarks/mip.py [--quick] [--out benchmarks/results]

Encoding x residual, each on or off, under SGD with momentum and under Adam: steps until the mean training loss of the
last 50 steps (each with a new random architecture) falls to fixed values, and the coefficient of variation of the
gradient norm after the warm-up. Every arm has its own learning rate from one grid, chosen by seed 0; where the best
lies at the grid's edge for any arm, the grid grows for all of them. All arms of a seed see the same images and the same
architectures.
Expected on two CPU cores: about 15 minutes. Hoped for: MIP in at most 1 / 1.5 of the steps of "neither" under SGD; not
found (docs/training.md, "What the magnitude-invariant parametrisation does here").

Finished runs are kept in OUT/.mip_runs, so that an interrupted benchmark goes on where it stopped as long as the
packages' code is the same; `--fresh` ignores them.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import common
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jax import Array
from numpy.typing import NDArray
from rich.progress import Progress

from ghn.api import Hypernetwork
from ghn.config import GHNConfig
from train.batches import BatchStream
from train.config import SpaceConfig, TrainConfig
from train.data import Splits, load
from train.loop import make_hypernetwork
from train.step import Batch, TrainState, init_state, train_step

ARMS: dict[str, GHNConfig] = {
    "neither": GHNConfig(encoding="raw", residual=False, normalise=False),
    "encoding": GHNConfig(encoding="mip", residual=False, normalise=False),
    "residual": GHNConfig(encoding="raw", residual=True, normalise=False),
    "mip": GHNConfig(encoding="mip", residual=True, normalise=False),
}
OPTIMIZERS = ("sgd", "adam")
GRIDS = {"sgd": (-3, -2, -1, 0), "adam": (-6, -5, -4, -3)}  # learning rate sqrt(10) ** exponent
MOST_EXTENSIONS = 3  # of a grid, on each side
WINDOW = 50  # steps that the loss is averaged over
CHUNK = 50  # steps in one compiled call
MOMENTUM = 0.9
VERSION = 1  # raise it when finished runs are no longer what this file would compute


@dataclasses.dataclass(frozen=True)
class Config:
    """What is compared."""

    quick: bool = False  # one seed, few steps, a grid of two rates that does not grow
    fresh: bool = False  # ignore finished runs
    out: Path = Path("benchmarks/results")  # folder for the results
    seeds: int = 3  # initialisations and streams of batches
    steps: int = 800  # of every run
    warmup: int = 50  # steps of linear warm-up, then the rate is constant
    targets: tuple[float, ...] = (1.0, 1.2, 0.9)  # losses in nats; the first is the primary one
    clip: float = math.inf  # gradient norm; infinite: no clipping
    channels: int = 4  # of the first stage
    batch: int = 64  # images a step


# --------------------------------------------------------------------------------------------------------- optimiser


class Settings(NamedTuple):
    """What differs between runs of one arm: data, so that one compiled program serves them all."""

    learning_rate: NDArray[np.float32]
    adam: NDArray[np.bool_]  # Adam, or SGD with momentum
    clip: NDArray[np.float32]


class OptimizerState(NamedTuple):
    """State of `make_optimizer`."""

    settings: Settings
    step: Array
    adam: Any
    momentum: Any


def make_optimizer(warmup: int) -> optax.GradientTransformation:
    """Adam or SGD with momentum, as the settings in its state say; linear warm-up, then a constant rate."""
    adam, momentum = optax.scale_by_adam(), optax.trace(MOMENTUM)

    def init(parameters: Any) -> OptimizerState:
        settings = Settings(np.zeros((), np.float32), np.zeros((), np.bool_), np.zeros((), np.float32))
        return OptimizerState(settings, jnp.zeros((), jnp.int32), adam.init(parameters), momentum.init(parameters))

    def update(grads: Any, state: OptimizerState, parameters: Any = None) -> tuple[Any, OptimizerState]:
        settings, step = state.settings, state.step + 1
        shrink = jnp.minimum(1.0, settings.clip / optax.tree.norm(grads))
        grads = jax.tree.map(lambda g: g * shrink, grads)
        by_adam, adam_state = adam.update(grads, state.adam)
        by_momentum, momentum_state = momentum.update(grads, state.momentum)
        scale = -settings.learning_rate * jnp.minimum(1.0, step / warmup)
        updates = jax.tree.map(lambda a, m: scale * jnp.where(settings.adam, a, m), by_adam, by_momentum)
        return updates, OptimizerState(settings, step, adam_state, momentum_state)

    return optax.GradientTransformation(init, update)


# -------------------------------------------------------------------------------------------------------------- runs


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished or stopped run: losses in nats and gradient norms, one a step."""

    losses: tuple[float, ...]
    norms: tuple[float, ...]

    @functools.cached_property
    def smooth(self) -> NDArray[np.float64]:
        """Mean loss of the last WINDOW steps, from step WINDOW on."""
        sums = np.concatenate([[0.0], np.cumsum(self.losses)])
        return np.asarray((sums[WINDOW:] - sums[:-WINDOW]) / WINDOW, np.float64)

    def steps_to(self, target: float) -> int | None:
        """The first step whose mean loss is at most `target`; None where it is never reached."""
        below = np.flatnonzero(self.smooth <= target)
        return int(below[0]) + WINDOW if len(below) else None

    def gradient_cv(self, warmup: int) -> float | None:
        """Standard deviation over mean of the gradient norm after the warm-up; None where it stopped being finite."""
        norms = np.array(self.norms[warmup:])
        return float(norms.std() / norms.mean()) if np.isfinite(norms).all() and len(norms) else None


class Trainer:
    """Trains one arm; one compilation for all learning rates, optimisers and seeds."""

    def __init__(self, arm: str, config: Config, splits: Splits) -> None:
        self._arm, self._config, self._splits = arm, config, splits
        optimizer = make_optimizer(config.warmup)
        self._optimizer = optimizer
        definition = self.hypernetwork(0).definition

        def chunk(state: TrainState, batches: Batch) -> tuple[TrainState, tuple[Array, Array]]:
            def step(state: TrainState, batch: Batch) -> tuple[TrainState, tuple[Array, Array]]:
                state, metrics = train_step(definition, optimizer, state, batch)
                return state, (metrics["loss"], metrics["gradient_norm"])

            return jax.lax.scan(step, state, batches)

        self._chunk = jax.jit(chunk)

    @functools.cache  # noqa: B019 (lives as long as the benchmark)
    def hypernetwork(self, seed: int) -> Hypernetwork:
        """The untrained hypernetwork of a seed."""
        return make_hypernetwork(run_config(self._config, self._arm, seed), self._splits)

    def run(self, settings: Settings, seed: int, chunks: Sequence[Batch], stop: Callable[[Run], bool]) -> Run:
        """Trains over the chunks until `stop`."""
        state = init_state(self.hypernetwork(seed), self._optimizer)
        state = state._replace(optimizer_state=state.optimizer_state._replace(settings=settings))
        run = Run((), ())
        for batches in chunks:
            state, (losses, norms) = self._chunk(state, batches)
            run = Run((*run.losses, *np.asarray(losses).tolist()), (*run.norms, *np.asarray(norms).tolist()))
            if stop(run):
                break
        return run


def run_config(config: Config, arm: str, seed: int) -> TrainConfig:
    """The arm as a training run."""
    return TrainConfig(
        space=SpaceConfig(channels=config.channels), ghn=ARMS[arm], steps=config.steps, batch=config.batch, seed=seed
    )


class Runs:
    """All runs, on demand; those that are finished are read from their files."""

    def __init__(self, config: Config, progress: Progress) -> None:
        self._config, self._progress = config, progress
        self._splits = load(TrainConfig().data)
        self._task = progress.add_task("starting", total=None)
        self._folder = config.out / ".mip_runs"
        self._computed: set[Path] = set()

    def __call__(self, arm: str, optimizer: str, exponent: int, seed: int, limit: int | None = None) -> Run:
        """One run; with `limit`, it may be stopped once it reached the primary loss or that many steps."""
        rate = rate_of(exponent)
        self._progress.update(self._task, description=f"{optimizer} {arm}, rate {rate:.2g}, seed {seed}", advance=1)

        def enough(run: Run) -> bool:
            steps, primary = len(run.losses), self._config.targets[0]
            complete = steps == self._config.steps or not math.isfinite(run.losses[-1])
            return complete or (limit is not None and (steps >= limit or run.steps_to(primary) is not None))

        path = self._folder / f"{self._key(arm, optimizer, exponent, seed)}.json"
        if path in self._computed or (path.exists() and not self._config.fresh):
            stored = Run(*map(tuple, json.loads(path.read_text())))
            if enough(stored):
                return stored
        settings = Settings(
            np.asarray(rate, np.float32), np.asarray(optimizer == "adam"), np.asarray(self._config.clip, np.float32)
        )
        run = self._trainer(arm).run(settings, seed, self._chunks(seed), enough)
        self._folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([run.losses, run.norms]))
        self._computed.add(path)
        return run

    def _key(self, arm: str, *parts: Any) -> str:
        """Everything that decides the result of a run, the packages' code included."""
        fields = ("warmup", "targets", "clip", "channels", "batch", "steps")
        settings = [getattr(self._config, field) for field in fields]
        code = common.code_digest("architectures", "ghn", "train")
        everything = [VERSION, code, settings, arm, dataclasses.asdict(ARMS[arm]), parts]
        return hashlib.sha256(json.dumps(everything).encode()).hexdigest()[:16]

    @functools.cache  # noqa: B019
    def _trainer(self, arm: str) -> Trainer:
        return Trainer(arm, self._config, self._splits)

    @functools.cache  # noqa: B019
    def _chunks(self, seed: int) -> list[Batch]:
        """The batches of a seed, the same for all arms, stacked by chunks [K, ...]."""
        run = run_config(self._config, "mip", seed)
        stream = BatchStream(run, make_hypernetwork(run, self._splits), self._splits.train)
        starts = range(0, self._config.steps, CHUNK)
        return [jax.tree.map(lambda *x: np.stack(x), *stream.iterate(start, start + CHUNK)) for start in starts]


def rate_of(exponent: int) -> float:
    """The learning rate of a grid point."""
    return float(10.0 ** (exponent / 2))


# ------------------------------------------------------------------------------------------------------------ tuning


class Tuned(NamedTuple):
    """The tuning of one arm: its best grid point, and steps to the primary loss (None: not reached, or too late)."""

    best: int
    tried: dict[int, int | None]


def tune(runs: Runs, config: Config, arm: str, optimizer: str, grid: Sequence[int]) -> Tuned:
    """The grid point that reaches the primary loss first with seed 0, or failing that the one with the lowest loss.

    A run is stopped as soon as it cannot be the first any more, so a None says "not before the best".
    """
    primary, limit = config.targets[0], config.steps
    tried: dict[int, int | None] = {}
    order: dict[int, tuple[float, float]] = {}  # what is least for the best
    for exponent in sorted(grid, key=lambda e: abs(e - statistics.median(grid))):  # the middle is likely to be good
        run = runs(arm, optimizer, exponent, 0, limit)
        steps = tried[exponent] = run.steps_to(primary)
        last = run.smooth[-1] if len(run.smooth) and math.isfinite(run.smooth[-1]) else math.inf
        order[exponent] = (math.inf if steps is None else steps, float(last))
        limit = limit if steps is None else min(limit, steps)
    return Tuned(min(order, key=lambda e: order[e]), dict(sorted(tried.items())))


def tune_all(runs: Runs, config: Config, optimizer: str) -> dict[str, Tuned]:
    """All arms on one grid, which grows for all of them while the best of any lies at its edge."""
    grid = list(GRIDS[optimizer])
    if config.quick:
        grid = grid[1:3]
    first, last = grid[0], grid[-1]
    while True:
        tuned = {arm: tune(runs, config, arm, optimizer, grid) for arm in ARMS}
        best = {result.best for result in tuned.values()}
        low = grid[0] in best and first - grid[0] < MOST_EXTENSIONS
        high = grid[-1] in best and grid[-1] - last < MOST_EXTENSIONS
        if config.quick or not (low or high):
            return tuned
        grid = [grid[0] - 1] * low + grid + [grid[-1] + 1] * high


# ------------------------------------------------------------------------------------------------------------ report


def median_steps(steps: Sequence[int | None]) -> float | None:
    """The median, where "never" is later than any step."""
    middle = statistics.median(math.inf if step is None else step for step in steps)
    return middle if math.isfinite(middle) else None


def summarise(config: Config, tuned: Tuned, finished: Sequence[Run]) -> dict[str, Any]:
    """The figures of one arm under one optimiser."""
    by_target = {str(target): [run.steps_to(target) for run in finished] for target in config.targets}
    variation = [run.gradient_cv(config.warmup) for run in finished]
    finite = [value for value in variation if value is not None]
    return {
        "learning_rate": rate_of(tuned.best),
        "at_edge": tuned.best in (min(tuned.tried), max(tuned.tried)),
        "tuning": {f"{rate_of(exponent):.3g}": steps for exponent, steps in tuned.tried.items()},
        "steps": {target: median_steps(steps) for target, steps in by_target.items()},
        "steps_by_seed": by_target,
        "gradient_cv": round(statistics.median(finite), 4) if len(finite) == len(variation) else None,
        "gradient_cv_by_seed": variation,
        "diverged": [len(run.losses) < config.steps or not math.isfinite(run.losses[-1]) for run in finished],
        "curves": [[round(float(x), 4) for x in run.smooth[::CHUNK]] for run in finished],
    }


def main(config: Config) -> None:
    """Runs the benchmark."""
    if config.quick:
        config = dataclasses.replace(config, seeds=1, steps=min(config.steps, 200))
    if config.steps % CHUNK:
        raise SystemExit(f"--steps {config.steps}: give a multiple of {CHUNK}")
    details: dict[str, dict[str, Any]] = {}
    with common.progress() as progress:
        runs = Runs(config, progress)
        for optimizer in OPTIMIZERS:
            tuned = tune_all(runs, config, optimizer)
            details[optimizer] = {
                arm: summarise(
                    config, tuned[arm], [runs(arm, optimizer, tuned[arm].best, seed) for seed in range(config.seeds)]
                )
                for arm in ARMS
            }
    report(config, details)


def report(config: Config, details: dict[str, dict[str, Any]]) -> None:
    """Writes the results."""
    primary = str(config.targets[0])
    results: dict[str, Any] = {
        optimizer: {arm: values["steps"][primary] for arm, values in arms.items()}
        for optimizer, arms in details.items()
    }
    results["gradient_cv"] = {arm: values["gradient_cv"] for arm, values in details["sgd"].items()}
    results["gradient_cv_adam"] = {arm: values["gradient_cv"] for arm, values in details["adam"].items()}
    speedup = {name: _ratio(results[name]["neither"], results[name]["mip"], config.steps) for name in OPTIMIZERS}
    results |= {"primary_loss": config.targets[0], "steps": config.steps, "neither_over_mip": speedup}
    results["details"] = details
    targets = (f"steps to {target:g}" for target in config.targets)
    header = ("optimiser", "arm", "rate", "at edge", *targets, "by seed", "gradient CV")
    rows = [
        (
            *(optimizer, arm, f"{values['learning_rate']:.3g}", "yes" if values["at_edge"] else "no"),
            *map(_shown, values["steps"].values()),
            *(", ".join(map(_shown, values["steps_by_seed"][primary])), _shown(values["gradient_cv"], ".2f")),
        )
        for optimizer, arms in details.items()
        for arm, values in arms.items()
    ]
    common.finish("mip", results, header, rows, _notes(config, details, speedup), list(range(config.seeds)), config.out)


def _notes(config: Config, details: dict[str, dict[str, Any]], speedup: dict[str, str]) -> list[str]:
    grids = {name: ", ".join(arms["mip"]["tuning"]) for name, arms in details.items()}
    return [
        f"Median steps over {config.seeds} seeds until the mean loss of the last {WINDOW} steps is at most the target "
        f"(primary: {config.targets[0]:g} nats); a dash: not within {config.steps} steps.",
        f"Neither over MIP, steps to {config.targets[0]:g}: SGD {speedup['sgd']}, Adam {speedup['adam']}.",
        f"Grids, the same for all arms: SGD (momentum {MOMENTUM}) {grids['sgd']}; Adam {grids['adam']}. "
        f"Linear warm-up over {config.warmup} steps, then constant; clipping at {config.clip:g}; no weight decay.",
        "Gradient CV: standard deviation over mean of the gradient norm (before clipping) over the steps after the "
        "warm-up, median over seeds.",
    ]


def _ratio(slow: float | None, fast: float | None, steps: int) -> str:
    if fast is None:
        return "not known (MIP did not get there)"
    return f"{slow / fast:.2f}" if slow is not None else f"more than {steps / fast:.2f}"


def _shown(value: float | None, form: str = "g") -> str:
    return "-" if value is None else format(value, form)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
