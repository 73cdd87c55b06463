"""What lies on the paths through a cell, from its input to its output: features of an architecture for regressors.

One-hot encodings say which op lies on which edge; accuracy depends on what an image meets on its way. Both are known
without running anything.

Shape letters: A architectures, F features.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from architectures.ops import NONE, SKIP, Op
from architectures.spaces import CellSpace
from architectures.spaces.cell import Cell

FEATURES = (
    "paths",  # how many there are
    *(
        f"{which} {what}"
        for what in ("ops", "kernels", "spatial kernels", "pools")
        for which in ("most", "least", "mean")
    ),
    "empty paths",  # nothing but skips
    "paths of pools",  # at least one pool, no kernel
    "mixed paths",  # both
)


def paths(space: CellSpace, cell: Cell) -> list[tuple[Op, ...]]:
    """The ops on every path through a cell that holds no "none"; skips left out."""
    ops = {op.name: op for op in space.ops}
    carried = {edge: ops[name] for edge, name in zip(space.wiring, cell.edges, strict=True) if name != NONE.name}
    inner, found = range(1, space.nodes - 1), []
    for stops in itertools.chain.from_iterable(itertools.combinations(inner, count) for count in range(len(inner) + 1)):
        edges = list(itertools.pairwise((0, *stops, space.nodes - 1)))
        if all(edge in carried for edge in edges):
            found.append(tuple(op for op in (carried[edge] for edge in edges) if op.name != SKIP.name))
    return found


def path_features(space: CellSpace, cells: Sequence[Cell]) -> NDArray[np.float64]:
    """[A, F] the statistics of FEATURES; zero for a cell without a path."""
    return np.array([_statistics(space, cell) for cell in cells])


def _statistics(space: CellSpace, cell: Cell) -> list[float]:
    found = paths(space, cell)
    if not found:
        return [0.0] * len(FEATURES)
    owning = [[bool(op.leaves(space.channels)) for op in path] for path in found]
    wide = [[op.kernel > 1 for op in path] for path in found]
    kernels = [sum(own) for own in owning]
    spatial = [sum(o and w for o, w in zip(*both, strict=True)) for both in zip(owning, wide, strict=True)]
    pools = [sum(w and not o for o, w in zip(*both, strict=True)) for both in zip(owning, wide, strict=True)]
    counts = ([len(path) for path in found], kernels, spatial, pools)
    return [
        len(found),
        *(f(column) for column in counts for f in (max, min, lambda column: sum(column) / len(column))),
        sum(not path for path in found),
        sum(p > 0 and k == 0 for p, k in zip(pools, kernels, strict=True)),
        sum(p > 0 and k > 0 for p, k in zip(pools, kernels, strict=True)),
    ]
