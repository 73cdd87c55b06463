"""What is known of a candidate without training it, side by side: hypernetwork scores, proxies, embedding, encoding.

From these come a label-free combination of scores, and the features of a calibrated one.

Shape letters: A candidates, F features, D width of an embedding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from architectures.spaces import CellSpace
from eval.calibration import feature_matrix, principal
from eval.judging import draws_of_labels, judge, judge_baseline, over_draws, report, unlabelled
from eval.metrics import failures_last
from eval.paths import path_features
from eval.predictors import one_hot
from eval.proxies.az_nas import aggregate
from eval.scoring import Scorer
from ghn import Hypernetwork

Floats = NDArray[np.float64]
GENERATED = "generated weights"  # the column of minus the training loss, mean over hypernetworks
SCORE_SPLIT = f"{GENERATED}, score split"  # that of the images that no hypernetwork has seen
# Without labels: fixed on the development half of NAS-Bench-201 (benchmarks/results/ranking_variants.md).
LABEL_FREE = (GENERATED, SCORE_SPLIT, "params", "jacov", "swap_regularised")
COMPONENTS = 0  # of the embedding of each hypernetwork: they added nothing to the paths (ranking_variants.md)


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of A candidates; see `gather`.

    Attributes:
        columns: [A] scores by name, higher is better; nan where one is undefined.
        embeddings: [A, D] mean node states, one array a hypernetwork.
        one_hot: [A, F] encodings.
        paths: [A, F] what lies on the paths of a cell; None in other spaces.
    """

    columns: Mapping[str, Floats]
    embeddings: tuple[Floats, ...]
    one_hot: Floats
    paths: Floats | None = None

    def combined(self, names: Sequence[str] = LABEL_FREE) -> Floats:
        """[A] a score without labels: the sum over columns of log(rank / A), rank A the best, undefined values last.

        The logarithm is AZ-NAS's (Lee & Ham 2024): one bad score weighs more than one good one.

        Raises:
            ValueError: a column that was not gathered.
        """
        return aggregate([self._column(name) for name in names])

    def features(self, components: int = COMPONENTS) -> Floats:
        """[A, F] for a calibration: all columns, principal directions of embeddings (if any), paths or encodings."""
        blocks = [principal(embedding, components) for embedding in self.embeddings if components > 0]
        return feature_matrix(self.columns, *blocks, self.one_hot if self.paths is None else self.paths)

    def without_hypernetworks(self) -> Evidence:
        """What is left for the comparison that shows what they add."""
        columns = {name: column for name, column in self.columns.items() if not name.startswith(GENERATED)}
        return dataclasses.replace(self, columns=columns, embeddings=())

    def _column(self, name: str) -> Floats:
        if name not in self.columns:
            raise ValueError(f"names: no column {name!r}; there are {', '.join(self.columns)}")
        return self.columns[name]


def combination_report(
    evidence: Evidence,
    accuracy_A: Floats,
    asked_A: NDArray[np.bool_],
    may_A: NDArray[np.bool_],
    labels: Sequence[int] = (30, 100),
    draws: int = 10,
    resamples: int = 2000,
) -> dict[str, dict[str, Any]]:
    """The label-free combination and calibrations, each with paired differences to its rivals.

    Rivals of the combination: parameter count, itself without hypernetworks, and in Kendall ("kendall_minus_single")
    every column by itself. Rivals of a calibration: ridge on one-hot encodings and itself without hypernetworks, from
    the same labels, and parameter count.

    Args:
        evidence: on A candidates.
        accuracy_A: of each, shares of 1.
        asked_A: those that are judged.
        may_A: those that may be labelled; a candidate that is labelled in a draw is not judged in it.
        labels: how many, for a calibration each.
        draws: of labels.
        resamples: of every interval.
    """
    blind = evidence.without_hypernetworks()
    free = unlabelled(evidence.combined(), asked_A)
    left = [name for name in LABEL_FREE if name in blind.columns]
    singles = {name: unlabelled(failures_last(column)[0], asked_A) for name, column in evidence.columns.items()}
    parameters = {"parameters": singles["params"]}
    rivals = parameters | {"the same without hypernetwork": unlabelled(blind.combined(left), asked_A)}
    result = {"label_free": report(free, accuracy_A, rivals, resamples)}
    result["label_free"]["kendall_minus_single"] = {
        name: over_draws("kendall", free, accuracy_A, single, resamples).as_list() for name, single in singles.items()
    }
    for count in labels:
        rows = draws_of_labels(may_A, count, draws)
        rivals = {
            f"ridge-{count}": judge_baseline("ridge", evidence.one_hot, accuracy_A, asked_A, rows),
            "the same without hypernetwork": judge(blind.features(), accuracy_A, asked_A, rows),
        }
        calibrated = judge(evidence.features(), accuracy_A, asked_A, rows)
        own = report(calibrated, accuracy_A, rivals | parameters, resamples)
        own["rivals"] = {name: report(rival, accuracy_A, {}, resamples) for name, rival in rivals.items()}
        result[f"calibrated_{count}"] = {"labels": count, **own}
    return result


def gather(
    hypernetworks: Sequence[Hypernetwork],
    scorers: Sequence[Scorer],
    architectures: Sequence[Any],
    proxies: Mapping[str, Floats],
) -> Evidence:
    """Evidence on candidates: as the hypernetworks see them, and the proxies that were computed of them.

    Args:
        hypernetworks: of one space and one kind, of several seeds.
        scorers: one for each of them.
        architectures: the candidates.
        proxies: columns [A] of `eval.proxies.score`.
    """
    scores = [scorer(architectures) for scorer in scorers]
    space = hypernetworks[0].space
    graphs = [space.graph(architecture) for architecture in architectures]
    columns = {
        GENERATED: -np.mean([own.train_loss for own in scores], axis=0),
        SCORE_SPLIT: -np.mean([own.score_loss for own in scores], axis=0),
        **proxies,
    }
    embeddings = tuple(np.asarray(hypernetwork.embed(graphs), np.float64) for hypernetwork in hypernetworks)
    paths = path_features(space, architectures) if isinstance(space, CellSpace) else None
    return Evidence(columns, embeddings, one_hot(space, architectures), paths)
