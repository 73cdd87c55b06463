"""`ghn-eval ground-truth`: what a table of accuracies is worth, and its export as CSV and card."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from architectures.spaces import SearchSpace, from_settings
from eval.ground_truth import GroundTruth, read_ground_truth
from eval.metrics import reliability, split_half_kendall, split_half_kendall_top10, split_half_spearman
from eval.report import write_json
from eval.tabular import DEFAULT_COLUMN, GroundTruthError, read_card
from train.config import SpaceConfig
from train.run_store import RunStore


@dataclasses.dataclass(frozen=True)
class TruthConfig:
    """Which table."""

    source: str = "embedded"  # a CSV, JSON or SQLite file, or "embedded" for the table in the package
    column: str = DEFAULT_COLUMN  # of accuracies; "cifar10/test-accuracy" and the like in JSON files
    space: SpaceConfig = SpaceConfig()  # whose architectures they are, where the table's card does not tell


def ground_truth(config: TruthConfig, out: Path | None, console: Console) -> dict[str, Any]:
    """Shows a table's card and, with `out`, writes a CSV and its card.

    Args:
        config: which table.
        out: CSV file to write; the card is written beside it as JSON.
        console: to show it on.

    Returns:
        The card.

    Raises:
        ValueError: the table cannot be read, or `out` does not end in .csv.
    """
    if out is not None and out.suffix != ".csv":
        raise ValueError(f"{out}: names the CSV, beside which its card will lie as .json; let it end in .csv")
    space = table_space(config)
    truth = read_ground_truth(config.source, space, config.column)
    card = truth_card(truth, space)
    table = Table("", str(config.source), title="ground truth", title_justify="left")
    for row in card_rows(card):
        table.add_row(*row)
    console.print(table)
    if out is not None:
        _export(truth, card, space, out)
        console.print(f"written to {out} and {out.with_suffix('.json')}")
    return card


def table_space(config: TruthConfig) -> SearchSpace[Any]:
    """The space that the table's own card names, or that of the configuration.

    Raises:
        ValueError: a card that cannot be read, or names no space of this package.
    """
    path = Path(config.source)
    kept = path.suffix in (".sqlite", ".db")
    card = RunStore(path).card() if kept else read_card(path)
    if "space" in card:
        try:
            return from_settings(card["space"])
        except (ValueError, TypeError) as error:
            where = path if kept else path.with_suffix(".json")
            raise GroundTruthError(
                f"{where}: the table's card names its space wrongly ({error}); correct or delete its entry 'space'"
            ) from error
    # Strings, classes and connectedness do not depend on the size of images.
    return config.space.build((32, 32, 3), 10)


def truth_card(truth: GroundTruth, space: SearchSpace[Any]) -> dict[str, Any]:
    """Everything that somebody who uses the table should know, as JSON values."""
    runs, accuracy = truth.runs, truth.accuracy
    several = truth.several

    def both(pearson: float, spearman: float) -> dict[str, float | None]:
        return {"pearson, Spearman-Brown": _rounded(pearson), "spearman, Spearman-Brown": _rounded(spearman)}

    nan = float("nan")
    own = {
        "classes": len(truth.architectures),
        "runs": int((~np.isnan(runs)).sum()),
        "seeds_per_class": [int(count((~np.isnan(runs)).sum(axis=1))) for count in (np.min, np.max)],
        "accuracy": {name: _rounded(float(f(accuracy))) for name, f in (("mean", np.mean), ("best", np.max))},
        "reliability_of_the_mean": both(*(reliability(runs, ranks) if several else nan for ranks in (False, True))),
        "agreement_between_seeds": {
            "spearman": _rounded(split_half_spearman(runs) if several else nan),
            "kendall": _rounded(split_half_kendall(runs) if several else nan),
            "kendall, top 10%": _rounded(split_half_kendall_top10(runs) if several else nan),
        },
        "left_out": {reason: count for reason, count in truth.left_out.items() if count} or "nothing",
        "covers": f"{len(truth.architectures):,} classes of {space.name} ({space.size:,} architectures); "
        "statistics and searches are restricted to them",
    }
    return {**truth.card, **own}


def _rounded(value: float) -> float | None:
    return round(value, 4) if np.isfinite(value) else None


def card_rows(card: dict[str, Any]) -> list[list[str]]:
    """The card's short entries as rows of a table."""
    hidden = ("protocol", "space", "data", "provenance")
    rows = []
    for name, value in card.items():
        if name not in hidden:
            pairs = value.items() if isinstance(value, dict) else [("", value)]
            shown = ", ".join(f"{key} {'unknown' if one is None else one}".strip() for key, one in pairs)
            rows.append([name.replace("_", " "), shown])
    return rows


def _export(truth: GroundTruth, card: dict[str, Any], space: SearchSpace[Any], out: Path) -> None:
    """One row a run: class means are not stored, so that nobody mistakes a mean for a run."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["architecture", "class", "seed", "test_accuracy"])
        for architecture, key, runs in zip(truth.architectures, truth.classes, truth.runs, strict=True):
            for seed, accuracy in enumerate(runs):
                if np.isfinite(accuracy):
                    writer.writerow([space.to_string(architecture), key, seed, round(float(accuracy), 6)])
    write_json(out.with_suffix(".json"), card)
