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
from scipy import stats

from architectures.spaces import CellSpace
from eval.calibration import feature_matrix, principal
from eval.paths import path_features
from eval.predictors import one_hot
from eval.scoring import Scorer
from ghn import Hypernetwork

Floats = NDArray[np.float64]
GENERATED = "generated weights"  # the column of minus the training loss, mean over hypernetworks
# Without labels: fixed on the development half of NAS-Bench-201 (benchmarks/results/ranking_variants.md).
LABEL_FREE = (GENERATED, "params", "nwot", "synflow")
CHEAP = ("params", "flops", "nwot", "synflow", "swap")  # proxies of a calibration by default
COMPONENTS = 0  # of the embedding of each hypernetwork: they added nothing to the paths (ranking_variants.md)


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of A candidates; see `gather`.

    Attributes:
        columns: [A] scores by name, higher is better; nan where one is undefined.
        embeddings: [A, D] mean node states, one array a hypernetwork.
        encodings: [A, F] one-hot, or what lies on the paths of a cell.
    """

    columns: Mapping[str, Floats]
    embeddings: tuple[Floats, ...]
    encodings: Floats

    def combined(self, names: Sequence[str] = LABEL_FREE) -> Floats:
        """[A] sum of ranks of some columns, undefined values last: a score without labels.

        Raises:
            ValueError: a column that was not gathered.
        """
        return np.sum([_ranks(self._column(name)) for name in names], axis=0)

    def features(self, components: int = COMPONENTS) -> Floats:
        """[A, F] for a calibration: all columns, the embeddings' principal directions (if any), the encodings."""
        blocks = [principal(embedding, components) for embedding in self.embeddings if components > 0]
        return feature_matrix(self.columns, *blocks, self.encodings)

    def _column(self, name: str) -> Floats:
        if name not in self.columns:
            raise ValueError(f"names: no column {name!r}; there are {', '.join(self.columns)}")
        return self.columns[name]


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
        f"{GENERATED}, score split": -np.mean([own.score_loss for own in scores], axis=0),
        **proxies,
    }
    embeddings = tuple(np.asarray(hypernetwork.embed(graphs), np.float64) for hypernetwork in hypernetworks)
    encodings = path_features(space, architectures) if isinstance(space, CellSpace) else one_hot(space, architectures)
    return Evidence(columns, embeddings, encodings)


def _ranks(column: Floats) -> Floats:
    return np.asarray(stats.rankdata(np.where(np.isfinite(column), column, -np.inf)))
