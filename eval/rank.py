"""`ghn-eval rank`: candidates ordered by generated weights and, where there is ground truth, how good that order is."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

import ghn
from architectures.checks import at_least
from architectures.spaces import CellSpace, SearchSpace
from eval.checks import SMALL, Check, judge, spoilt_scores
from eval.ground_truth import GroundTruth, read_ground_truth
from eval.html_report import write_html
from eval.plots import scatter
from eval.ranking import (
    COMBINED,
    PRIMARY,
    Method,
    Ranking,
    Vector,
    combine,
    compare,
    free_methods,
    generated_methods,
    timed_scores,
)
from eval.report import rich_table, write_candidates, write_ranking_files
from eval.scoring import ScoreConfig, Scorer, Scores, ensemble
from eval.tabular import DEFAULT_COLUMN
from ghn import Hypernetwork
from ghn.checkpoint import load as load_checkpoint
from train.data import DataConfig, DataError, Splits, load
from train.target_table import sample_classes

AFFORDABLE = 600.0  # seconds that checks may take unless they are asked for


@dataclasses.dataclass(frozen=True)
class RankConfig:
    """What to rank, how, and against what."""

    checkpoint: str = "demo"  # run folder, .safetensors file, or name of a packaged checkpoint
    ensemble: tuple[str, ...] = ()  # hypernetworks of other seeds, for a row of the mean over all
    points: tuple[int, ...] = ()  # earlier steps of the checkpoint's run folder, for a row each
    fidelities: tuple[int, ...] = ()  # steps of fine-tuning from generated weights, for a row each
    supernet: str | None = None  # one trained with delta frozen at 0, for its row in the table
    small: str | None = None  # a hypernetwork that is too small, for its row among the checks
    checks: bool | None = None  # whether the architecture is read at all; None: where that takes less than ten minutes
    score: ScoreConfig = ScoreConfig()  # how to score
    data: DataConfig = DataConfig()  # has to be the data that the checkpoint was trained on
    candidates: str = "500"  # a number of unseen classes to sample, a file of strings (one a line), or "all"
    ground_truth: str | None = None  # CSV, JSON or SQLite file, or "embedded" for the table in the package
    column: str = DEFAULT_COLUMN  # accuracy column of the ground truth
    seen: bool = False  # also rank classes that the hypernetwork was trained on
    resamples: int = 2000  # of the bootstrap
    seed: int = 0  # of sampling, of the random row, of the bootstrap

    def __post_init__(self) -> None:
        at_least(self, resamples=1, seed=0)


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """A comparison with ground truth, and whether the hypernetwork reads architectures."""

    ranking: Ranking
    checks: dict[str, Check]
    notes: list[str]  # what could not be done


def rank(config: RankConfig, out: Path, console: Console) -> Ranking | None:
    """Writes candidates.csv and, with ground truth, the ranking in all its forms (`write_ranking`) into `out`."""
    hypernetwork = ghn.load(config.checkpoint)
    splits = load_matching(hypernetwork, config.data)
    scorer = Scorer(hypernetwork, splits.train, splits.score, config.score)
    architectures = select_candidates(config, hypernetwork)
    out.mkdir(parents=True, exist_ok=True)
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
    outcome = rank_against(config, hypernetwork, splits, scorer)
    write_ranking(config, hypernetwork, outcome, out, console)
    return outcome.ranking


def rank_against(config: RankConfig, hypernetwork: Hypernetwork, splits: Splits, scorer: Scorer) -> Outcome:
    """The comparison with ground truth, every row included."""
    truth = _truth(config, hypernetwork)
    own = timed_scores(scorer, truth.architectures)
    others = _Others(config.score, hypernetwork.space, splits, truth.architectures)
    methods, members = _methods(config, hypernetwork, own, others)
    ranking = compare(truth, methods, config.resamples, config.seed, members)
    losses, notes = _spoilt_losses(config, hypernetwork, own[1], others)
    checks = judge(losses, methods[PRIMARY], truth.accuracy, truth.classes, config.resamples, config.seed)
    return Outcome(ranking, checks, notes)


@dataclasses.dataclass(frozen=True, eq=False)
class _Others:
    """Scores of the same architectures by other hypernetworks of the space, or in another way.

    Attributes:
        score: how, unless another way is asked for.
        space: that every hypernetwork has to be made for.
        splits: the images.
        architectures: what is scored.
    """

    score: ScoreConfig
    space: SearchSpace[Any]
    splits: Splits
    architectures: tuple[Any, ...]

    def __call__(self, source: str, score: ScoreConfig | None = None, step: int | None = None) -> tuple[Scores, float]:
        """The scores by a checkpoint (at a step), and the seconds that an architecture took."""
        loaded = _fitting(source, self.space, step)
        scorer = Scorer(loaded, self.splits.train, self.splits.score, score or self.score)
        return timed_scores(scorer, self.architectures)


def _methods(
    config: RankConfig, hypernetwork: Hypernetwork, own: tuple[Scores, float], others: _Others
) -> tuple[dict[str, Method], dict[str, list[Vector]]]:
    """Name -> method of every row; and of those that are means over seeds, the scores of each seed."""
    scores, seconds = own
    training = training_seconds(config.checkpoint)
    methods = generated_methods(scores, seconds, training)
    methods |= free_methods(hypernetwork.space, others.architectures, others.splits.train.images, config.seed)
    methods = {COMBINED: combine(methods), **methods}
    members: dict[str, list[Vector]] = {}
    for step in config.points:
        earlier, own_seconds = others(config.checkpoint, step=step)
        share = training * step / max(hypernetwork.step, 1)
        methods[f"{PRIMARY}, step {step}"] = Method(-earlier.train_loss, own_seconds, share)
    for steps in config.fidelities:
        on, own_seconds = others(config.checkpoint, dataclasses.replace(config.score, steps=steps))
        tuned = generated_methods(on, own_seconds, training)
        methods |= {f"{name}, {steps} steps on": tuned[name] for name in list(tuned)[:2]}
    if config.ensemble:
        each = [own, *(others(source) for source in config.ensemble)]
        total = training + sum(training_seconds(source) for source in config.ensemble)
        name = f"{PRIMARY}, mean of {len(each)} seeds"
        mean = ensemble([member for member, _ in each])
        methods[name] = Method(-mean.train_loss, sum(one for _, one in each), total)
        members[name] = [-member.train_loss for member, _ in each]
    if config.supernet is not None:
        if _fitting(config.supernet, hypernetwork.space).config.delta:
            raise ValueError(
                f"supernet {config.supernet!r}: its delta is not frozen at 0; train it with --ghn.no-delta"
            )
        supernet = generated_methods(*others(config.supernet), training_seconds(config.supernet))
        methods |= {name.replace("generated weights", "delta = 0"): method for name, method in supernet.items()}
    return methods, members


def _spoilt_losses(
    config: RankConfig, hypernetwork: Hypernetwork, seconds: float, others: _Others
) -> tuple[dict[str, Vector], list[str]]:
    """Name -> training losses [A] of every check that the configuration asks for, or that is cheap where it leaves the
    choice; and what was left out.

    Args:
        config: which checks.
        hypernetwork: what is checked.
        seconds: that an architecture takes to score.
        others: scores by the hypernetwork that is too small.
    """
    losses: dict[str, Vector] = {}
    notes = []
    cost = 1.5 * seconds * len(others.architectures)
    if config.checks or (config.checks is None and cost <= AFFORDABLE):
        alone = dataclasses.replace(config.score, unseen=False)
        seen_only = Scorer(hypernetwork, others.splits.train, others.splits.score, alone)
        losses |= spoilt_scores(seen_only, hypernetwork, others.architectures, config.seed)
    elif config.checks is None:
        notes.append(f"Checks were left out: some {cost:.0f} s; ask for them with --checks True.")
    if config.small is not None:
        losses[SMALL] = others(config.small)[0].train_loss
    return losses, notes


def _truth(config: RankConfig, hypernetwork: Hypernetwork) -> GroundTruth:
    assert config.ground_truth is not None
    truth = read_ground_truth(config.ground_truth, hypernetwork.space, config.column)
    if not config.seen:
        truth = truth.select(hypernetwork.unseen)
    if len(truth.architectures) < 10:
        raise ValueError(
            f"ground truth {config.ground_truth!r}: only {len(truth.architectures)} classes were kept out of training; "
            "hold out a larger share, or rank seen classes too with --seen"
        )
    return truth


def _fitting(source: str, space: SearchSpace[Any], step: int | None = None) -> Hypernetwork:
    """A hypernetwork of this very space."""
    loaded = load_checkpoint(source, step=step)
    if loaded.space != space:
        raise ValueError(f"checkpoint {source!r}: made for {loaded.space.describe()}, not for {space.describe()}")
    return loaded


def training_seconds(source: str) -> float:
    """Wall time of the training of a run folder, from its metrics; nan for other checkpoints. Breaks are not counted:
    the median time between two lines stands for each."""
    metrics = Path(source) / "metrics.jsonl"
    if not metrics.is_file():
        return float("nan")
    times = [json.loads(line)["time"] for line in metrics.read_text().splitlines()]
    return float(np.median(np.diff(times)) * len(times)) if len(times) > 1 else float("nan")


def write_ranking(
    config: RankConfig, hypernetwork: Hypernetwork, outcome: Outcome, out: Path, console: Console
) -> None:
    """ranking.json, scores.csv and ranking.md; from these report.html and the scatter plot; a table on the terminal."""
    about = {
        "space": hypernetwork.space.describe(),
        "checkpoint": config.checkpoint,
        "steps": hypernetwork.step,
        "parameters": hypernetwork.parameter_count,
        "ground_truth": str(config.ground_truth),
        "images": config.score.images,
        "resamples": config.resamples,
        "seed": config.seed,
    }
    rows, notes = write_ranking_files(outcome.ranking, outcome.checks, outcome.notes, about, hypernetwork.space, out)
    scatter(out)
    write_html(out)
    console.print(rich_table(rows, "ranking against ground truth"))
    for note in notes:
        console.print(note, highlight=False)
    console.print(f"written to {out}; read {out / 'report.html'}")


def select_candidates(config: RankConfig, hypernetwork: Hypernetwork) -> list[Any]:
    """The candidates that the configuration names."""
    keep = None if config.seen or hypernetwork.held_out[0] == 0 else hypernetwork.unseen
    return parse_candidates(config.candidates, hypernetwork.space, config.seed, keep)


def parse_candidates(
    text: str, space: SearchSpace[Any], seed: int = 0, keep: Callable[[Any], bool] | None = None
) -> list[Any]:
    """A number of sampled classes that satisfy `keep`, "all" classes, or the architectures of a file, one a line."""
    if text.isdigit():
        if int(text) < 1:
            raise ValueError(f"candidates {text!r}: nothing to score; give a number of at least 1")
        return sample_classes(space, int(text), seed, keep)
    if text == "all":
        return representatives(space)
    try:
        lines = Path(text).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"candidates {text!r}: a number, 'all', or a readable text file ({error})") from error
    architectures = [_read(space, line, f"{text}, line {n}") for n, line in enumerate(lines, start=1) if line.strip()]
    if not architectures:
        raise ValueError(f"candidates {text!r}: the file holds no architecture")
    return architectures


def _read(space: SearchSpace[Any], line: str, where: str) -> Any:
    try:
        return space.from_string(line)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


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
        ValueError: an open hypernetwork, which has no space to score.
    """
    space = hypernetwork.space
    splits = load(data)
    known = hypernetwork.preprocessing
    if splits.train.class_names != known.class_names:
        raise DataError(
            f"data {data.source!r}: classes {splits.train.class_names}, the checkpoint knows {known.class_names}"
        )
    if splits.train.images.shape[1:] != space.input_shape:
        raise DataError(
            f"data {data.source!r}: images of shape {splits.train.images.shape[1:]}, the checkpoint takes "
            f"{space.input_shape}; set --data.image-size {space.input_shape[0]}"
        )
    if not np.allclose(splits.train.mean + splits.train.std, known.mean + known.std, atol=1e-4):
        raise DataError(
            f"data {data.source!r}: mean {splits.train.mean}, standard deviation {splits.train.std}; the checkpoint "
            f"was trained with {known.mean}, {known.std}: other data, or another split"
        )
    return splits
