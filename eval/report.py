"""Rankings as tables: on a terminal, as Markdown, as JSON, as CSV."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from architectures.spaces import SearchSpace
from eval.checks import Check
from eval.metrics import Interval
from eval.ranking import Ranking
from eval.scoring import Scores
from train.metrics import write_whole

SHOWN = {
    "spearman": "Spearman",
    "kendall": "Kendall",
    "kendall_top_half": "Kendall, top half",
    "kendall_top10": "Kendall, top 10%",
    "precision_at_10": "precision at 10",
    "precision_at_10_percent": "precision at 10%",
    "best_rank_in_10": "best rank in 10",
    "regret": "regret at 10, %",
    "choose_1_of_100": "choose 1 of 100, %",
    "relative_improvement": "over random, %",
}
PERCENT = ("regret", "choose_1_of_100")


def cell(statistic: str, interval: Interval) -> str:
    """A statistic with its interval as text; accuracies in percent."""
    scale, digits = (100, 2) if statistic in PERCENT else (1, 2)
    return (
        f"{scale * interval.value:.{digits}f} [{scale * interval.low:.{digits}f}, {scale * interval.high:.{digits}f}]"
    )


def ranking_rows(ranking: Ranking) -> list[list[str]]:
    """Header and one row a method."""
    failed = bool(ranking.failures)  # the column is there when any method has some
    rows = [["method", *SHOWN.values(), "s / architecture", *(["failures"] if failed else [])]]
    for name, statistics in ranking.table.items():
        cells = [cell(key, statistics[key]) for key in SHOWN]
        rows.append([name, *cells, f"{ranking.methods[name].seconds:.4f}"])
        if failed:
            rows[-1].append(str(ranking.failures.get(name, 0)))
    return rows


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first row is the header. Bars within cells (architectures have them) are escaped."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def rich_table(rows: Sequence[Sequence[str]], title: str) -> Table:
    """The same for a terminal."""
    table = Table(title=title, title_justify="left")
    for place, name in enumerate(rows[0]):
        table.add_column(name, justify="left" if place == 0 else "right")
    for row in rows[1:]:
        table.add_row(*row)
    return table


def ranking_notes(ranking: Ranking) -> list[str]:
    """What has to be said beside the table: sizes, failures, noise, paired differences, partial correlations."""
    truth = ranking.truth
    seeds = (~np.isnan(truth.runs)).sum(axis=1)
    count = str(seeds.min()) if seeds.min() == seeds.max() else f"{seeds.min()} to {seeds.max()}"
    notes = [
        f"{len(truth.architectures)} connected isomorphism classes, {count} seed(s) of ground truth each, and every "
        "statistic is restricted to them; 95% percentile bootstrap over classes. Left out: "
        + (", ".join(f"{number} {reason}" for reason, number in truth.left_out.items() if number) or "nothing")
        + ".",
        f"Choosing 1 of 100: a perfect ranking reaches {100 * ranking.oracle:.2f}%, "
        f"a random one {100 * ranking.mean:.2f}%.",
    ]
    notes += [
        f"{name}: {number} of {len(truth.architectures)} scores are not finite; they rank last."
        for name, number in ranking.failures.items()
    ]
    if noise := ranking.noise:
        notes.append(
            f"Ground truth: reliability of its mean {noise['reliability']:.2f} (Spearman-Brown, Pearson between seeds; "
            f"{noise['reliability_ranks']:.2f} by ranks). Noise ceiling, between disjoint halves of its seeds: Kendall "
            f"{noise['kendall']:.2f}, Spearman {noise['spearman']:.2f}, Kendall in the top 10% "
            f"{noise['kendall_top10']:.2f}."
        )
    notes += [
        f"Spearman corrected for the noise of the ground truth, {name}: {value}."
        for name, value in ranking.disattenuated.items()
    ]
    notes += [
        f"Kendall with seeds of the ground truth and of the hypernetwork redrawn too, {name}: {value}."
        for name, value in ranking.nested.items()
    ]
    notes += [
        f"Partial Spearman given parameter count and NWOT, {name}: {value}." for name, value in ranking.partial.items()
    ]
    for name, value in ranking.differences.items():
        holm = f", p = {ranking.adjusted[name]:.3f} after Holm's correction" if name in ranking.adjusted else ""
        notes.append(f"Paired difference, {name}: {value}{holm}.")
    return notes


def check_rows(checks: Mapping[str, Check]) -> list[list[str]]:
    """Header and one row a check: what is left of the ranking when the hypernetwork reads something else."""
    header = ["what the hypernetwork reads", "Kendall", "right minus this", "rise of the loss, nats"]
    return [header, *([name, str(c.kendall), str(c.difference), str(c.gap)] for name, c in checks.items())]


def ranking_json(ranking: Ranking, checks: Mapping[str, Check] | None = None) -> dict[str, Any]:
    """Everything, as JSON values."""
    count = len(ranking.truth.architectures)
    return {
        "n": count,
        "methods": {
            name: {
                **{key: interval.as_list() for key, interval in statistics.items()},
                "seconds_per_candidate": ranking.methods[name].seconds,
                "training_seconds": ranking.methods[name].training,
                "amortised_seconds_per_candidate": ranking.methods[name].total_seconds(count),
                "failures": ranking.failures.get(name, 0),
            }
            for name, statistics in ranking.table.items()
        },
        "partial_spearman": {name: value.as_list() for name, value in ranking.partial.items()},
        "paired_differences": {name: value.as_list() for name, value in ranking.differences.items()},
        "holm_p": ranking.adjusted,
        "disattenuated_spearman": {name: value.as_list() for name, value in ranking.disattenuated.items()},
        "nested_kendall": {name: value.as_list() for name, value in ranking.nested.items()},
        "checks": {
            name: {key: getattr(check, key).as_list() for key in ("kendall", "difference", "gap")}
            for name, check in (checks or {}).items()
        },
        "reliability": ranking.noise.get("reliability"),
        "noise_ceiling": {key: ranking.noise.get(key) for key in ("kendall", "spearman", "kendall_top10")},
        "truth_seconds": ranking.truth.seconds,
        "oracle_choose_1_of_100": ranking.oracle,
        "mean_accuracy": ranking.mean,
        "left_out": ranking.truth.left_out,
    }


def write_ranking_files(
    ranking: Ranking,
    checks: Mapping[str, Check],
    notes: Sequence[str],
    about: Mapping[str, Any],
    space: SearchSpace[Any],
    out: Path,
) -> tuple[list[list[str]], list[str]]:
    """ranking.json, scores.csv (one row a class, one column a method) and ranking.md.

    Args:
        ranking: the comparison.
        checks: whether architectures are read.
        notes: to be added to the ranking's own.
        about: what was ranked, for the heads of reports.
        space: of the architectures.
        out: folder.

    Returns:
        The table's rows and all notes.
    """
    rows, lines = ranking_rows(ranking), [*ranking_notes(ranking), *notes]
    values = {"about": dict(about), **ranking_json(ranking, checks), "notes": lines}
    write_json(out / "ranking.json", values)
    parts = [markdown_table(rows)]
    if checks:
        parts.append(markdown_table(check_rows(checks)))
    parts.append("\n".join(f"- {line}" for line in lines))
    (out / "ranking.md").write_text("\n\n".join(parts) + "\n")
    truth, error = ranking.truth, ranking.truth.error
    with (out / "scores.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["architecture", "class", "accuracy", "standard_error", *ranking.methods])
        for row, architecture in enumerate(truth.architectures):
            own = [truth.accuracy[row], np.nan if error is None else error[row]]
            scores = [method.scores[row] for method in ranking.methods.values()]
            numbers = [f"{float(value):.8g}" for value in (*own, *scores)]
            writer.writerow([space.to_string(architecture), truth.classes[row], *numbers])
    return rows, lines


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes `finite_json` of the values."""
    write_whole(path, json.dumps(finite_json(values), indent=2) + "\n")


def finite_json(values: Any) -> Any:
    """JSON values with null for numbers that are not finite, so that every JSON reader takes them."""
    return _finite(json.loads(json.dumps(values, default=float)))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_candidates(path: Path, space: SearchSpace[Any], architectures: Sequence[Any], scores: Scores) -> list[int]:
    """Writes the candidates best first (by training loss with generated weights); returns their order."""
    order = sorted(range(len(architectures)), key=lambda row: scores.train_loss[row])
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["rank", "architecture", "class", "parameters", "macs", *Scores._fields])
        for rank, row in enumerate(order, start=1):
            architecture = architectures[row]
            cost = space.cost(architecture)
            values = [round(float(column[row]), 6) for column in scores]
            key = space.canonical(architecture)
            writer.writerow([rank, space.to_string(architecture), key, cost.parameters, cost.macs, *values])
    return order
