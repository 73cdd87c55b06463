"""A table of architectures trained from scratch: resumable, one row a run, one protocol a file.

The runs are kept in an SQLite file; a CSV of them, with a JSON card that names the protocol, is what people read.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from architectures.spaces import CellSpace, SearchSpace, settings
from train.data import DataConfig, Splits
from train.metrics import write_whole
from train.run_store import Row, RunStore, other_protocol
from train.target import Protocol, Trainer, check_data

COLUMNS = ("architecture", "class", "seed", "test_accuracy", "test_loss", "train_loss", "seconds")
MISSES = 1000  # draws in a row that give no new class, after which drawing ends
LISTED = 100_000  # architectures of a space that is gone through as a whole then


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
        ValueError: fewer were found: in a whole small space, or until 1,000 draws in a row gave nothing new.
    """
    rng = np.random.default_rng(seed)
    seen: dict[str, Any] = {}

    def take(architecture: Any) -> bool:
        """Keeps it if it fits and its class is new."""
        key = space.canonical(architecture)
        if key in seen or not space.connected(architecture) or not (accept is None or accept(architecture)):
            return False
        seen[key] = architecture
        return True

    misses = 0
    while len(seen) < count and misses <= MISSES:
        misses = 0 if take(space.sample(rng)) else misses + 1
    if len(seen) < count and isinstance(space, CellSpace) and space.size <= LISTED:  # rare classes are left
        everything = list(space.all())
        for index in rng.permutation(len(everything)):
            if take(everything[index]) and len(seen) == count:
                break
    if len(seen) < count:
        raise ValueError(f"count={count}: only {len(seen)} connected classes that fit were found; ask for fewer")
    return list(seen.values())


class TargetTable:
    """Finished runs of one protocol: a database, and the CSV and the card that are exported from it."""

    def __init__(
        self,
        path: Path,
        space: SearchSpace[Any],
        splits: Splits,
        data: DataConfig,
        protocol: Protocol,
        command: str | None = None,
    ) -> None:
        """Opens the table, or makes it; a CSV and card without a database (of an earlier version) are taken over.

        Args:
            path: of the CSV; the database and the card lie beside it, as .sqlite and .json.
            space: of the architectures.
            splits: the data.
            data: what they were loaded by.
            protocol: how architectures are trained.
            command: that adds to the table, for its card.

        Raises:
            ValueError: the table is of another protocol, the protocol does not fit the data, or the path is no .csv.
        """
        if path.suffix != ".csv":
            raise ValueError(f"{path}: names the CSV, beside which the database will lie; let it end in .csv")
        check_data(protocol, splits)  # before there is a file, which would refuse the corrected protocol
        self._path, self._space, self._splits, self._protocol = path, space, splits, protocol
        self.protocol_hash = protocol.hash(space, data, dict(splits.provenance))
        card = {
            "protocol_hash": self.protocol_hash,
            "protocol": dataclasses.asdict(protocol),
            "space": settings(space),
            "data": dataclasses.asdict(data),
            "provenance": dict(splits.provenance),
        }
        self._store = RunStore(path.with_suffix(".sqlite"))
        earlier = [] if self._store.path.exists() else self._earlier_rows()
        self._store.create(self.protocol_hash, card)
        for row in earlier:
            self._store.add(self.protocol_hash, row)
        if command is not None:
            self._store.add_command(command)
        self.export()

    def rows(self) -> list[Row]:
        """All finished runs."""
        return self._store.rows()

    def run(self, architectures: Sequence[Any], seeds: Sequence[int]) -> Iterator[Row]:
        """Trains every architecture that has no row yet for a seed, seed by seed, and yields each row once stored.

        Runs that another process has begun come last, and only if they are still missing then. The CSV is written
        anew at the end, and when the iteration is stopped.
        """
        trainer = Trainer(self._space, self._splits, self._protocol)
        jobs = [(seed, self._space.canonical(a), a) for seed, a in itertools.product(seeds, architectures)]
        try:
            for seed, key, architecture in jobs:
                if self._store.claim(self.protocol_hash, key, seed):
                    yield from self._train(trainer, architecture, key, seed)
            for seed, key, architecture in jobs:
                if not self._store.has(self.protocol_hash, key, seed):
                    yield from self._train(trainer, architecture, key, seed)
        finally:
            self.export()

    def export(self) -> None:
        """Writes the CSV and the card from the database."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(dataclasses.astuple(row) for row in self.rows())
        write_whole(self._path, text.getvalue())
        write_whole(self._path.with_suffix(".json"), json.dumps(self._store.card(), indent=2, default=str) + "\n")

    def _train(self, trainer: Trainer, architecture: Any, key: str, seed: int) -> Iterator[Row]:
        start = time.perf_counter()
        outcome = trainer(architecture, [seed])
        results = [*(round(float(values[0]), 5) for values in outcome), round(time.perf_counter() - start, 2)]
        row = Row(self._space.to_string(architecture), key, seed, *results)
        if self._store.add(self.protocol_hash, row):
            yield row

    def _earlier_rows(self) -> list[Row]:
        """Rows of a CSV whose card says that it is of this protocol; a last line that a kill cut short is left out."""
        card = self._path.with_suffix(".json")
        if not self._path.exists():
            return []
        if not card.exists():
            raise ValueError(f"{self._path}: exists, but no {card.name} says what it holds; choose another --out")
        recorded = json.loads(card.read_text())["protocol_hash"]
        if recorded != self.protocol_hash:
            raise ValueError(other_protocol(self._path, recorded, self.protocol_hash))
        text = self._path.read_text()
        return [
            Row(row["architecture"], row["class"], int(row["seed"]), *(float(row[name]) for name in COLUMNS[3:]))
            for row in csv.DictReader(text[: text.rfind("\n") + 1].splitlines())
        ]
