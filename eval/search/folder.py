"""What the folder of a search holds, as other commands read it."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train.data import DataConfig, DataError, check_provenance

COMPARISON = "comparison.json"  # of a retrain
Rows = Mapping[int, Mapping[str, str]]  # of evaluations.csv, by number


def read_search(folder: Path) -> tuple[dict[str, Any], Rows]:
    """search.json, and evaluations.csv.

    Raises:
        ValueError: a folder without a finished search.
    """
    try:
        values = dict(json.loads((folder / "search.json").read_text()))
        with (folder / "evaluations.csv").open(newline="") as file:
            return values, {int(row["number"]): row for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{folder}: holds no finished search ({error}); make one with ghn-eval search") from error


def holds_search(folder: Path) -> bool:
    """Whether a search has been finished, or stopped, there."""
    return (folder / "search.json").exists() and (folder / "evaluations.csv").exists()


def best_of_rows(rows: Rows) -> list[str]:
    """Architectures by score, the best first, at the highest fidelity that was reached; failed ones are left out."""
    top = max((int(row["fidelity"]) for row in rows.values()), default=0)
    own = [row for row in rows.values() if not row["repeats"] and int(row["fidelity"]) == top]
    own = [row for row in own if math.isfinite(float(row["score"]))]
    return [row["architecture"] for row in sorted(own, key=lambda row: (-float(row["score"]), int(row["number"])))]


def read_comparison(folder: Path) -> dict[str, Any] | None:
    """Of the last finished retrain; None without one, and for a file that is no comparison."""
    try:
        values = json.loads((folder / COMPARISON).read_text())
    except (OSError, ValueError):
        return None
    whole = isinstance(values, dict) and "verdict" in values and isinstance(values.get("accuracy"), dict)
    return values if whole else None


def check_data(folder: Path, found: Mapping[str, str | int]) -> None:
    """Refuses data that is not the search's own.

    Args:
        folder: of the search.
        found: provenance of the data that was loaded.

    Raises:
        ValueError: the data differs; the message names the options that load the search's.
    """
    recorded = _recorded(folder)
    if not recorded:
        return
    try:
        check_provenance(found, recorded.get("provenance", {}))
    except DataError as error:
        wanted = " ".join(data_options(folder)) or "no --data options"
        raise ValueError(
            f"data: {folder} holds a search on other data; give {wanted}, or name --architectures and another --out "
            f"({error})"
        ) from error


def data_options(folder: Path) -> list[str]:
    """What loads a search's own data, as options of a command line."""
    own = dict(_recorded(folder).get("config", {}).get("data", {}))
    usual = dataclasses.asdict(DataConfig())
    pairs = [(name, own[name]) for name in usual if name in own and own[name] != usual[name]]
    return [part for name, value in pairs for part in (f"--data.{name.replace('_', '-')}", shlex.quote(str(value)))]


def retrain_command(folder: Path) -> str:
    """What trains architectures of a search from scratch, but for their names, which follow."""
    return " ".join(
        ["ghn-eval retrain --out", shlex.quote(str(folder)), *data_options(folder), "--random 0 --architectures"]
    )


def _recorded(folder: Path) -> dict[str, Any]:
    """config.json of the search: its configuration, and where its data came from."""
    try:
        return dict(json.loads((folder / "config.json").read_text()))
    except (OSError, ValueError):
        return {}
