"""What a matrix of accuracies says: R[i, j] is the accuracy on task j after learning task i (nan where j > i).

Shape letters: T tasks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


class Summary(NamedTuple):
    """Shares of 1.

    Attributes:
        average: over all tasks, after the last.
        during: on each task right after it was learned, averaged.
        forgetting: how far tasks fell from the best they ever were, averaged over all but the last
            (Chaudhry et al. 2018).
        backward: how far tasks rose since they were learned, averaged likewise (Lopez-Paz & Ranzato 2017).
        forward: how much better tasks were learned than from scratch, averaged over all but the first; None without
            accuracies from scratch.
    """

    average: float
    during: float
    forgetting: float
    backward: float
    forward: float | None


def summarise(matrix_TT: Matrix, scratch_T: Matrix | None = None) -> Summary:
    """The summary of a finished stream.

    Args:
        matrix_TT: R.
        scratch_T: accuracy on each task of a network that was trained on it alone, from its own start.

    Raises:
        ValueError: a matrix that is not square, or not filled on and below its diagonal; accuracies from scratch that
            are not one for each task.
    """
    tasks = len(matrix_TT)
    if matrix_TT.shape != (tasks, tasks) or not tasks:
        raise ValueError(f"matrix: shape {matrix_TT.shape}, expected [T, T]")
    if not np.isfinite(matrix_TT[np.tril_indices(tasks)]).all():
        raise ValueError("matrix: accuracies are missing below its diagonal; the stream is not finished")
    if scratch_T is not None and np.shape(scratch_T) != (tasks,):
        raise ValueError(f"scratch: shape {np.shape(scratch_T)}, expected one accuracy for each of {tasks} tasks")
    last, own = matrix_TT[-1], np.diag(matrix_TT)
    best = np.nanmax(matrix_TT, 0)
    earlier = slice(0, tasks - 1)
    return Summary(
        average=float(last.mean()),
        during=float(own.mean()),
        forgetting=float((best - last)[earlier].mean()) if tasks > 1 else 0.0,
        backward=float((last - own)[earlier].mean()) if tasks > 1 else 0.0,
        forward=None if scratch_T is None or tasks < 2 else float((own - np.asarray(scratch_T))[1:].mean()),
    )
