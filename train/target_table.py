"""A table of architectures trained from scratch: resumable, one row a run, one protocol a file."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from architectures.spaces import SearchSpace, settings
from train.data import DataConfig, Splits
from train.target import Protocol, Trainer

COLUMNS = ("architecture", "class", "seed", "test_accuracy", "test_loss", "train_loss", "seconds")


def sample_classes(
    space: SearchSpace[Any], count: int, seed: int, accept: Callable[[Any], bool] | None = None
) -> list[Any]:
    """`count` random connected architectures of distinct isomorphism classes, in a reproducible order.

    Args:
        space: where they come from.
        count: how many.
        seed: of the draw.
        accept: a further condition, such as being held out.

    Raises:
        ValueError: after 1,000 draws in a row that gave nothing new.
    """
    rng = np.random.default_rng(seed)
    seen: dict[str, Any] = {}
    misses = 0
    while len(seen) < count:
        architecture = space.sample(rng)
        key = space.canonical(architecture)
        misses += 1
        if key not in seen and space.connected(architecture) and (accept is None or accept(architecture)):
            seen[key] = architecture
            misses = 0
        if misses > 1000:
            raise ValueError(f"count={count}: only {len(seen)} connected classes that fit were found; ask for fewer")
    return list(seen.values())


@dataclasses.dataclass(frozen=True)
class Row:
    """One finished run."""

    architecture: str
    key: str  # isomorphism class
    seed: int
    test_accuracy: float  # share of 1
    test_loss: float  # nats
    train_loss: float  # nats, mean of the last epoch
    seconds: float


class TargetTable:
    """A CSV of finished runs beside a JSON file that says under which protocol they were made."""

    def __init__(
        self, path: Path, space: SearchSpace[Any], splits: Splits, data: DataConfig, protocol: Protocol
    ) -> None:
        self._path, self._space, self._splits, self._protocol = path, space, splits, protocol
        self.protocol_hash = protocol.hash(space, data, dict(splits.provenance))
        card = {
            "protocol_hash": self.protocol_hash,
            "protocol": dataclasses.asdict(protocol),
            "space": settings(space),
            "data": dataclasses.asdict(data),
            "provenance": dict(splits.provenance),
        }
        card_path = path.with_suffix(".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        if card_path.exists():
            recorded = json.loads(card_path.read_text())["protocol_hash"]
            if recorded != self.protocol_hash:
                raise ValueError(
                    f"{path}: made under protocol {recorded}, this run's is {self.protocol_hash}; "
                    "protocols are never mixed in one table, choose another --out"
                )
        else:
            card_path.write_text(json.dumps(card, indent=2, default=str) + "\n")
        if not path.exists():
            path.write_text(",".join(COLUMNS) + "\n")
        text = path.read_text()
        if not text.endswith("\n"):  # a row that a kill cut short: it is trained again
            path.write_text(text[: text.rfind("\n") + 1])

    def rows(self) -> list[Row]:
        """All finished runs."""
        with self._path.open(newline="") as file:
            return [
                Row(row["architecture"], row["class"], int(row["seed"]), *(float(row[name]) for name in COLUMNS[3:]))
                for row in csv.DictReader(file)
            ]

    def run(self, architectures: Sequence[Any], seeds: Sequence[int]) -> Iterator[Row]:
        """Trains every architecture that has no row yet for a seed, seed by seed, and yields each row once written."""
        done = {(row.architecture, row.seed) for row in self.rows()}
        trainer = Trainer(self._space, self._splits, self._protocol)
        for seed, architecture in itertools.product(seeds, architectures):
            text = self._space.to_string(architecture)
            if (text, seed) in done:
                continue
            start = time.perf_counter()
            outcome = trainer(architecture, [seed])
            row = Row(
                text,
                self._space.canonical(architecture),
                seed,
                *[*(round(float(values[0]), 5) for values in outcome), round(time.perf_counter() - start, 2)],
            )
            with self._path.open("a", newline="") as file:
                csv.writer(file).writerow(dataclasses.astuple(row))
            yield row
