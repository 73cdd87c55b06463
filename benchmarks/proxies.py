"""How well do zero-cost proxies rank, and do ours agree with those that others published?

    python benchmarks/proxies.py --cifar10 DIR --table nasbench201.csv.gz --published proxies.csv.gz

Every proxy of NAS-Bench-201 cells on CIFAR-10, against (1) real 200-epoch accuracies, one row a connected class, and
(2) published scores of the same cells, by Spearman. The published scores are of the full networks (16 channels, 5 cells
a stage, 32 x 32 pixels); ours are of smaller ones by default, so agreement below 1 is size as well as noise.
`--full N` adds a column: agreement of N published cells at the full size. Scores are kept in --runs and found there
again.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from common import finish, proxy_columns
from numpy.typing import NDArray

from architectures.spaces import NASBench201
from eval.ground_truth import GroundTruth, read_ground_truth
from eval.metrics import bootstrap, kendall, kendall_top10, spearman
from eval.proxies import PROXIES, score
from eval.proxies.registry import AZ_NAS
from train.data import DataConfig, load

PUBLISHED = {  # our name -> theirs
    "params": "params",
    "flops": "flops",
    "grad_norm": "grad_norm",
    "snip": "snip",
    "synflow": "synflow",
    "jacov": "jacov",
    "nwot": "nwot",
}
TIMED = 3  # candidates on which seconds are measured, after one that compiles


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run."""

    cifar10: Path  # folder of CIFAR-10 binaries
    table: Path  # NAS-Bench-201 CSV with arch_str and 200-epoch accuracies
    published: Path  # CSV with arch_str and a column for each published proxy
    column: str = "cifar10_test_200ep"  # accuracy column of the table
    channels: int = 8  # of the first stage
    cells: int = 1  # a stage
    image_size: int = 16  # pixels
    images: int = 64  # of the mini-batch
    initialisations: int = 1  # of every proxy, SWAP's 32 included
    share: float = 0.7  # of the connected classes that are scored: those that ranking.py holds out
    compared: int = 600  # connected classes with published scores that are scored, at most
    full: int = 0  # published cells that are also scored at the full size
    runs: Path = Path("runs/benchmark-proxies")  # where scores are kept
    seed: int = 0  # of the choice of classes and of the initialisations
    quick: bool = False  # 12 classes, 8 channels, 8 x 8 pixels
    out: Path = Path("benchmarks/results")  # results


def read_published(path: Path, space: NASBench201) -> dict[str, tuple[Any, dict[str, float]]]:
    """Isomorphism class -> the published cell and its scores by published name; what is missing is nan.

    The cell itself counts: others of its class may carry dead edges, whose parameters are counted too.
    """
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        rows = list(csv.DictReader(file))
    cells = [space.from_string(row["arch_str"]) for row in rows]
    scores = [{name: float(row[name] or "nan") for name in PUBLISHED.values()} for row in rows]
    return {space.canonical(cell): (cell, own) for cell, own in zip(cells, scores, strict=True)}


def scored(
    options: Options, space: NASBench201, architectures: list[Any], image_size: int, name: str
) -> tuple[dict[str, NDArray[np.float64]], dict[str, float]]:
    """Columns of all proxies, and seconds a candidate of each (compilation left out, all its initialisations)."""
    splits = load(DataConfig(source=str(options.cifar10), image_size=image_size))
    batch, draws, seed = options.images, options.initialisations, options.seed
    columns = proxy_columns(options.runs / f"{name}.csv", space, splits, architectures, batch, draws, seed)
    data = splits.train.images[:batch], splits.train.labels[:batch]
    return columns, timed(options, space, architectures[: TIMED + 1], *data)


def timed(options: Options, space: NASBench201, architectures: list[Any], *data: Any) -> dict[str, float]:
    """Median seconds a candidate of each proxy by itself, all its initialisations; the first candidate compiles."""
    seconds: dict[str, float] = {}
    by_measure: dict[Any, float] = {}
    for name, proxy in PROXIES.items():
        if proxy.measure not in by_measure:
            times = []
            for architecture in architectures:
                start = time.perf_counter()
                score(space, [architecture], *data, [name], options.initialisations)
                times.append(time.perf_counter() - start)
            by_measure[proxy.measure] = float(np.median(times[1:]))
        seconds[name] = by_measure[proxy.measure]
    return {**seconds, AZ_NAS: seconds["az_expressivity"]}  # one pass gives all its parts


def agreement(
    column: NDArray[np.float64], keys: Sequence[str], published: dict[str, tuple[Any, dict[str, float]]], name: str
) -> tuple[float, int]:
    """Spearman with the published scores, and of how many cells."""
    theirs = np.array([published[key][1][PUBLISHED[name]] for key in keys])
    both = np.isfinite(column) & np.isfinite(theirs)
    return (spearman(column[both], theirs[both]) if both.sum() > 2 else float("nan")), int(both.sum())


def with_accuracy(column: NDArray[np.float64], truth: GroundTruth, resamples: int) -> dict[str, Any]:
    """Correlations of a proxy with real accuracy; what is not finite is left out and counted."""
    finite = np.isfinite(column)
    accuracy, classes = truth.accuracy[finite], truth.classes[finite]
    statistics = {"spearman": spearman, "kendall": kendall, "kendall_top10": kendall_top10}
    own = {key: bootstrap(f, column[finite], accuracy, classes, resamples) for key, f in statistics.items()}
    return {"missing": int((~finite).sum()), **{key: interval.as_list() for key, interval in own.items()}}


def main(options: Options) -> None:
    """Scores, compares, writes the table."""
    if options.quick:
        options = dataclasses.replace(options, share=0.005, compared=6, image_size=8, images=16, full=0)
        options = dataclasses.replace(options, runs=options.runs / "quick")
    shape = (options.image_size, options.image_size, 3)
    space = NASBench201(channels=options.channels, cells=options.cells, input_shape=shape)
    table, published = read_ground_truth(options.table, space, options.column), read_published(options.published, space)
    truth = table.select(lambda architecture: space.held_out(architecture, options.share))
    keys = [key for key in table.classes if key in published][: options.compared]
    compared = [published[key][0] for key in keys]
    columns, seconds = scored(options, space, [*truth.architectures, *compared], options.image_size, "reduced")
    full: dict[str, NDArray[np.float64]] = {}
    if options.full:
        whole = NASBench201(channels=16, cells=5, input_shape=(32, 32, 3))
        full, _ = scored(options, whole, compared[: options.full], 32, "full")
    n = len(truth.architectures)
    results: dict[str, Any] = {"n": n, "proxies": {}, "options": dataclasses.asdict(options)}
    for path in ("cifar10", "table", "published", "runs", "out"):
        results["options"].pop(path)
    body = []
    for name, column in columns.items():
        own = with_accuracy(column[:n], truth, 200 if options.quick else 2000)
        own["seconds_per_candidate"] = seconds[name]
        cells = ["{:.2f} [{:.2f}, {:.2f}]".format(*own[key]) for key in ("spearman", "kendall", "kendall_top10")]
        for label, values in (("published", column[n:]), ("published_full_size", full.get(name))):
            own[label] = None
            if name in PUBLISHED and values is not None:
                own[label] = agreement(values, keys[: len(values)], published, name)
            cells.append("{:.3f} ({})".format(*own[label]) if own[label] else "")
        results["proxies"][name] = own
        body.append([name, *cells, str(own["missing"]), f"{own['seconds_per_candidate']:.3f}"])
    header = ["proxy", "Spearman with accuracy", "Kendall", "Kendall, top 10%", "Spearman with published (cells)"]
    header += ["the same at full size (cells)", "not finite", "s / candidate"]
    notes = [
        f"{n} connected classes of NAS-Bench-201, real 200-epoch CIFAR-10 accuracies; 95% bootstrap over "
        f"classes. Networks of {options.channels} channels, {options.cells} cell(s) a stage, {options.image_size} x "
        f"{options.image_size} pixels, {options.images} images, {options.initialisations} initialisation(s) of each.",
        "Values that are not finite are left out of a proxy's own correlations and counted; AZ-NAS ranks them last.",
    ]
    finish("proxies", results, header, body, notes, options.seed, options.out)


if __name__ == "__main__":
    main(tyro.cli(Options))
