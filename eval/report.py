"""Rankings as tables: on a terminal, as Markdown, as JSON, as CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from architectures.spaces import SearchSpace
from eval.metrics import Interval
from eval.ranking import Ranking
from eval.scoring import Scores

SHOWN = {
    "spearman": "Spearman",
    "kendall": "Kendall",
    "kendall_top_half": "Kendall, top half",
    "kendall_top10": "Kendall, top 10%",
    "precision_at_10": "precision at 10",
    "precision_at_10_percent": "precision at 10%",
    "regret": "regret at 10, %",
    "choose_1_of_100": "choose 1 of 100, %",
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
    rows = [["method", *SHOWN.values(), "s / architecture"]]
    for name, statistics in ranking.table.items():
        cells = [cell(key, statistics[key]) for key in SHOWN]
        rows.append([name, *cells, f"{ranking.methods[name].seconds:.4f}"])
    return rows


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first row is the header."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
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
    """What has to be said beside the table: sizes, noise, paired differences, partial correlations."""
    truth = ranking.truth
    notes = [
        f"{len(truth.architectures)} connected isomorphism classes, {truth.runs.shape[1]} seed(s) of ground truth "
        "each; 95% percentile bootstrap over classes. Left out: "
        + (", ".join(f"{count} {reason}" for reason, count in truth.left_out.items() if count) or "nothing")
        + ".",
        f"Choosing 1 of 100: a perfect ranking reaches {100 * ranking.oracle:.2f}%, "
        f"a random one {100 * ranking.mean:.2f}%.",
    ]
    if truth.runs.shape[1] > 1:
        notes.append(
            f"Ground truth: reliability of its mean {ranking.reliability:.2f} (Spearman-Brown, Pearson between seeds); "
            f"Kendall between disjoint halves of its seeds {ranking.ceiling:.2f} (noise ceiling)."
        )
    notes += [
        f"Partial Spearman given parameter count and NWOT, {name}: {value}." for name, value in ranking.partial.items()
    ]
    notes += [f"Paired difference, {name}: {value}." for name, value in ranking.differences.items()]
    return notes


def ranking_json(ranking: Ranking) -> dict[str, Any]:
    """Everything, as JSON values."""
    return {
        "n": len(ranking.truth.architectures),
        "methods": {
            name: {
                **{key: interval.as_list() for key, interval in statistics.items()},
                "seconds_per_candidate": ranking.methods[name].seconds,
            }
            for name, statistics in ranking.table.items()
        },
        "partial_spearman": {name: value.as_list() for name, value in ranking.partial.items()},
        "paired_differences": {name: value.as_list() for name, value in ranking.differences.items()},
        "reliability": ranking.reliability,
        "noise_ceiling_kendall": ranking.ceiling,
        "noise_ceiling": ranking.ceiling,
        "oracle_choose_1_of_100": ranking.oracle,
        "mean_accuracy": ranking.mean,
        "left_out": ranking.truth.left_out,
    }


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes values with NaN as null, so that every JSON reader takes it."""
    text = json.dumps(values, indent=2, default=float)
    path.write_text(json.dumps(_finite(json.loads(text)), indent=2) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and value != value else value


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
