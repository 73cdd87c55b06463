"""Retraining: what a search found, trained for real, against random architectures of the same parameter band.

The comparison that "NAS evaluation is frustratingly hard" (Yang et al. 2020) asks for: the same space, the same
protocol, several seeds, and a relative improvement over random with its interval.

Shape letters: F found architectures, R random ones, S seeds.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from architectures.spaces import SearchSpace
from eval.metrics import Difference
from eval.search.problem import Problem
from ghn import Hypernetwork
from train.data import DataConfig, Splits
from train.finetune import FinetuneConfig, Finetuner
from train.target import Protocol
from train.target_table import TargetTable

Floats = NDArray[np.float64]
WIDEN = 1.05  # the parameter band goes so far beyond the smallest and the largest found
DRAWS = 20_000  # random architectures looked at for the band


@dataclasses.dataclass(frozen=True)
class Compared:
    """Found against random.

    Attributes:
        found: mean test accuracy, share of 1.
        random: the same.
        difference: paired, with its interval.
        relative_improvement: 100 (found - random) / random, with its interval.
    """

    found: float
    random: float
    difference: Difference
    relative_improvement: Difference

    @property
    def verdict(self) -> str:
        """One sentence."""
        own = self.relative_improvement
        claim = "better than" if own.low > 0 else "worse than" if own.high < 0 else "not reliably different from"
        return (
            f"Trained from scratch, what was found reaches {100 * self.found:.2f}%, random architectures of the same "
            f"parameter band {100 * self.random:.2f}%: relative improvement {own.value:.2f}% [{own.low:.2f}, "
            f"{own.high:.2f}], {claim} random."
        )


def random_band(problem: Problem, found: Sequence[Any], count: int, seed: int = 0) -> list[Any]:
    """`count` random classes, not among the found, whose parameter counts lie within those of the found, 5% beyond.

    Raises:
        ValueError: the band holds fewer.
    """
    sizes = [problem.costs(a).parameters for a in found]
    low, high = min(sizes) / WIDEN, max(sizes) * WIDEN
    taken, chosen = {problem.key(a) for a in found}, dict[str, Any]()
    rng = np.random.default_rng(seed)
    for _ in range(DRAWS):
        architecture = problem.sample(rng)
        key = problem.key(architecture)
        if key not in taken and key not in chosen and low <= problem.costs(architecture).parameters <= high:
            chosen[key] = architecture
        if len(chosen) == count:
            return list(chosen.values())
    raise ValueError(
        f"random={count}: only {len(chosen)} classes of {low:,.0f} to {high:,.0f} parameters were found in {DRAWS:,} "
        "draws; ask for fewer, or retrain more of the search's best"
    )


def pairs(problem: Problem, found: Sequence[Any], random: Sequence[Any]) -> list[list[int]]:
    """For every found architecture, in their order, the random ones (rows) that it is compared with: each random one
    goes to the nearest in parameters that has room, and groups differ in size by one at most.

    Raises:
        ValueError: fewer random ones than found, so that some would have none.
    """
    check_partners(len(random), len(found))
    least, larger = divmod(len(random), len(found))  # so many groups get one more
    groups: list[list[int]] = [[] for _ in found]
    placed: set[int] = set()
    sizes = np.array([problem.costs(a).parameters for a in found])
    own = np.array([problem.costs(a).parameters for a in random])
    gaps = np.abs(np.log(own[:, None]) - np.log(sizes[None]))
    for flat in np.argsort(gaps, axis=None, kind="stable"):
        row, group = divmod(int(flat), len(found))
        held = len(groups[group])
        if row in placed or held > least or (held == least and larger == 0):
            continue
        larger -= held == least
        groups[group].append(row)
        placed.add(row)
    return groups


def check_partners(random: int, found: int) -> None:
    """Refuses a number of random architectures that leaves some of the found ones without any.

    Raises:
        ValueError: names the option and the least that it can be.
    """
    if random < found:
        raise ValueError(
            f"random={random}: each of the {found} architectures is compared with random ones of its own; ask for at "
            f"least {found}, or for 0 to compare none"
        )


def compare(found_FS: Floats, random_RS: Floats, groups: Sequence[Sequence[int]], resamples: int = 2000) -> Compared:
    """Paired by parameter count and by seed; an interval over found architectures, their random partners and seeds.

    A resample draws found architectures, for each of them as many of its partners as it has, and seeds, all with
    replacement.

    Args:
        found_FS: test accuracies.
        random_RS: the same.
        groups: for each found architecture its partners' rows (`pairs`), none without any.
        resamples: of the interval.

    Raises:
        ValueError: not one group for each found architecture, or an empty one.
    """
    if len(groups) != len(found_FS) or not all(groups):
        raise ValueError(f"groups={groups}: give partners for each of the {len(found_FS)} found architectures")
    rng = np.random.default_rng(0)
    seeds = found_FS.shape[1]

    def values(rows: Any, partners: Sequence[Any], columns: Any) -> tuple[float, float]:
        found = float(found_FS[np.ix_(rows, columns)].mean())
        return found, float(np.mean([random_RS[np.ix_(own, columns)].mean() for own in partners]))

    whole = values(range(len(groups)), groups, range(seeds))
    drawn = []
    for _ in range(resamples):
        rows = rng.integers(len(groups), size=len(groups))
        partners = [rng.choice(groups[row], len(groups[row])) for row in rows]
        drawn.append(values(rows, partners, rng.integers(seeds, size=seeds)))
    found_R, random_R = np.array(drawn).T
    gap = _interval(whole[0] - whole[1], found_R - random_R)
    relative = _interval(100 * (whole[0] / whole[1] - 1), 100 * (found_R / random_R - 1))
    return Compared(*whole, gap, relative)


def _interval(value: float, samples: Floats) -> Difference:
    low, high = np.quantile(samples, [0.025, 0.975])
    rarer = min(int((samples <= 0).sum()), int((samples >= 0).sum()))
    return Difference(value, float(low), float(high), min(1.0, 2 * (rarer + 1) / (len(samples) + 1)))


class Retrainer:
    """Trainings from scratch that are kept in a folder: none is done twice, several processes share them."""

    def __init__(
        self, out: Path, space: SearchSpace[Any], splits: Splits, data: DataConfig, protocol: Protocol
    ) -> None:
        """Opens or makes the protocol's own table, retrained-HASH.csv with its database; see `train.target_table`."""
        self._space = space
        out.mkdir(parents=True, exist_ok=True)
        self.path = out / f"retrained-{protocol.hash(space, data, dict(splits.provenance))}.csv"
        self._table = TargetTable(self.path, space, splits, data, protocol)

    def train(self, architectures: Sequence[Any], seeds: Sequence[int]) -> Iterator[None]:
        """Trains what is missing; yields after each."""
        for _ in self._table.run(architectures, seeds):
            yield None

    def accuracies(self, architectures: Sequence[Any], seeds: Sequence[int]) -> Floats:
        """[A, S] test accuracies, shares of 1."""
        known = {(row.key, row.seed): row.test_accuracy for row in self._table.rows()}
        keys = [self._space.canonical(a) for a in architectures]
        return np.array([[known[key, seed] for seed in seeds] for key in keys])


def from_generated(
    hypernetwork: Hypernetwork, splits: Splits, protocol: Protocol, architectures: Sequence[Any], seeds: Sequence[int]
) -> Iterator[list[float]]:
    """Test accuracies of each architecture, one a seed, after as many steps from generated weights as from scratch.

    The peak learning rate is a fifth of the protocol's: generated weights are not far from good ones.
    """
    steps = protocol.epochs * (len(splits.train.labels) // protocol.batch)
    tuners = []
    for seed in seeds:
        config = FinetuneConfig(
            learning_rate=protocol.learning_rate / 5,
            warmup=protocol.warmup,
            batch=protocol.batch,
            momentum=protocol.momentum,
            weight_decay=protocol.weight_decay,
            augment=protocol.augment,
            calibration=protocol.calibration,
            seed=seed,
        )
        tuners.append(Finetuner(hypernetwork.space, splits.train, splits.test, config))
    for architecture in architectures:
        weights = hypernetwork(hypernetwork.space.graph(architecture)).arrays
        yield [tuner(architecture, weights, steps).score_accuracy for tuner in tuners]


def as_json(compared: Compared, **more: Any) -> str:
    """For comparison.json."""
    values = {
        "accuracy": {"found": compared.found, "random": compared.random},
        "difference": compared.difference.as_list(),
        "relative_improvement": compared.relative_improvement.value,
        "interval": compared.relative_improvement.as_list()[1:],
        "p": compared.relative_improvement.p,
        "verdict": compared.verdict,
        **more,
    }
    return json.dumps(values, indent=2) + "\n"
