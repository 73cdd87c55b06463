"""Accuracy on the tasks of a stream, and which task an image is of where that is not told.

Shape letters: N images, T tasks so far, K classes of a task, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from architectures.layout import WeightArrays
from train.continual.heads import Heads
from train.continual.learner import forward
from train.continual.streams import Part

BLOCK = 1000  # images in one call
Floats = NDArray[np.float32]
InferTask = Callable[[Floats, Floats], NDArray[np.int64]]  # (images [N, ...], logits [T, N, K]) -> task [N]


def logits_of(space: Any, weights: WeightArrays, encoding: Any, images: Floats) -> Floats:
    """[N, O], in blocks of equal size; the last one is filled up with the first images."""
    count = len(images)
    size = min(BLOCK, count)
    blocks = []
    for start in range(0, count, size):
        rows = np.arange(start, start + size) % count
        blocks.append(np.asarray(forward(space)(weights, encoding, images[rows])))
    return np.concatenate(blocks)[:count]


def lowest_entropy(images: Floats, logits_TNK: Floats) -> NDArray[np.int64]:
    """[N] the task under whose weights the prediction is surest (von Oswald et al. 2020, section 2.3: HNET+ENT)."""
    log_TNK = np.asarray(jax.nn.log_softmax(jnp.asarray(logits_TNK)))
    entropy_TN = -(np.exp(log_TNK) * log_TNK).sum(-1)
    return np.argmin(entropy_TN, 0)


def accuracy(
    space: Any,
    encoding: Any,
    heads: Heads,
    weights_T: Sequence[WeightArrays],
    part: Part,
    task: int,
    infer: InferTask | None = None,
) -> float:
    """Share of the images of a task that is answered rightly in the scenario.

    Args:
        space: of the target.
        encoding: the target.
        heads: of the target, and the scenario.
        weights_T: the target's weights for each task so far; one set where they do not depend on the task.
        part: the images.
        task: which they are of.
        infer: of the task of an image; None where weights do not depend on it, or the task is told.
    """
    if heads.scenario == "CL1" or infer is None:
        weights = weights_T[task if len(weights_T) > 1 else 0]
        logits = logits_of(space, weights, encoding, part.images)
        if heads.scenario == "CL3":  # one set of weights: all outputs compete
            return float((logits.argmax(-1) == task * heads.classes + part.labels).mean())
        return float((np.asarray(heads.of_task(jnp.asarray(logits), task)).argmax(-1) == part.labels).mean())
    logits_TNK = np.stack(
        [
            np.asarray(heads.of_task(jnp.asarray(logits_of(space, weights, encoding, part.images)), earlier))
            for earlier, weights in enumerate(weights_T)
        ]
    )
    named = infer(part.images, logits_TNK)
    answer = logits_TNK.argmax(-1)[named, np.arange(len(named))]
    right = answer == part.labels
    return float((right & (named == task) if heads.scenario == "CL3" else right).mean())
