"""`ghn-eval proxies`: a table of zero-cost proxies of candidates."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from architectures.checks import at_least
from eval.proxies.score import missing
from eval.proxies.table import ProxyTable
from eval.rank import parse_candidates
from train.config import SpaceConfig
from train.data import DataConfig, load


@dataclasses.dataclass(frozen=True)
class ProxiesConfig:
    """Which proxies of which candidates."""

    space: SpaceConfig = SpaceConfig()
    data: DataConfig = DataConfig()  # its first training images are the mini-batch
    candidates: str = "500"  # a number of classes to sample, a file of strings (one a line), or "all"
    proxies: tuple[str, ...] | None = None  # names; all when None
    initialisations: int | None = None  # averaged by every proxy; each one's own number when None
    images: int = 128  # in the mini-batch, at most; a proxy takes as many as it is defined for
    seed: int = 0  # of sampling and of the first initialisation

    def __post_init__(self) -> None:
        at_least(self, initialisations=1, images=2, seed=0)


def proxies(config: ProxiesConfig, out: Path, console: Console) -> dict[str, NDArray[np.float64]]:
    """Writes the table `out`; run again, it goes on where it was. Returns its columns."""
    splits = load(config.data)
    space = config.space.build(splits.train.images.shape[1:], splits.train.classes)
    architectures = parse_candidates(config.candidates, space, config.seed)
    provenance = {"data": dict(splits.provenance), "images": config.images}
    table = ProxyTable(out, space, config.proxies, config.initialisations, config.seed, provenance)
    images, labels = splits.train.images[: config.images], splits.train.labels[: config.images]
    shown = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*shown, console=console) as progress:
        task = progress.add_task("proxies", total=len(architectures))
        for count in table.run(architectures, images, labels):
            progress.advance(task, count)
    columns = table.finish(architectures)
    undefined = {name: count for name, count in missing(columns).items() if count}
    counted = ", ".join(f"{count} of {name}" for name, count in undefined.items()) or "none"
    console.print(f"{out}: {len(architectures)} candidates, {len(columns)} proxies; not finite: {counted}")
    return columns
