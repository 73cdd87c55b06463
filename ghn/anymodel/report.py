"""What was predicted, what was not, and why: a row for every leaf."""

from __future__ import annotations

import dataclasses
import io
from collections import Counter
from typing import Literal

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

Source = Literal["predicted", "initialiser", "neutral"]


@dataclasses.dataclass(frozen=True)
class LeafReport:
    """One leaf.

    Attributes:
        path: in the user's pytree.
        shape: of the whole leaf.
        dtype: of it.
        op: that owns it, by its name in traced graphs.
        nodes: how many nodes own a part of it (1, or the layers of a scan).
        source: "predicted"; "initialiser" if it was taken from the model's own; "neutral" where there was none to take
            it from (0, 1 for factors, noise for kernels).
        reason: why it was not predicted; for predicted kernels, whose scale they have.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    op: str
    nodes: int
    source: Source
    reason: str

    @property
    def size(self) -> int:
        """Number of scalars."""
        size = 1
        for extent in self.shape:
            size *= extent
        return size


@dataclasses.dataclass(frozen=True)
class Report:
    """All leaves of a prediction.

    Attributes:
        rows: in the order of the flattened parameters.
        graph: a line about the graph.
        hypernetwork: a line about what predicted.
        notes: what else the user should know, for instance that running statistics wait for `ghn.calibrate`.
    """

    rows: tuple[LeafReport, ...]
    graph: str
    hypernetwork: str
    notes: tuple[str, ...] = ()

    def count(self, source: Source) -> int:
        """Leaves from one source."""
        return sum(row.source == source for row in self.rows)

    @property
    def predicted(self) -> int:
        """Leaves that the hypernetwork predicted."""
        return self.count("predicted")

    @property
    def fallbacks(self) -> tuple[LeafReport, ...]:
        """Leaves that it did not predict."""
        return tuple(row for row in self.rows if row.source != "predicted")

    def totals(self) -> str:
        """One line."""
        scalars: Counter[Source] = Counter()
        for row in self.rows:
            scalars[row.source] += row.size
        parts = [f"{self.count(source)} {source} ({scalars[source]:,} parameters)" for source in scalars]
        return f"{len(self.rows)} leaves, {sum(scalars.values()):,} parameters: " + ", ".join(parts)

    def __rich__(self) -> RenderableType:
        table = Table("leaf", "shape", "dtype", "op", "from", "why", title_justify="left")
        for row in self.rows:
            op = row.op if row.nodes == 1 else f"{row.op} x {row.nodes}"
            style = None if row.source == "predicted" else "yellow"
            cells = (row.path, " x ".join(map(str, row.shape)), row.dtype, op, row.source, row.reason)
            table.add_row(*map(Text, cells), style=style)
        return Group(table, *map(Text, (self.graph, self.hypernetwork, self.totals(), *self.notes)))

    def __str__(self) -> str:
        text = io.StringIO()
        widest = max((len(row.path) + len(row.reason) for row in self.rows), default=0)
        Console(file=text, width=widest + 100, color_system=None).print(self)
        return text.getvalue().rstrip()
