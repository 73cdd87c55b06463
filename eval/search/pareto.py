"""Non-dominated sorting and what else orders points of several objectives, higher being better in each.

Shape letters: A points, M objectives.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def front_numbers(gains_AM: ArrayLike) -> NDArray[np.intp]:
    """[A] the front of every point: 0 for those that nothing dominates, 1 for those only they dominate, ...

    Deb et al. 2002, section III A. Equal points lie in the same front. Points with nan or minus infinity anywhere have
    failed: they are dominated by all others and lie in a last front by themselves.
    """
    gains = np.asarray(gains_AM, np.float64)
    failed = _failed(gains)
    gains = np.where(failed[:, None], -np.inf, gains)
    above: Any = np.greater(gains[:, None], gains[None])
    dominates: Any = ~above.transpose(1, 0, 2).any(-1) & above.any(-1)  # nowhere below, somewhere above
    numbers = np.full(len(gains), -1)
    for number in range(len(gains)):
        left = numbers < 0
        if not left.any():
            break
        numbers[left & ~dominates[left].any(0)] = number
    return numbers.astype(np.intp)


def pareto_front(gains_AM: ArrayLike) -> list[int]:
    """Rows that nothing dominates; none that have failed (`front_numbers`)."""
    gains = np.asarray(gains_AM, np.float64)
    return np.flatnonzero((front_numbers(gains) == 0) & ~_failed(gains)).tolist()


def crowding(gains_AM: ArrayLike) -> Floats:
    """[A] how far a point's neighbours on every objective lie apart, in shares of its range; ends are infinite."""
    gains = np.asarray(gains_AM, np.float64)
    distance = np.zeros(len(gains))
    for column in gains.T:
        order = np.argsort(column, kind="stable")
        distance[order[[0, -1]]] = np.inf
        ends = column[order[[0, -1]]]
        if np.isfinite(ends).all() and (reach := ends[1] - ends[0]) > 0:
            distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / reach
    return distance


def hypervolume(gains_AM: ArrayLike, reference_M: ArrayLike) -> float:
    """The volume that points dominate above a reference, for two objectives; points below it add nothing.

    Raises:
        ValueError: other than two objectives.
    """
    gains, reference = np.asarray(gains_AM, np.float64), np.asarray(reference_M, np.float64)
    if reference.shape != (2,):
        raise ValueError(f"hypervolume: {reference.shape[0]} objectives; it is computed for two")
    above = gains[(gains > reference).all(-1)].reshape(-1, 2)
    volume, covered = 0.0, reference[1]
    for x, y in above[np.argsort(-above[:, 0], kind="stable")]:
        volume += (x - reference[0]) * max(0.0, y - covered)
        covered = max(covered, y)
    return float(volume)


def _failed(gains_AM: Floats) -> NDArray[np.bool_]:
    """[A] whether a value is missing."""
    return np.asarray((np.isnan(gains_AM) | np.isneginf(gains_AM)).any(-1))
