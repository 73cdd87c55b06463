"""`ghn-eval rank`: candidates ordered by generated weights and, where there is ground truth, how good that order is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

import ghn
from architectures.spaces import CellSpace, SearchSpace
from eval.ground_truth import read_ground_truth
from eval.plots import scatter
from eval.ranking import COMBINED, PRIMARY, Ranking, combine, compare, free_methods, generated_methods, timed_scores
from eval.report import (
    markdown_table,
    ranking_json,
    ranking_notes,
    ranking_rows,
    rich_table,
    write_candidates,
    write_json,
)
from eval.scoring import Scorer
from ghn import Hypernetwork
from train.data import DataConfig, DataError, Splits, load
from train.target_table import sample_classes


@dataclasses.dataclass(frozen=True)
class RankConfig:
    """What to rank, and against what."""

    checkpoint: str = "demo"  # run folder, .safetensors file, or name of a packaged checkpoint
    supernet: str | None = None  # one trained with delta frozen at 0, for its row in the table
    data: DataConfig = DataConfig()  # has to be the data that the checkpoint was trained on
    candidates: str = "500"  # a number of unseen classes to sample, a file of strings (one a line), or "all"
    ground_truth: str | None = None  # CSV file, or "embedded" for the table in the package
    column: str = "test_accuracy"  # accuracy column of the ground truth
    seen: bool = False  # also rank classes that the hypernetwork was trained on
    images: int = 1000  # images of each split that a score uses
    resamples: int = 2000  # of the bootstrap
    seed: int = 0  # of sampling, of the random row, of the bootstrap


def rank(config: RankConfig, out: Path, console: Console) -> Ranking | None:
    """Writes candidates.csv and, with ground truth, ranking.json, ranking.md and the scatter plot into `out`."""
    hypernetwork = ghn.load(config.checkpoint)
    splits = load_matching(hypernetwork, config.data)
    out.mkdir(parents=True, exist_ok=True)
    scorer = Scorer(hypernetwork, splits.train, splits.score, config.images)
    architectures = select_candidates(config, hypernetwork)
    console.print(f"{hypernetwork.space.describe()}; scoring {len(architectures)} architectures")
    scores, seconds = timed_scores(scorer, architectures)
    write_candidates(out / "candidates.csv", hypernetwork.space, architectures, scores)
    console.print(
        f"generated weights: mean accuracy {100 * scores.score_accuracy.mean():.1f}% on the score split, "
        f"best {100 * scores.score_accuracy.max():.1f}%; {seconds:.3f} s an architecture; "
        f"ordered in {out / 'candidates.csv'}"
    )
    if config.ground_truth is None:
        return None
    ranking = rank_against(config, hypernetwork, splits, scorer)
    write_ranking(ranking, out, console)
    return ranking


def rank_against(config: RankConfig, hypernetwork: Hypernetwork, splits: Splits, scorer: Scorer) -> Ranking:
    """The comparison with ground truth, every row included."""
    assert config.ground_truth is not None
    space = hypernetwork.space
    truth = read_ground_truth(config.ground_truth, space, config.column)
    if not config.seen:
        truth = truth.select(hypernetwork.unseen)
    if len(truth.architectures) < 10:
        raise ValueError(
            f"ground truth {config.ground_truth!r}: only {len(truth.architectures)} classes were kept out of training; "
            "hold out a larger share, or rank seen classes too with --seen"
        )
    methods = generated_methods(*timed_scores(scorer, truth.architectures))
    methods |= free_methods(space, truth.architectures, splits.train.images, config.seed)
    methods = {COMBINED: combine(methods), **methods}
    if config.supernet is not None:
        supernet = ghn.load(config.supernet)
        if supernet.config.delta or supernet.space != space:
            raise ValueError(
                f"supernet {config.supernet!r}: needs delta frozen at 0 and the same space ({space.describe()})"
            )
        scores, seconds = timed_scores(Scorer(supernet, splits.train, splits.score, config.images), truth.architectures)
        for name, method in generated_methods(scores, seconds).items():
            methods[name.replace("generated weights", "delta = 0")] = method
    return compare(truth, methods, config.resamples, config.seed)


def write_ranking(ranking: Ranking, out: Path, console: Console) -> None:
    """ranking.json, ranking.md, scatter.png and scatter.svg, and the table on the terminal."""
    rows, notes = ranking_rows(ranking), ranking_notes(ranking)
    write_json(out / "ranking.json", ranking_json(ranking))
    (out / "ranking.md").write_text(markdown_table(rows) + "\n\n" + "\n".join(f"- {note}" for note in notes) + "\n")
    runs = ranking.truth.runs
    error = runs.std(1, ddof=1) / np.sqrt(runs.shape[1]) if runs.shape[1] > 1 else None
    scores, spearman = ranking.methods[PRIMARY].scores, ranking.table[PRIMARY]["spearman"]
    scatter(
        scores,
        ranking.truth.accuracy,
        spearman,
        "minus training loss with generated weights, nats",
        out / "scatter",
        error,
    )
    console.print(rich_table(rows, "ranking against ground truth"))
    for note in notes:
        console.print(note, highlight=False)
    console.print(f"written to {out}")


def select_candidates(config: RankConfig, hypernetwork: Hypernetwork) -> list[Any]:
    """The candidates that the configuration names."""
    keep = None if config.seen or hypernetwork.held_out[0] == 0 else hypernetwork.unseen
    return parse_candidates(config.candidates, hypernetwork.space, config.seed, keep)


def parse_candidates(
    text: str, space: SearchSpace[Any], seed: int = 0, keep: Callable[[Any], bool] | None = None
) -> list[Any]:
    """A number of sampled classes that satisfy `keep`, "all" classes, or the architectures of a file, one a line."""
    if text.isdigit():
        return sample_classes(space, int(text), seed, keep)
    if text == "all":
        return representatives(space)
    try:
        lines = Path(text).read_text().split("\n")
    except OSError as error:
        raise ValueError(f"candidates {text!r}: a number, 'all', or a readable file ({error})") from error
    architectures = [space.from_string(line) for line in lines if line.strip()]
    if not architectures:
        raise ValueError(f"candidates {text!r}: the file holds no architecture")
    return architectures


def representatives(space: SearchSpace[Any]) -> list[Any]:
    """One architecture of every connected isomorphism class."""
    if not isinstance(space, CellSpace):
        raise ValueError(f"candidates 'all': {space.name} cannot be enumerated; sample a number of them")
    classes = {space.canonical(cell): cell for cell in space.all() if space.connected(cell)}
    return list(classes.values())


def load_matching(hypernetwork: Hypernetwork, data: DataConfig) -> Splits:
    """The data, checked against what the hypernetwork was trained on.

    Raises:
        DataError: other classes, image shape or preprocessing statistics.
    """
    splits = load(data)
    known = hypernetwork.preprocessing
    if splits.train.class_names != known.class_names:
        raise DataError(
            f"data {data.source!r}: classes {splits.train.class_names}, the checkpoint knows {known.class_names}"
        )
    if splits.train.images.shape[1:] != hypernetwork.space.input_shape:
        raise DataError(
            f"data {data.source!r}: images of shape {splits.train.images.shape[1:]}, the checkpoint takes "
            f"{hypernetwork.space.input_shape}; set --data.image-size {hypernetwork.space.input_shape[0]}"
        )
    if not np.allclose(splits.train.mean + splits.train.std, known.mean + known.std, atol=1e-4):
        raise DataError(
            f"data {data.source!r}: mean {splits.train.mean}, standard deviation {splits.train.std}; the checkpoint "
            f"was trained with {known.mean}, {known.std}: other data, or another split"
        )
    return splits
