"""Which choices good architectures share: for every choice and value, the scores of those that have it.

Shape letters: A architectures, C choices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from architectures.spaces import CellSpace, SearchSpace
from eval.search.history import Evaluation

TOP = 0.1  # the share that counts as good
VALUES = 12  # a choice with more values is a number, and left out


def choices(space: SearchSpace[Any], architectures: Sequence[Any]) -> dict[str, list[str]]:
    """Choice -> its value in each of A architectures: ops of a cell's edges, or entries of the encoding."""
    if isinstance(space, CellSpace):
        names = [f"{source} to {target}" for source, target in space.wiring]
        columns = zip(*(a.edges for a in architectures), strict=True)
        return {name: list(column) for name, column in zip(names, columns, strict=True)}
    codes = [space.encode(architecture) for architecture in architectures]
    found: dict[str, list[str]] = {}
    for name in codes[0]:
        table: NDArray[Any] = np.stack([np.ravel(code[name]) for code in codes])
        found |= {f"{name} {place}": [str(v) for v in column] for place, column in enumerate(table.T.tolist())}
    return {name: column for name, column in found.items() if 1 < len(set(column)) <= VALUES}


def marginals(space: SearchSpace[Any], evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """A row a choice and value: how many have it, their mean score, and its share among the best tenth.

    Evaluations of a search are no random sample: what an algorithm liked, it proposed more often. Shares are therefore
    told beside those among everything that was scored.
    """
    known = [e for e in evaluations if math.isfinite(e.score)]
    if len(known) < 10:
        return []
    scores = np.array([e.score for e in known])
    best = set(np.argsort(-scores, kind="stable")[: max(1, math.ceil(TOP * len(known)))].tolist())
    rows = []
    for choice, column in choices(space, [e.architecture for e in known]).items():
        for value in sorted(set(column)):
            own = [row for row, other in enumerate(column) if other == value]
            rows.append(
                {
                    "choice": choice,
                    "value": value,
                    "count": len(own),
                    "mean": float(scores[own].mean()),
                    "share": len(own) / len(known),
                    "share_of_best": len(best & set(own)) / len(best),
                }
            )
    return rows
