"""`ghn-eval retrain`: the best of a search, or given architectures, trained from scratch and held against random."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

import ghn
from architectures.checks import at_least
from architectures.spaces import SearchSpace, from_settings
from eval.report import rich_table
from eval.search.folder import COMPARISON, best_of_rows, check_data, holds_search, read_search
from eval.search.html import write_page
from eval.search.problem import Problem
from eval.search.retrain import (
    Compared,
    Floats,
    Retrainer,
    as_json,
    check_partners,
    compare,
    from_generated,
    pairs,
    random_band,
)
from train.data import DataConfig, Splits, check_images, load
from train.metrics import write_whole
from train.target import Protocol


@dataclasses.dataclass(frozen=True)
class RetrainConfig:
    """What to train, and against what."""

    architectures: tuple[str, ...] = ()  # train these, of the search's space; without any, its best
    top: int = 5  # of the search
    random: int = 20  # architectures of the same parameter band, one at least for each that was found; 0: none
    seeds: int = 3  # trainings of each
    generated: bool = False  # also train the found ones from the weights that --checkpoint generates
    checkpoint: str = "demo"  # gives generated weights, and the space where --out holds no search
    data: DataConfig = DataConfig()  # has to be the search's
    protocol: Protocol = Protocol()  # the same for all
    seed: int = 0  # of the random architectures
    resamples: int = 2000  # of the interval

    def __post_init__(self) -> None:
        at_least(self, top=1, random=0, seeds=1, seed=0, resamples=1)


def retrain(config: RetrainConfig, out: Path, console: Console) -> Compared | None:
    """Trains, compares, writes comparison.json beside the table of trainings; a killed command goes on.

    Raises:
        ValueError: no finished search, or one on other data; an architecture that cannot be read, a band with too few
            architectures, fewer random ones than found.
    """
    texts, space, hypernetwork = _subjects(config, out, console)
    splits = load(config.data)
    if holds_search(out):
        check_data(out, splits.provenance)
    check_images(splits.train.images, space.input_shape, "images")
    problem, found = Problem(space), [space.from_string(text) for text in texts]
    if config.random:
        check_partners(config.random, len(found))
    random = random_band(problem, found, config.random, config.seed) if config.random else []
    seeds = list(range(config.seeds))
    retrainer = Retrainer(out, space, splits, config.data, config.protocol)
    everyone = [*found, *random]
    jobs = retrainer.train(everyone, seeds)
    for _ in track(jobs, "training from scratch", total=len(everyone) * len(seeds), console=console):
        pass
    found_FS = retrainer.accuracies(found, seeds)
    generated = _generated(config, hypernetwork, splits, found, seeds, console) if hypernetwork is not None else None
    _show(problem, found, found_FS, generated, console)
    if not random:
        return None
    compared = compare(found_FS, retrainer.accuracies(random, seeds), pairs(problem, found, random), config.resamples)
    more: dict[str, Any] = {"architectures": [space.to_string(a) for a in found], "seeds": seeds}
    more |= {"random": len(random), "table": retrainer.path.name}
    if generated is not None:
        more["from_generated"] = float(generated.mean())
    write_whole(out / COMPARISON, as_json(compared, **more))
    if holds_search(out):
        write_page(out)
    console.print(compared.verdict, highlight=False)
    return compared


def _subjects(
    config: RetrainConfig, out: Path, console: Console
) -> tuple[list[str], SearchSpace[Any], ghn.Hypernetwork | None]:
    """What to train, of which space (the search's, where there is one), and what generates weights if it was loaded."""
    if not holds_search(out) and config.architectures:
        loaded = ghn.load(config.checkpoint)
        return list(config.architectures), loaded.space, loaded
    searched, rows = read_search(out)
    space = from_settings(searched["about"]["settings"])
    named = config.generated or config.checkpoint != RetrainConfig.checkpoint
    hypernetwork = ghn.load(config.checkpoint) if named else None
    if hypernetwork is not None and hypernetwork.space != space:
        raise ValueError(
            f"checkpoint {config.checkpoint!r}: made for {hypernetwork.space.describe()}, the search in {out} for "
            f"{space.describe()}; choose another --checkpoint, or another --out for --architectures of your own"
        )
    if config.architectures:
        return list(config.architectures), space, hypernetwork
    best = best_of_rows(rows)
    if len(best) < config.top:
        console.print(f"top={config.top}: the search has only {len(best)} at its highest fidelity; all are trained")
    if not best:
        raise ValueError(f"{out}: the search has no finite score; give --architectures")
    return best[: config.top], space, hypernetwork


def _generated(
    config: RetrainConfig,
    hypernetwork: ghn.Hypernetwork,
    splits: Splits,
    found: Sequence[Any],
    seeds: Sequence[int],
    console: Console,
) -> Floats | None:
    if not config.generated:
        return None
    rows: Iterable[list[float]] = from_generated(hypernetwork, splits, config.protocol, found, seeds)
    return np.array(list(track(rows, "training from generated weights", total=len(found), console=console)))


def _show(problem: Problem, found: Sequence[Any], found_FS: Floats, generated: Floats | None, console: Console) -> None:
    rows = [
        [
            "architecture",
            "parameters",
            "from scratch, %",
            *(["from generated weights, %"] if generated is not None else []),
        ]
    ]
    for row, architecture in enumerate(found):
        cells = [problem.space.to_string(architecture), f"{problem.costs(architecture).parameters:,}"]
        columns = [found_FS] if generated is None else [found_FS, generated]
        rows.append(cells + [f"{100 * column[row].mean():.2f}" for column in columns])
    console.print(rich_table(rows, "retrained: mean test accuracy over seeds"))
