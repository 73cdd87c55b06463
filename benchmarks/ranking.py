"""How well do generated weights rank architectures that the hypernetwork never saw?

(a) "embedded": the ground truth in the package (Fashion-MNIST 4,000 images at 14 x 14, trained from scratch).
(b) "nasbench201": real 200-epoch CIFAR-10 accuracies of NAS-Bench-201, hypernetwork trained on CIFAR-10 at 16 x 16.

    python benchmarks/ranking.py --cifar10 DIR --table nasbench201.csv.gz

(c) "smash": memory-bank networks on the data of (a), by the graph hypernetwork, by SMASH's own (convolutional over the
    encoding of the banks), and by a supernet; and whether weights generated from a *wrong* encoding are worse.

In (b) held-out classes fall into a development and a reported half, by a hash; the score was fixed on the first
(ranking_variants.md) and this benchmark reads the second. There too are a combination of scores without labels, and a
calibration fitted on a few accuracies from the development half. Hypernetworks are trained into --runs and found there
again; proxies are kept in --proxies, which benchmarks/proxies.py fills too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from common import console, finish, proxy_columns
from numpy.typing import NDArray

from eval.combination import combination_report, gather
from eval.ground_truth import GroundTruth, read_ground_truth
from eval.metrics import Interval, bootstrap
from eval.ranking import (
    PRIMARY,
    SECONDARY,
    Method,
    Ranking,
    combine,
    compare,
    free_methods,
    generated_methods,
    timed_scores,
)
from eval.report import SHOWN, cell, ranking_json, ranking_notes, ranking_rows
from eval.scoring import ScoreConfig, Scorer
from ghn import GHNConfig, Hypernetwork
from train.config import SpaceConfig, TrainConfig
from train.data import AugmentConfig, DataConfig, Splits, load
from train.loop import train

SMASH_SPACE = SpaceConfig(name="smash", banks=(1, 2, 3), layers=(1, 2), kernels=(3,))
RIVALS = {"SMASH's hypernetwork": GHNConfig(network="smash", layers=4)}


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run."""

    cifar10: Path | None = None  # folder of CIFAR-10 binaries, for (b)
    table: Path | None = None  # NAS-Bench-201 CSV with arch_str and 200-epoch accuracies, for (b)
    column: str = "cifar10_test_200ep"  # its accuracy column
    half: str = "reported"  # of the held-out classes of (b): "reported" or "development"
    runs: Path = Path("runs/benchmark-ranking")  # where hypernetworks are trained
    proxies: Path = Path("runs/benchmark-proxies/reduced.csv")  # table of proxies, for (b)
    labels: tuple[int, ...] = (30, 100)  # trained architectures that a calibration may see, in (b)
    draws: int = 10  # of such labels
    images: int = 500  # images of each split that a score uses
    seeds: int = 3  # hypernetworks of each kind of data
    steps: int = 6000  # of every hypernetwork and supernet
    only: str | None = None  # "embedded", "nasbench201" or "smash": just that part
    smash_steps: int = 2000  # of every hypernetwork of (c)
    quick: bool = False  # 2 seeds, 300 steps, 500 resamples
    out: Path = Path("benchmarks/results")  # results

    @property
    def resamples(self) -> int:
        """Of every bootstrap."""
        return 500 if self.quick else 2000


def embedded_config(options: Options) -> TrainConfig:
    """Training for (a): the demo's own."""
    return TrainConfig(steps=options.steps)


def cifar10_config(options: Options) -> TrainConfig:
    """Training for (b)."""
    data = DataConfig(source=str(options.cifar10), image_size=16)
    return TrainConfig(data=data, augment=AugmentConfig(crop=2, flip=True), steps=options.steps, held_out=0.7)


def smash_config(options: Options) -> TrainConfig:
    """Training for (c); the space is that of the ground truth in the package."""
    return TrainConfig(space=SMASH_SPACE, steps=options.smash_steps)


def hypernetworks_of(options: Options, name: str, config: TrainConfig) -> list[Hypernetwork]:
    """A part's hypernetworks, one a seed."""
    seeds = [dataclasses.replace(config, seed=seed) for seed in range(options.seeds)]
    return [train(seed, options.runs / f"{name}-{seed.seed}") for seed in seeds]


def part(
    options: Options,
    name: str,
    config: TrainConfig,
    select: Callable[[Hypernetwork], GroundTruth],
    rivals: Mapping[str, GHNConfig] | None = None,
) -> tuple[Ranking, dict[str, Interval]]:
    """Trains what is missing, scores, compares.

    Args:
        options: of the benchmark.
        name: of the part.
        config: training of its hypernetworks.
        select: the ground truth, given a hypernetwork that says what it has seen.
        rivals: other hypernetworks, trained as often and as long.

    Returns:
        The ranking; and by hypernetwork, the loss with weights of a wrong graph minus that of the right one, in nats.
    """
    splits = load(config.data)
    seeds = [dataclasses.replace(config, seed=seed) for seed in range(options.seeds)]
    hypernetworks = hypernetworks_of(options, name, config)
    supernet = train(dataclasses.replace(config, ghn=GHNConfig(delta=False)), options.runs / f"{name}-supernet")
    truth = select(hypernetworks[0])
    space = hypernetworks[0].space
    console.print(f"{name}: scoring {len(truth.architectures)} classes")
    free = free_methods(space, truth.architectures, splits.train.images)
    methods: dict[str, Method] = {}
    wrong: dict[str, Interval] = {}
    for rival, ghn_config in (rivals or {}).items():
        for seed, seeded in enumerate(seeds):
            trained = train(dataclasses.replace(seeded, ghn=ghn_config), options.runs / f"{name}-{rival}-{seed}")
            own = _scored(trained, splits, truth, options.images)
            methods |= {key.replace("generated weights", rival) + f", seed {seed}": m for key, m in own.items()}
            wrong[f"{rival}, seed {seed}"] = _wrong_graph(trained, splits, truth, options)
    for seed, hypernetwork in enumerate(hypernetworks):
        if rivals:
            wrong[f"graph hypernetwork, seed {seed}"] = _wrong_graph(hypernetwork, splits, truth, options)
        own = _scored(hypernetwork, splits, truth, options.images)
        methods |= {f"{key}, seed {seed}": method for key, method in own.items()}
        methods[f"generated weights + parameters, seed {seed}"] = combine({**own, **free})
    for key in (PRIMARY, SECONDARY):
        members = [methods[f"{key}, seed {seed}"] for seed in range(options.seeds)]
        mean = np.mean([member.scores for member in members], axis=0)
        methods[key] = Method(mean, sum(member.seconds for member in members))
    methods["generated weights + parameters"] = combine({**methods, **free})
    for key, method in _scored(supernet, splits, truth, options.images).items():
        methods[key.replace("generated weights", "delta = 0")] = method
    return compare(truth, {**methods, **free}, resamples=options.resamples), wrong


def combined(
    options: Options, name: str, config: TrainConfig, truth: GroundTruth, asked: NDArray[np.bool_]
) -> dict[str, dict[str, Any]]:
    """Scores without labels on the `asked` part of the truth, and calibrations from a few labels of the other part."""
    splits, hypernetworks = load(config.data), hypernetworks_of(options, name, config)
    proxies = proxy_columns(options.proxies, hypernetworks[0].space, splits, truth.architectures)
    scorers = [Scorer(own, splits.train, splits.score, ScoreConfig(options.images)) for own in hypernetworks]
    evidence = gather(hypernetworks, scorers, truth.architectures, proxies)
    labels, draws = options.labels, options.draws
    return combination_report(evidence, truth.accuracy, asked, ~asked, labels, draws, options.resamples)


def combined_row(name: str, own: dict[str, Any], columns: int) -> list[str]:
    """A row of the table; what was not computed stays empty."""
    cells = [cell(key, Interval(*own[key])) if key in own else "" for key in SHOWN]
    return [f"{name}, coverage {own['coverage_90']:.2f}" if "coverage_90" in own else name, *cells][:columns]


def _wrong_graph(hypernetwork: Hypernetwork, splits: Splits, truth: GroundTruth, options: Options) -> Interval:
    """How much higher the training loss is with weights that were generated from another architecture's graph."""
    scorer = Scorer(hypernetwork, splits.train, splits.score, ScoreConfig(options.images))
    architectures = truth.architectures
    shifted = [*architectures[1:], architectures[0]]
    gap = scorer(architectures, graphs_of=shifted).train_loss - scorer(architectures).train_loss
    return bootstrap(lambda gap, _: gap.mean(-1), gap, truth.accuracy, truth.classes, options.resamples)


def _scored(hypernetwork: Hypernetwork, splits: Splits, truth: GroundTruth, images: int) -> dict[str, Method]:
    scorer = Scorer(hypernetwork, splits.train, splits.score, ScoreConfig(images))
    return generated_methods(*timed_scores(scorer, truth.architectures))


def main(options: Options) -> None:
    """Both parts, where their data are at hand."""
    if options.quick:
        options = dataclasses.replace(options, seeds=min(options.seeds, 2), steps=min(options.steps, 300))
        options = dataclasses.replace(options, smash_steps=min(options.smash_steps, 300))
    results: dict[str, Any] = {"embedded": None, "nasbench201": None, "smash": None}
    rows: list[list[str]] = []
    notes: list[str] = []

    def add(name: str, ranking: Ranking, wrong: dict[str, Interval]) -> None:
        results[name] = ranking_json(ranking)
        if wrong:
            results[name]["wrong_encoding"] = {key: interval.as_list() for key, interval in wrong.items()}
        header, *body = ranking_rows(ranking)
        rows.extend([["data", *header]] if not rows else [])
        rows.extend([name, *row] for row in body)
        notes.extend(f"{name}: {note}" for note in ranking_notes(ranking))
        notes.extend(
            f"{name}: loss with weights of a wrong graph minus that of the right one, {key}: {gap} nats."
            for key, gap in wrong.items()
        )

    def embedded_truth(hypernetwork: Hypernetwork) -> GroundTruth:
        return read_ground_truth("embedded", hypernetwork.space).select(hypernetwork.unseen)

    if options.only in (None, "embedded"):
        add("embedded", *part(options, "embedded", embedded_config(options), embedded_truth))
    if options.only in (None, "smash"):
        add("smash", *part(options, "smash", smash_config(options), embedded_truth, RIVALS))
    if options.cifar10 is not None and options.table is not None and options.only in (None, "nasbench201"):
        table = options.table

        def nasbench_truth(hypernetwork: Hypernetwork) -> GroundTruth:
            space = hypernetwork.space

            def wanted(architecture: Any) -> bool:
                development = space.held_out(architecture, 0.5, seed=1)
                return hypernetwork.unseen(architecture) and development == (options.half == "development")

            return read_ground_truth(table, space, options.column).select(wanted)

        config = cifar10_config(options)
        add("nasbench201", *part(options, "nasbench201", config, nasbench_truth))
        space = config.space.build((16, 16, 3), 10)
        held_out = read_ground_truth(table, space, options.column).select(
            lambda architecture: space.held_out(architecture, config.held_out, config.held_out_seed)
        )
        development = np.array([space.held_out(a, 0.5, seed=1) for a in held_out.architectures])
        asked = development == (options.half == "development")
        report = combined(options, "nasbench201", config, held_out, asked)
        results["nasbench201"] |= report | {"calibrated": report[f"calibrated_{max(options.labels)}"]}
        rows.extend([["nasbench201", *combined_row(name, own, len(rows[0]) - 1)] for name, own in report.items()])
    finish("ranking", results, rows[0], rows[1:], notes, list(range(options.seeds)), options.out)


if __name__ == "__main__":
    main(tyro.cli(Options))
