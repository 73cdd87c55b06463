"""Scorers of a search: one call for all, each with an id that says what its scores mean.

Fidelities are steps of training. With a hypernetwork they start from generated weights, and fidelity 0 is these weights
themselves.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from architectures.spaces import SearchSpace, settings
from eval.calibration import CalibrationConfig, calibrate
from eval.ground_truth import GroundTruth, Tabulated
from eval.proxies import score as proxy_scores
from eval.scoring import CHUNK, ScoreConfig, Scorer
from eval.search.features import Columns, Features, combined
from eval.search.problem import Problem
from eval.two_stage import Start
from ghn import Hypernetwork
from train.data import Dataset, Splits
from train.finetune import FinetuneConfig, Finetuner

NATS, SHARE = "minus nats", "accuracy, share of 1"


def scorer_id(kind: str, **parts: Any) -> str:
    """The kind and 12 hexadecimal digits of everything that decides its scores."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def fingerprint(hypernetwork: Hypernetwork) -> str:
    """Of the space, the configuration and every parameter."""
    digest = hashlib.sha256(json.dumps(settings(hypernetwork.space), default=str).encode())
    digest.update(repr(hypernetwork.config).encode())
    for leaf in jax.tree.leaves(hypernetwork.parameters):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()[:16]


class HypernetworkScorer:
    """Minus the loss on training images with generated weights; with steps, minus that on the score split after them.

    Fine-tuned weights fit training images however good the architecture is, so only unseen ones are read then.
    """

    unit = NATS

    def __init__(self, hypernetwork: Hypernetwork, splits: Splits, config: ScoreConfig = ScoreConfig()) -> None:
        """Compiles nothing yet; `config.finetune` says how steps are taken."""
        self.id = scorer_id(
            "hypernetwork",
            hypernetwork=fingerprint(hypernetwork),
            config=dataclasses.asdict(config),
            data=dict(splits.provenance),
        )
        self.chunk = CHUNK
        self._hypernetwork = hypernetwork
        self._scorer = Scorer(hypernetwork, splits.train, splits.score, dataclasses.replace(config, unseen=False))
        self._tuner = (splits.train, _first(splits.score, config.images), config.finetune)
        self._finetuner: Finetuner | None = None

    def __call__(self, architectures: Sequence[Any], fidelity: int) -> Sequence[float]:
        """See `SearchScorer`."""
        if fidelity == 0:
            return [-float(loss) for loss in self._scorer(architectures).train_loss]
        space = self._hypernetwork.space
        if self._finetuner is None:
            self._finetuner = Finetuner(space, *self._tuner)
        weights = (self._hypernetwork(space.graph(a)).arrays for a in architectures)
        return [-self._finetuner(a, w, fidelity).score_loss for a, w in zip(architectures, weights, strict=True)]


class TrainingScorer:
    """Minus the loss on the score split after a short training, from an initialiser or from generated weights."""

    unit, chunk = NATS, 1

    def __init__(
        self,
        space: SearchSpace[Any],
        splits: Splits,
        config: FinetuneConfig,
        steps: int,
        start: Start = "initialiser",
        hypernetwork: Hypernetwork | None = None,
    ) -> None:
        """Compiles nothing yet.

        Args:
            space: of the architectures.
            splits: trained on `train`, scored on `score`.
            config: how to train.
            steps: of training at fidelity 0; other fidelities are steps themselves.
            start: where training starts.
            hypernetwork: gives the start "generated".

        Raises:
            ValueError: no steps, or generated weights without a hypernetwork.
        """
        if steps < 1:
            raise ValueError(f"steps={steps}: must be at least 1")
        if start == "generated" and hypernetwork is None:
            raise ValueError("start='generated': give a hypernetwork (--checkpoint)")
        self._source = hypernetwork if start == "generated" else None
        known = None if self._source is None else fingerprint(self._source)
        self.id = scorer_id(
            "training",
            config=dataclasses.asdict(config),
            steps=steps,
            hypernetwork=known,
            space=settings(space),
            data=dict(splits.provenance),
        )
        self._space, self._steps = space, steps
        self._tuner = Finetuner(space, splits.train, splits.score, config)

    def __call__(self, architectures: Sequence[Any], fidelity: int) -> Sequence[float]:
        """See `SearchScorer`."""
        scores = []
        for a in architectures:
            source = self._source
            weights = self._tuner.initial(a, 0) if source is None else source(self._space.graph(a)).arrays
            scores.append(-self._tuner(a, weights, fidelity or self._steps).score_loss)
        return scores


class ProxyScorer:
    """A zero-cost proxy at initialisation."""

    chunk = CHUNK

    def __init__(
        self, space: SearchSpace[Any], train: Dataset, name: str, initialisations: int | None = 1, images: int = 128
    ) -> None:
        """`name` is of `eval.proxies.PROXIES` (ValueError otherwise, and for az_nas, which ranks a fixed set)."""
        if name == "az_nas":
            raise ValueError("proxy 'az_nas': ranks a fixed set of candidates, a search has none; choose another")
        self._space, self._name, self._initialisations = space, name, initialisations
        self._batch = train.images[:images], train.labels[:images]
        proxy_scores(space, [], *self._batch, proxies=[name])  # names an unknown proxy before anything is stored
        self.unit = name
        own = {"name": name, "initialisations": initialisations, "images": images}
        self.id = scorer_id("proxy", space=settings(space), data=train.name, **own)

    def __call__(self, architectures: Sequence[Any], fidelity: int) -> Sequence[float]:
        """See `SearchScorer`."""
        refuse(fidelity, f"proxy {self._name}")
        columns = proxy_scores(self._space, architectures, *self._batch, [self._name], self._initialisations)
        return [float(value) for value in columns[self._name]]


class TabularScorer:
    """Tabulated accuracies: every call looks up trainings that somebody has done."""

    unit, chunk = SHARE, CHUNK

    def __init__(self, truth: GroundTruth, space: SearchSpace[Any]) -> None:
        """Takes every class of the table."""
        self._table = Tabulated(truth, space)
        self.id = scorer_id("tabular", space=settings(space), accuracies=_accuracies(truth, len(truth.classes)))

    def __call__(self, architectures: Sequence[Any], fidelity: int) -> Sequence[float]:
        """See `SearchScorer`."""
        refuse(fidelity, "tabular")
        return [self._table.accuracy(architecture) for architecture in architectures]


class CombinedScorer:
    """Generated weights, parameter count and NWOT together, without labels (`features.combined`)."""

    unit, chunk = "sum of standard scores", CHUNK

    def __init__(
        self, problem: Problem, hypernetwork: Hypernetwork, splits: Splits, config: ScoreConfig = ScoreConfig()
    ) -> None:
        """Scores a reference at once."""
        self._features = Features(problem, Columns(hypernetwork, splits, config))
        self.id = scorer_id("combined", **_sources(problem, hypernetwork, splits, config))

    def __call__(self, architectures: Sequence[Any], fidelity: int) -> Sequence[float]:
        """See `SearchScorer`."""
        refuse(fidelity, "combined")
        return [float(value) for value in combined(self._features.columns(architectures))]


class CalibratedScorer:
    """Accuracy as a Gaussian process predicts it from scores and encoding, fitted on a table of trained ones."""

    unit, chunk = SHARE, CHUNK

    def __init__(
        self,
        problem: Problem,
        hypernetwork: Hypernetwork,
        splits: Splits,
        truth: GroundTruth,
        labels: int = 100,
        config: ScoreConfig = ScoreConfig(),
    ) -> None:
        """Scores the labelled architectures at once, the first `labels` of the table, and fits on them."""
        known = truth.architectures[:labels]
        self._features = Features(problem, Columns(hypernetwork, splits, config), known)
        matrix = self._features.matrix(known, self._features.columns(known))
        self._calibrator = calibrate(matrix, truth.accuracy[: len(known)], CalibrationConfig())
        sources = _sources(problem, hypernetwork, splits, config)
        self.id = scorer_id("calibrated", accuracies=_accuracies(truth, len(known)), **sources)

    def __call__(self, architectures: Sequence[Any], fidelity: int) -> Sequence[float]:
        """See `SearchScorer`."""
        refuse(fidelity, "calibrated")
        matrix = self._features.matrix(architectures, self._features.columns(architectures))
        return [float(value) for value in self._calibrator(matrix).mean]


def refuse(fidelity: int, name: str) -> None:
    """ValueError for steps of training where a scorer takes none."""
    if fidelity:
        raise ValueError(f"scorer {name}: takes no steps of training; use hypernetwork or training with this algorithm")


def _sources(problem: Problem, hypernetwork: Hypernetwork, splits: Splits, config: ScoreConfig) -> Mapping[str, Any]:
    return {
        "problem": problem.describe(),
        "hypernetwork": fingerprint(hypernetwork),
        "config": dataclasses.asdict(config),
        "data": dict(splits.provenance),
    }


def _accuracies(truth: GroundTruth, count: int) -> dict[str, float]:
    """Of the first `count` classes."""
    return dict(zip(truth.classes[:count].tolist(), truth.accuracy[:count].tolist(), strict=True))


def _first(data: Dataset, count: int) -> Dataset:
    return dataclasses.replace(data, images=data.images[:count], labels=data.labels[:count])
