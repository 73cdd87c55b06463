"""`ghn-eval ensemble`: the best of a search, chosen to predict well together with generated weights."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

from rich.console import Console

import ghn
from architectures.checks import at_least
from eval.rank import load_matching
from eval.report import rich_table, write_json
from eval.search.ensemble import EnsembleConfig, Quality, compare, predictions
from train.data import DataConfig


@dataclasses.dataclass(frozen=True)
class EnsemblesConfig:
    """Which candidates, and how members are chosen."""

    candidates: int = 30  # the best of the search; as many as there are members at least
    ensemble: EnsembleConfig = EnsembleConfig()
    checkpoint: str = "demo"  # run folder, .safetensors file, or name of a packaged checkpoint
    data: DataConfig = DataConfig()  # has to be the data that the checkpoint was trained on
    images: int = 500  # of the score split, to choose on; as many of the test split to judge on

    def __post_init__(self) -> None:
        at_least(self, candidates=self.ensemble.size, images=1)


def ensemble(config: EnsemblesConfig, out: Path, console: Console) -> dict[str, tuple[list[int], Quality]]:
    """Chooses on the score split, judges on the test split, writes ensemble.json.

    Raises:
        ValueError: no finished search, too few results, or architectures of another space than the checkpoint's.
    """
    hypernetwork = ghn.load(config.checkpoint)
    splits = load_matching(hypernetwork, config.data)
    best, size = _best(out, config.candidates), config.ensemble.size
    if len(best) < size:
        raise ValueError(f"EnsembleConfig.size={size}: {out} holds {len(best)} scored architectures; use fewer members")
    architectures = [hypernetwork.space.from_string(text) for text in best]
    probabilities = [
        predictions(hypernetwork, architectures, split, config.images) for split in (splits.score, splits.test)
    ]
    labels = [split.labels[: config.images] for split in (splits.score, splits.test)]
    found = compare((probabilities[0], labels[0]), (probabilities[1], labels[1]), config.ensemble)
    rows = [["ensemble", "accuracy, %", "loss, nats", "disagreement"]]
    for name, (_, own) in found.items():
        rows.append([name, f"{100 * own.accuracy:.2f}", f"{own.loss:.4f}", f"{own.disagreement:.3f}"])
    console.print(rich_table(rows, "generated weights on test images, no training"))
    told = {
        name: {"architectures": [hypernetwork.space.to_string(architectures[row]) for row in members], **own.__dict__}
        for name, (members, own) in found.items()
    }
    write_json(out / "ensemble.json", told)
    return found


def _best(out: Path, count: int) -> list[str]:
    try:
        with (out / "evaluations.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if not row["repeats"] and row["score"] != "nan"]
    except OSError as error:
        raise ValueError(f"{out}: holds no finished search ({error}); make one with ghn-eval search") from error
    rows.sort(key=lambda row: (-int(row["fidelity"]), -float(row["score"])))
    return list(dict.fromkeys(row["architecture"] for row in rows))[:count]
