"""`ghn-eval retrain`: the best of a search, or given architectures, trained from scratch and held against random."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

import ghn
from architectures.spaces import SearchSpace, from_settings
from eval.report import rich_table
from eval.search.html import write_page
from eval.search.problem import Problem
from eval.search.retrain import Compared, Floats, Retrainer, as_json, compare, from_generated, pairs, random_band
from train.data import DataConfig, Splits, check_images, load
from train.target import Protocol


@dataclasses.dataclass(frozen=True)
class RetrainConfig:
    """What to train, and against what."""

    architectures: tuple[str, ...] = ()  # train these; without any, the best of the search in --out
    top: int = 5  # of the search
    random: int = 20  # architectures of the same parameter band; 0: none
    seeds: int = 3  # trainings of each
    generated: bool = False  # also train the found ones from the weights that --checkpoint generates
    checkpoint: str = "demo"  # gives generated weights, and the space of architectures that no search found
    data: DataConfig = DataConfig()
    protocol: Protocol = Protocol()  # the same for all
    seed: int = 0  # of the random architectures
    resamples: int = 2000  # of the interval

    def __post_init__(self) -> None:
        for name, least in (("top", 1), ("random", 0), ("seeds", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"RetrainConfig.{name}={getattr(self, name)}: must be at least {least}")


def retrain(config: RetrainConfig, out: Path, console: Console) -> Compared | None:
    """Trains, compares, writes retrained.json beside the table of trainings; a killed command goes on.

    Raises:
        ValueError: no finished search, an architecture that cannot be read, a band with too few architectures.
    """
    texts, space, hypernetwork = _subjects(config, out)
    splits = load(config.data)
    check_images(splits.train.images, space.input_shape, "images")
    problem, found = Problem(space), [space.from_string(text) for text in texts]
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
    more = {"architectures": [space.to_string(a) for a in found], "seeds": seeds, "random": len(random)}
    if generated is not None:
        more["from_generated"] = float(generated.mean())
    (out / "retrained.json").write_text(as_json(compared, **more))
    if (out / "evaluations.csv").exists():
        write_page(out)
    console.print(compared.verdict, highlight=False)
    return compared


def _subjects(config: RetrainConfig, out: Path) -> tuple[list[str], SearchSpace[Any], ghn.Hypernetwork | None]:
    """What to train, of which space, and what generates weights where that is asked for."""
    hypernetwork = ghn.load(config.checkpoint) if config.architectures or config.generated else None
    if config.architectures:
        assert hypernetwork is not None
        return list(config.architectures), hypernetwork.space, hypernetwork
    searched = _finished(out)
    space = from_settings(searched["about"]["settings"])
    if hypernetwork is not None and hypernetwork.space != space:
        raise ValueError(
            f"checkpoint {config.checkpoint!r}: made for {hypernetwork.space.describe()}, not for {space.describe()}"
        )
    return [own["architecture"] for own in searched["best"][: config.top]], space, hypernetwork


def _finished(out: Path) -> dict[str, Any]:
    """What a search told of itself."""
    try:
        return dict(json.loads((out / "search.json").read_text()))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{out}: holds no finished search ({error}); make one with ghn-eval search, or give --architectures"
        ) from error


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
