"""`ghn-eval demo`: from nothing to a trained hypernetwork, a ranking of unseen architectures and its proof."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from architectures.checks import at_least
from architectures.spaces import SearchSpace
from eval.plots import groups, training_curve
from eval.rank import RankConfig, load_matching, rank_against, write_ranking
from eval.ranking import Ranking, timed_scores
from eval.report import markdown_table, ranking_notes, ranking_rows, rich_table, write_candidates
from eval.scoring import Scorer
from ghn import Hypernetwork
from train.config import TrainConfig
from train.data import load
from train.loop import train
from train.target import Protocol, Trainer
from train.target_table import sample_classes


@dataclasses.dataclass(frozen=True)
class DemoConfig:
    """The demonstration; with the defaults about 9 minutes on two CPU cores."""

    train: TrainConfig = TrainConfig()
    protocol: Protocol = Protocol()  # of the networks trained from scratch at the end
    candidates: int = 500  # unseen classes to rank
    finalists: int = 3  # of the best, of random ones, and of the worst, to be trained from scratch
    finalist_seeds: int = 2  # trainings of each
    ground_truth: str | None = "embedded"  # table that the ranking is held against
    resamples: int = 2000  # of the bootstrap

    def __post_init__(self) -> None:
        at_least(self, candidates=3, finalists=1, finalist_seeds=1, resamples=1)


def demo(config: DemoConfig, out: Path, console: Console) -> Path:
    """Trains, ranks, checks, and writes report.md with its plots into `out`; returns the report's path."""
    start = time.perf_counter()
    console.rule("1. train a graph hypernetwork, and a supernet (delta = 0) beside it")
    hypernetwork = _train_both(config, out)
    splits = load_matching(hypernetwork, config.train.data)
    training_curve(out / "ghn" / "metrics.jsonl", out / "training")
    trained_seconds = time.perf_counter() - start

    console.rule(f"2. rank {config.candidates} architectures that it has never seen")
    space = hypernetwork.space
    scorer = Scorer(hypernetwork, splits.train, splits.score)
    candidates = sample_classes(space, config.candidates, seed=1, accept=hypernetwork.unseen)
    scores, seconds = timed_scores(scorer, candidates)
    order = write_candidates(out / "candidates.csv", space, candidates, scores)
    console.print(f"{seconds:.3f} s an architecture; best: {space.to_string(candidates[order[0]])}")

    finalists = _finalists(config, [candidates[row] for row in order])
    members = [space.to_string(architecture) for group in finalists.values() for architecture in group]
    ranking = None
    with _mapping(elsewhere=config.ground_truth is not None) as map_:
        accuracies = map_(functools.partial(_trained_accuracy, config), members)
        if config.ground_truth is not None:
            console.rule("3. hold the ranking against ground truth, while finalists are trained")
            rank_config = RankConfig(
                checkpoint=str(out / "ghn"),
                supernet=str(out / "supernet"),
                ground_truth=config.ground_truth,
                resamples=config.resamples,
            )
            outcome = rank_against(rank_config, hypernetwork, splits, scorer)
            write_ranking(rank_config, hypernetwork, outcome, out, console)
            ranking = outcome.ranking

        console.rule("4. train the best, random and the worst from scratch")
        trained = iter(list(track(accuracies, "training from scratch", len(members), console=console)))
    finals = {name: [next(trained) for _ in group] for name, group in finalists.items()}
    (out / "finalists.json").write_text(json.dumps(finals, indent=2) + "\n")
    groups(finals, "test accuracy from scratch, %", out / "finalists")

    report = _write_report(
        config, out, hypernetwork, ranking, finals, scores, trained_seconds, time.perf_counter() - start
    )
    console.print(rich_table(_final_rows(finals), "accuracy on test images, trained from scratch"))
    console.print(f"[bold]{report}[/]")
    return report


def _train_both(config: DemoConfig, out: Path) -> Hypernetwork:
    """Trains the hypernetwork here, and the supernet in a second process on the other core.

    Both get the same number of steps and the same tuning; the supernet only has delta frozen at 0.
    """
    supernet = dataclasses.replace(config.train, ghn=dataclasses.replace(config.train.ghn, delta=False))
    process = multiprocessing.get_context("spawn").Process(
        target=train, args=(supernet, out / "supernet", False, False)
    )
    process.start()
    try:
        hypernetwork = train(config.train, out / "ghn")
    except BaseException:
        process.terminate()
        raise
    process.join()
    if process.exitcode != 0:
        raise ValueError(
            f"training the supernet in {out / 'supernet'} failed (exit code {process.exitcode}); see above"
        )
    return hypernetwork


def _finalists(config: DemoConfig, ordered: Sequence[Any]) -> dict[str, list[Any]]:
    """The best, random and the worst of candidates in the order of their scores."""
    count = min(config.finalists, len(ordered) // 3)
    picks = np.random.default_rng(0).choice(len(ordered), count, replace=False)
    return {
        f"best {count}": list(ordered[:count]),
        f"random {count}": [ordered[pick] for pick in picks],
        f"worst {count}": list(ordered[-count:]),
    }


@contextlib.contextmanager
def _mapping(elsewhere: bool) -> Iterator[Callable[..., Iterator[float]]]:
    """`map`: here, one by one as results are asked for; or at once in a second process, on the other core."""
    if not elsewhere:
        yield map
        return
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    try:
        yield pool.map
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _trained_accuracy(config: DemoConfig, text: str) -> float:
    """Test accuracy of an architecture after training from scratch, the mean over seeds."""
    space, trainer = _space_and_trainer(config)
    outcome = trainer(space.from_string(text), list(range(config.finalist_seeds)))
    return float(np.mean(outcome.test_accuracy))


@functools.cache
def _space_and_trainer(config: DemoConfig) -> tuple[SearchSpace[Any], Trainer]:
    """Compiled once in a process; made there, because spaces with ops of one's own may not pass between processes."""
    splits = load(config.train.data)
    space = config.train.space.build(splits.train.images.shape[1:], splits.train.classes)
    return space, Trainer(space, splits, config.protocol)


def _final_rows(finals: dict[str, list[float]]) -> list[list[str]]:
    rows = [["group", "mean, %", "each, %"]]
    for name, values in finals.items():
        rows.append([name, f"{100 * np.mean(values):.2f}", ", ".join(f"{100 * value:.2f}" for value in values)])
    return rows


def _write_report(
    config: DemoConfig,
    out: Path,
    hypernetwork: Hypernetwork,
    ranking: Ranking | None,
    finals: dict[str, list[float]],
    scores: Any,
    trained_seconds: float,
    total_seconds: float,
) -> Path:
    parts = [
        "# A graph hypernetwork, trained and put to the test",
        f"{hypernetwork.space.describe()}. Hypernetwork: {hypernetwork.parameter_count:,} parameters, "
        f"{hypernetwork.step:,} steps in {trained_seconds:.0f} s; everything here in {total_seconds:.0f} s.",
        "![training](training.png)",
        f"## {config.candidates} unseen architectures, weights generated and never trained",
        f"Accuracy on the score split: mean {100 * scores.score_accuracy.mean():.1f}%, best "
        f"{100 * scores.score_accuracy.max():.1f}%. All of them, best first: [candidates.csv](candidates.csv).",
    ]
    if ranking is not None:
        notes = "\n".join(f"- {note}" for note in ranking_notes(ranking))
        parts += [
            "## Is the order right?",
            "Architectures of the held-out classes, trained from scratch, against every way of scoring them.",
            "![scatter](scatter.png)",
            markdown_table(ranking_rows(ranking)),
            notes,
        ]
    parts += [
        "## Best, random, worst",
        f"Trained from scratch for {config.protocol.epochs} epochs, {config.finalist_seeds} seeds each; accuracy on "
        "test images that neither training nor scoring saw.",
        "![finalists](finalists.png)",
        markdown_table(_final_rows(finals)),
        "With so few networks this is an illustration; the table above is the evidence."
        if ranking is not None
        else "With so few networks this is an illustration.",
    ]
    report = out / "report.md"
    report.write_text("\n\n".join(parts) + "\n")
    return report
