"""A table of proxies: one row a candidate, written as soon as it is known, so that a killed run can go on."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from architectures.spaces import SearchSpace, settings
from eval.proxies.registry import AZ_NAS, proxy_names
from eval.proxies.score import iterate, parts_of, with_aggregate


class ProxyTable:
    """A CSV with a column `architecture` and one for each proxy, beside a JSON that says how it was made.

    "az_nas" ranks candidates among each other: its column stays empty until `finish`.
    """

    def __init__(
        self,
        path: Path,
        space: SearchSpace[Any],
        proxies: Sequence[str] | None = None,
        initialisations: int | None = None,
        seed: int = 0,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        """Opens or begins a table.

        Raises:
            ValueError: the file was made in another way, has no card, or does not end in .csv.
        """
        if path.suffix != ".csv":
            raise ValueError(f"{path}: names the CSV, beside which its card will lie as .json; let it end in .csv")
        self._path, self._space = path, space
        self._names, self._initialisations, self._seed = proxy_names(proxies), initialisations, seed
        self._measured = parts_of(self._names)
        self._header = ["architecture", *dict.fromkeys([*self._names, *self._measured])]
        card = {
            "space": settings(space),
            "columns": self._header,
            "initialisations": initialisations,
            "seed": seed,
            "provenance": dict(provenance or {}),
        }
        text = json.dumps(card, indent=2, default=str) + "\n"
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            recorded = path.with_suffix(".json")
            if not recorded.is_file():
                raise ValueError(f"{path}: exists, but no {recorded.name} says how it was made; choose another --out")
            if recorded.read_bytes() != text.encode():
                raise ValueError(f"{path}: made with other settings (see {recorded}); choose another --out")
            whole = path.read_text()
            path.write_text(whole[: whole.rfind("\n") + 1])  # a row that a kill cut short is made again
        else:
            path.with_suffix(".json").write_text(text)
            path.write_text(",".join(self._header) + "\n")

    def rows(self) -> dict[str, dict[str, float]]:
        """Architecture -> its measured scores."""
        with self._path.open(newline="") as file:
            return {
                row["architecture"]: {name: float(row[name]) for name in self._measured} for row in csv.DictReader(file)
            }

    def run(
        self, architectures: Sequence[Any], images: NDArray[np.float32], labels: NDArray[np.integer[Any]]
    ) -> Iterator[int]:
        """Measures every architecture that has no row yet; yields how many were done or found with each."""
        done = self.rows()
        left = [a for a in architectures if self._space.to_string(a) not in done]
        yield len(architectures) - len(left)
        scored = iterate(self._space, left, images, labels, self._measured, self._initialisations, self._seed)
        for architecture, row in zip(left, scored, strict=True):
            with self._path.open("a", newline="") as file:
                cells = [f"{row[name]:.9g}" if name in row else "" for name in self._header[1:]]
                csv.writer(file).writerow([self._space.to_string(architecture), *cells])
            yield 1

    def columns(self, architectures: Sequence[Any]) -> dict[str, NDArray[np.float64]]:
        """[A] scores by proxy, in the order of the architectures; "az_nas" ranks these.

        Raises:
            ValueError: an architecture without a row.
        """
        rows, texts = self.rows(), [self._space.to_string(a) for a in architectures]
        lacking = [text for text in texts if text not in rows]
        if lacking:
            raise ValueError(f"{self._path}: no row for {len(lacking)} architectures, the first {lacking[0]}")
        measured = {name: np.array([rows[text][name] for text in texts]) for name in self._measured}
        return with_aggregate(measured, self._header[1:])

    def finish(self, architectures: Sequence[Any]) -> dict[str, NDArray[np.float64]]:
        """The same, written into the file: these architectures first, then its other rows, whose "az_nas" is empty."""
        columns = self.columns(architectures)
        if AZ_NAS in columns:
            body = [[f"{value:.9g}" for value in row] for row in zip(*columns.values(), strict=True)]
            texts = [self._space.to_string(architecture) for architecture in architectures]
            known = set(texts)
            with self._path.open(newline="") as file:
                others = [row for row in csv.DictReader(file) if row["architecture"] not in known]
            new = self._path.with_suffix(".new")
            with new.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["architecture", *columns])
                writer.writerows([text, *row] for text, row in zip(texts, body, strict=True))
                for row in others:
                    writer.writerow([row["architecture"], *("" if name == AZ_NAS else row[name] for name in columns)])
            new.replace(self._path)
        return columns
