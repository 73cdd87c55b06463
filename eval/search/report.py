"""What a search found: search.json, evaluations.csv and the tables on a terminal, made from what was stored."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from architectures.spaces import settings
from eval.ground_truth import GroundTruth
from eval.report import write_json
from eval.search.config import SearchConfig
from eval.search.history import Evaluation, best_of, gains
from eval.search.marginals import marginals
from eval.search.pareto import hypervolume, pareto_front
from eval.search.problem import Problem
from eval.search.scorers import SHARE
from train.metrics import write_whole

SHOWN = 10  # of the best
CURVES = 3  # of the best, whose exits are told
COLUMNS = ("number", "architecture", "class", "fidelity", "score", "parameters", "flops", "latency_ms")
COLUMNS_OF_RUN = ("seconds", "elapsed", "parent", "repeats")


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """A search so far.

    Attributes:
        config: of the search.
        problem: what was searched.
        unit: of scores.
        evaluations: all that are finished, in order.
        controls: random architectures by the same score.
        stopped: why.
        truth: the table that scores come from, or that a calibration was fitted on.
        exits: of an architecture, where the score is the area under their curve.
    """

    config: SearchConfig
    problem: Problem
    unit: str
    evaluations: list[Evaluation]
    controls: list[Evaluation]
    stopped: str
    truth: GroundTruth | None = None
    exits: Callable[[Any], Sequence[tuple[int, float]]] | None = None

    @property
    def scored(self) -> list[Evaluation]:
        """Without repeats."""
        return [evaluation for evaluation in self.evaluations if evaluation.repeats is None]

    @property
    def best(self) -> list[Evaluation]:
        """The best first, one a class, at the highest fidelity that was reached."""
        top = max(evaluation.fidelity for evaluation in self.evaluations)
        own = [evaluation for evaluation in self.scored if evaluation.fidelity == top]
        return sorted(own, key=lambda e: (-e.rank_value, e.index))

    @property
    def front(self) -> list[Evaluation]:
        """What nothing dominates, for several objectives; by the second objective."""
        if len(self.config.objective) < 2:
            return []
        values = np.array([gains(evaluation, self.config.objective) for evaluation in self.scored])
        rows = [self.scored[row] for row in pareto_front(values)]
        return sorted(rows, key=lambda e: gains(e, self.config.objective)[1], reverse=True)

    @property
    def optimum(self) -> float:
        """The best accuracy that the table holds within the constraints; nan where scores are not its accuracies."""
        if self.truth is None or self.config.scorer != "tabular":
            return math.nan
        pairs = zip(self.truth.architectures, self.truth.accuracy, strict=True)
        return max((float(value) for a, value in pairs if self.problem.allows(a)), default=math.nan)


def curve(evaluations: Sequence[Evaluation]) -> list[tuple[int, float, float, int]]:
    """(evaluations, seconds, best score, its number) wherever the best score at the highest fidelity rises."""
    points, best, count = [], -math.inf, 0
    top = max((evaluation.fidelity for evaluation in evaluations), default=0)
    for evaluation in evaluations:
        count += evaluation.repeats is None
        if evaluation.fidelity == top and evaluation.rank_value > best:
            best = evaluation.rank_value
            points.append((count, evaluation.elapsed, best, evaluation.index))
    return points


def against_random(result: Result) -> dict[str, Any]:
    """The best found beside random architectures of the same problem, at equal numbers too; empty without them.

    The relative improvement is that of "NAS evaluation is frustratingly hard" (Yang et al. 2020), for accuracies only.
    Scores are the search's own, so this says whether searching beat drawing *by that score*; whether that makes better
    networks is what retraining tells.
    """
    random = result.controls if result.config.algorithm != "random" else result.scored
    scores = np.array([e.score for e in random if math.isfinite(e.score) and e.fidelity == 0])
    own = [e for e in result.scored if e.fidelity == 0]
    if not len(scores) or not own:
        return {}
    found, early = best_of(own), best_of(own[: len(scores)])
    assert found is not None and early is not None
    values: dict[str, Any] = {
        "n": len(scores),
        "mean": float(scores.mean()),
        "best": float(scores.max()),
        "found": found.score,
        "found_at_n": early.score,
        "share_below_found": float((scores < found.score).mean()),
    }
    if result.unit == SHARE:
        values["relative_improvement"] = 100 * (found.score - values["mean"]) / values["mean"]
    return values


def volume_against_random(result: Result) -> tuple[float, float] | None:
    """What the front of as many evaluations as there are controls dominates, and what the controls' front does.

    In the units of both objectives multiplied, above the worst value of either among all of these; None where there are
    not two objectives, or no controls.
    """
    names = result.config.objective
    if len(names) != 2 or not result.controls:
        return None
    parts = [result.scored[: len(result.controls)], result.controls]
    values = [np.array([gains(e, names) for e in part]) for part in parts]
    finite = [own[np.isfinite(own).all(-1)] for own in values]
    worst = np.concatenate(finite).min(0)
    return hypervolume(finite[0], worst), hypervolume(finite[1], worst)


def result_rows(result: Result) -> list[list[str]]:
    """Header and the best, or the Pareto front."""
    shown = result.front or result.best[:SHOWN]
    timed = any(math.isfinite(e.costs.latency_ms) for e in shown)
    header = ["number", "architecture", f"score ({result.unit})", "parameters", "FLOPs", *(["ms"] if timed else [])]
    rows = [header]
    for e in shown:
        cells = [str(e.index), result.problem.space.to_string(e.architecture), f"{e.score:.4f}"]
        cells += [f"{e.costs.parameters:,}", f"{e.costs.flops:,}"]
        rows.append(cells + ([f"{e.costs.latency_ms:.3f}"] if timed else []))
    return rows


def summary_lines(result: Result) -> list[str]:
    """What has to be said: sizes and times, the comparison with random, regret."""
    scored, last = result.scored, result.evaluations[-1]
    spent = sum(e.seconds for e in scored)
    failed = sum(not math.isfinite(e.score) for e in scored)
    lines = [
        f"{len(scored):,} architectures scored ({len(result.evaluations) - len(scored):,} repeats, {failed} failed) in "
        f"{last.elapsed:.0f} s, {100 * spent / max(last.elapsed, 1e-9):.0f}% of it in the scorer; {result.stopped}."
    ]
    lines.append(f"Best: {result.problem.space.to_string(result.best[0].architecture)}")
    random = against_random(result)
    if random and result.config.algorithm != "random":
        verdict = "above" if random["found_at_n"] > random["best"] else "not above"
        lines.append(
            f"Against {random['n']} random architectures (mean {random['mean']:.4f}, best {random['best']:.4f}): after "
            f"as many evaluations the search had {random['found_at_n']:.4f}, {verdict} the best random one; in the end "
            f"{random['found']:.4f}, above {100 * random['share_below_found']:.0f}% of them."
        )
    volumes = volume_against_random(result)
    if volumes is not None:
        lines.append(
            f"Front of the first {len(result.controls)} evaluations against that of as many random architectures: it "
            f"dominates {volumes[0] / max(volumes[1], 1e-300):.2f} times the volume."
        )
    if not random:
        lines.append("No comparison with random architectures: --controls is 0, or the search was stopped before it.")
    if "relative_improvement" in random:
        lines.append(f"Relative improvement over the mean random architecture: {random['relative_improvement']:.2f}%.")
    if math.isfinite(result.optimum):
        lines.append(f"Regret in the table: {100 * (result.optimum - result.best[0].score):.2f} points.")
    return lines


def write_result(result: Result, out: Path) -> None:
    """search.json and evaluations.csv."""
    space = result.problem.space

    def told(e: Evaluation) -> dict[str, Any]:
        return {
            "number": e.index,
            "architecture": space.to_string(e.architecture),
            "score": e.score,
            **e.costs._asdict(),
        }

    scored = result.scored
    values = {
        "about": {
            "space": result.problem.describe(),
            "settings": settings(space),
            "scorer": result.config.scorer,
            "algorithm": result.config.algorithm,
            "objective": list(result.config.objective),
            "unit": result.unit,
            "seed": result.config.seed,
            "stopped": result.stopped,
        },
        "evaluations": len(scored),
        "repeats": len(result.evaluations) - len(scored),
        "seconds": result.evaluations[-1].elapsed,
        "scorer_seconds": sum(e.seconds for e in scored),
        "best": [told(e) for e in result.best[:SHOWN]],
        "front": [told(e) for e in result.front],
        "curve": curve(result.evaluations),
        "optimum": result.optimum,
        "exits": {space.to_string(e.architecture): result.exits(e.architecture) for e in result.best[:CURVES]}
        if result.exits is not None
        else {},
        "random": against_random(result),
        "hypervolume": volume_against_random(result),
        "controls": [e.score for e in result.controls],
        "marginals": marginals(space, [e for e in scored if e.fidelity == 0]),
        "notes": summary_lines(result),
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "search.json", values)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *COLUMNS_OF_RUN])
    for e in result.evaluations:
        own = [e.index, space.to_string(e.architecture), e.key, e.fidelity, f"{e.score:.8g}", *e.costs]
        writer.writerow([*own, round(e.seconds, 4), round(e.elapsed, 3), e.parent, e.repeats])
    write_whole(out / "evaluations.csv", text.getvalue())
