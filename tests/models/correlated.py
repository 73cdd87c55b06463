"""Scores and truth to take statistics of."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def correlated(rows: int, seed: int = 0, steps: int | None = None) -> tuple[Floats, Floats]:
    """Correlated scores and truth [rows], rounded onto few levels (so with many ties) when `steps` is given."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=rows) + 10  # positive, as accuracies are
    scores = truth + rng.normal(size=rows)
    if steps is not None:
        scores, truth = np.round(scores * steps), np.round(truth * steps)
    return scores, truth
