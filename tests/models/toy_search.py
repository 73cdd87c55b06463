"""A search problem without networks: cells scored by their ops."""

from collections.abc import Sequence
from typing import Any

from architectures.spaces import NASBench201
from eval.search.algorithms import Algorithm
from eval.search.history import Evaluation
from eval.search.problem import Problem

SPACE = NASBench201(channels=2, cells=1, input_shape=(4, 4, 1), classes=3, stages=1)
WORTH = {"none": 0.0, "avg_pool_3x3": 1.0, "skip_connect": 1.5, "nor_conv_1x1": 2.0, "nor_conv_3x3": 3.0}
OPTIMUM = 3.0 * sum(range(1, 7))


class ToyScorer:
    """Later edges count more; training adds a little."""

    id, chunk, unit = "toy", 4, "points"

    def __call__(self, architectures: Sequence[Any], fidelity: int) -> list[float]:
        return [sum(WORTH[op] * (i + 1) for i, op in enumerate(a.edges)) + fidelity / 1000 for a in architectures]


def evaluate(
    algorithm: Algorithm, problem: Problem, count: int, batch: int = 1, starts: list[int] | None = None
) -> list[Evaluation]:
    """The plain loop: ask, note, score, tell; where batches start is added to `starts`."""
    scorer, history = ToyScorer(), list[Evaluation]()
    while len(history) < count:
        if starts is not None:
            starts.append(len(history))
        proposals = algorithm.ask(len(history), min(batch, count - len(history)))
        if not proposals:
            break
        for index, proposal in enumerate(proposals, start=len(history)):
            algorithm.note(index, proposal)
        done = []
        for index, (a, fidelity, parent) in enumerate(proposals, start=len(history)):
            (score,) = scorer([a], fidelity)
            done.append(Evaluation(index, a, problem.key(a), fidelity, score, problem.costs(a), parent=parent))
        for evaluation in done:
            algorithm.tell(evaluation)
        history += done
    return history
