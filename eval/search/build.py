"""From a configuration to what takes part in a search."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import ghn
from architectures.spaces import SearchSpace
from eval.ground_truth import GroundTruth, Tabulated, read_ground_truth
from eval.rank import load_matching
from eval.search.algorithms import (
    NSGA,
    Algorithm,
    Guide,
    GuidedSearch,
    Hyperband,
    LocalSearch,
    OptunaSearch,
    RandomSearch,
    RegularisedEvolution,
    SMASHSearch,
    SuccessiveHalving,
)
from eval.search.anytime import AnytimeScorer
from eval.search.config import SearchConfig
from eval.search.driver import SearchScorer
from eval.search.features import COLUMNS, Columns, Features, combined
from eval.search.kept import kept_columns
from eval.search.latency import Latency
from eval.search.problem import Problem
from eval.search.scorers import (
    CalibratedScorer,
    CombinedScorer,
    HypernetworkScorer,
    ProxyScorer,
    TabularScorer,
    TrainingScorer,
    fingerprint,
)
from ghn import Hypernetwork
from train.config import SpaceConfig
from train.data import Splits, load


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
    """What takes part in a search.

    Attributes:
        problem: what may be proposed.
        scorer: what scores it.
        splits: the data.
        hypernetwork: where one takes part.
        truth: the table, where there is one.
    """

    problem: Problem
    scorer: SearchScorer
    splits: Splits
    hypernetwork: Hypernetwork | None
    truth: GroundTruth | None


def build_parts(config: SearchConfig) -> Parts:
    """Loads checkpoint, data and table, and joins them.

    Raises:
        ValueError: parts that do not fit together; the message says which, and the way out.
    """
    hypernetwork = ghn.load(config.checkpoint) if config.reads_checkpoint else None
    if hypernetwork is None:
        splits = load(config.data)
        space = _named(config).build(splits.train.images.shape[1:], splits.train.classes)
    else:
        _check_space(config, hypernetwork)
        space, splits = hypernetwork.space, load_matching(hypernetwork, config.data)
    truth = None if config.ground_truth is None else read_ground_truth(config.ground_truth, space, config.column)
    within = Tabulated(truth, space) if truth is not None and config.scorer == "tabular" else None
    timed = config.constraints.latency_ms is not None or "latency_ms" in config.objective
    problem = Problem(space, config.constraints, within, Latency(space) if timed else None)
    problem.sample(np.random.default_rng(0))  # a constraint that nothing meets is told before anything is made
    return Parts(problem, _scorer(config, problem, splits, hypernetwork, truth), splits, hypernetwork, truth)


def _named(config: SearchConfig) -> SpaceConfig:
    name: Any = config.space or "nasbench201"  # known, as the configuration has checked
    return dataclasses.replace(config.sizes, name=name)


def _check_space(config: SearchConfig, hypernetwork: Hypernetwork) -> None:
    own: SearchSpace[Any] = hypernetwork.space
    wanted = _named(config).build(own.input_shape, own.classes)
    sized = dataclasses.replace(config.sizes, name="nasbench201") != SpaceConfig()
    if (config.space not in (None, own.name)) or (sized and wanted != own):
        raise ValueError(
            f"checkpoint {config.checkpoint!r}: made for {own.describe()}, not for {wanted.describe()}; give a "
            "checkpoint of that space, or leave --space and --sizes.* to the checkpoint"
        )


def _scorer(
    config: SearchConfig,
    problem: Problem,
    splits: Splits,
    hypernetwork: Hypernetwork | None,
    truth: GroundTruth | None,
) -> SearchScorer:
    space, score = problem.space, dataclasses.replace(config.score, finetune=config.finetune)
    if config.scorer == "tabular":
        assert truth is not None
        return TabularScorer(truth, space)
    if config.scorer == "proxy":
        return ProxyScorer(space, splits.train, config.proxy)
    if config.scorer == "training":
        return TrainingScorer(space, splits, config.finetune, config.steps, config.start, hypernetwork)
    assert hypernetwork is not None
    if config.scorer == "combined":
        return CombinedScorer(problem, hypernetwork, splits, score)
    if config.scorer == "anytime":
        return AnytimeScorer(hypernetwork, splits, score.images)
    if config.scorer == "calibrated":
        assert truth is not None
        return CalibratedScorer(problem, hypernetwork, splits, truth, config.labels, score)
    return HypernetworkScorer(hypernetwork, splits, score)


def build_algorithm(config: SearchConfig, parts: Parts, out: Path) -> Algorithm:
    """A fresh algorithm; the guided one scores its pool first, and keeps that in the folder `out`."""
    problem, seed = parts.problem, config.seed
    match config.algorithm:
        case "random":
            return RandomSearch(problem, seed)
        case "smash":
            return SMASHSearch(problem, seed, config.smash)
        case "evolution":
            return RegularisedEvolution(problem, seed, config.evolution)
        case "local":
            return LocalSearch(problem, seed, config.local)
        case "halving":
            return SuccessiveHalving(problem, seed, config.halving)
        case "hyperband":
            return Hyperband(problem, seed, config.halving)
        case "nsga":
            return NSGA(problem, seed, config.nsga, config.objective)
        case "optuna":
            return OptunaSearch(problem, seed, config.optuna)
        case "guided":
            return GuidedSearch(problem, seed, build_guide(config, parts, out), config.guided)


def build_guide(config: SearchConfig, parts: Parts, out: Path) -> Guide:
    """What the checkpoint, parameter count and NWOT say of the pool."""
    assert parts.hypernetwork is not None
    pool, problem = _pool(config, parts), parts.problem
    compute = Columns(parts.hypernetwork, parts.splits, config.score)
    keys = [problem.key(architecture) for architecture in pool]
    path = out / f"guide-{fingerprint(parts.hypernetwork)}.csv"
    kept = kept_columns(path, COLUMNS, keys, lambda rows: compute([pool[row] for row in rows]))
    features = Features(problem, lambda _: kept, pool)
    columns = features.standard(kept)
    prior_A = np.nan_to_num(combined(columns), nan=-np.inf)
    return Guide(pool, prior_A, features.matrix(pool, columns))


def _pool(config: SearchConfig, parts: Parts) -> Sequence[Any]:
    """A table's classes, or as many distinct ones as are asked for or found."""
    if parts.problem.table is not None and parts.truth is not None:
        return parts.truth.architectures
    rng = np.random.default_rng((config.seed, 1))
    found: dict[str, Any] = {}
    for _ in range(20 * config.pool):
        architecture = parts.problem.sample(rng)
        found.setdefault(parts.problem.key(architecture), architecture)
        if len(found) == config.pool:
            break
    return list(found.values())
