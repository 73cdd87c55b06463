"""Scorers of a search: each equals what it is made of, ids tell apart what must not be mixed."""

import copy
import dataclasses

import numpy as np
import pytest

from architectures.spaces import NASBench201
from eval.ground_truth import GroundTruth
from eval.proxies import score
from eval.scoring import ScoreConfig, Scorer
from eval.search.features import GENERATED, PARAMETERS, Columns, Features, combined
from eval.search.problem import Problem
from eval.search.scorers import (
    CalibratedScorer,
    CombinedScorer,
    HypernetworkScorer,
    ProxyScorer,
    TabularScorer,
    TrainingScorer,
)
from ghn import GHNConfig, Hypernetwork
from train.data import Dataset, Splits
from train.finetune import FinetuneConfig
from train.target_table import sample_classes

SPACE = NASBench201(channels=2, cells=1, input_shape=(4, 4, 1), classes=3, stages=1)
TUNE = FinetuneConfig(batch=8, calibration=8)
SCORE = ScoreConfig(images=12, finetune=TUNE)
CELLS = sample_classes(SPACE, 4, 0)


@pytest.fixture(scope="module")
def splits() -> Splits:
    rng = np.random.default_rng(0)
    labels = (np.arange(24) % 3).astype(np.int32)
    images = rng.normal(size=(24, 4, 4, 1)).astype(np.float32)
    own = Dataset("made up", images, labels, 3, (0.0,), (1.0,), ("a", "b", "c"))
    return Splits(own, own, own, {"source": "made up"})


@pytest.fixture(scope="module")
def hypernetwork() -> Hypernetwork:
    return Hypernetwork.create(SPACE, GHNConfig(width=8, message_width=4, hidden=8, tile=4))


def test_generated_weights_at_no_steps_then_trained_from_them(hypernetwork: Hypernetwork, splits: Splits) -> None:
    scorer = HypernetworkScorer(hypernetwork, splits, SCORE)
    expected = Scorer(hypernetwork, splits.train, splits.score, SCORE)(CELLS)
    np.testing.assert_allclose(scorer(CELLS, 0), -expected.train_loss)
    started = TrainingScorer(SPACE, splits, TUNE, 3, "generated", hypernetwork)
    whole = HypernetworkScorer(hypernetwork, splits, dataclasses.replace(SCORE, images=24))
    tuner = whole._finetuner = started._tuner  # one compiled program is enough
    np.testing.assert_allclose(whole(CELLS[:2], 3), started(CELLS[:2], 0), rtol=1e-5)
    assert whole._tuner[0] is splits.train and len(whole._tuner[1].labels) == 24 and whole._tuner[2] == TUNE
    glance = tuner(CELLS[0], hypernetwork(SPACE.graph(CELLS[0])).arrays, 3)
    assert started(CELLS[:1], 0) == [-glance.score_loss]
    fresh = copy.copy(started)  # with the compiled program
    fresh._source = None
    assert fresh(CELLS[:1], 0) == [-tuner(CELLS[0], tuner.initial(CELLS[0], 0), 3).score_loss]
    assert fresh(CELLS[:1], 0) != started(CELLS[:1], 0) != fresh(CELLS[:1], 1)


def table_of(accuracies: list[float]) -> GroundTruth:
    keys = np.array([SPACE.canonical(a) for a in CELLS])
    return GroundTruth(tuple(CELLS), keys, np.array(accuracies)[:, None], {})


def test_proxies_and_tables_are_what_they_were(splits: Splits) -> None:
    batch = splits.train.images, splits.train.labels
    expected = score(SPACE, CELLS, *batch, proxies=["nwot"], initialisations=1)["nwot"]
    np.testing.assert_allclose(ProxyScorer(SPACE, splits.train, "nwot")(CELLS, 0), expected)
    tabular = TabularScorer(table_of([0.5, 0.6, 0.7, 0.8]), SPACE)
    assert tabular(CELLS, 0) == [0.5, 0.6, 0.7, 0.8]
    with pytest.raises(ValueError, match="tabular: takes no steps"):
        tabular(CELLS, 10)
    for name, words in (("nothing", "unknown 'nothing'"), ("az_nas", "fixed set of candidates")):
        with pytest.raises(ValueError, match=words):
            ProxyScorer(SPACE, splits.train, name)


def test_what_is_known_does_not_depend_on_the_company(hypernetwork: Hypernetwork, splits: Splits) -> None:
    problem = Problem(SPACE)
    features = Features(problem, Columns(hypernetwork, splits, SCORE))
    together, alone = features.columns(CELLS), features.columns(CELLS[2:3])
    for name, column in together.items():
        np.testing.assert_allclose(column[2], alone[name][0], rtol=1e-5)
    parameters = [SPACE.cost(a).parameters for a in CELLS]
    assert np.argsort(together[PARAMETERS]).tolist() == np.argsort(parameters).tolist()
    scorer = CombinedScorer(problem, hypernetwork, splits, SCORE)
    np.testing.assert_allclose(scorer(CELLS, 0), combined(together), rtol=1e-5)
    assert features.matrix(CELLS, together).shape[0] == 4 and GENERATED in together

    known = sample_classes(SPACE, 24, 3)
    accuracy = 0.4 + 0.01 * np.array([SPACE.cost(a).parameters for a in known]) / 10
    truth = GroundTruth(tuple(known), np.array([SPACE.canonical(a) for a in known]), accuracy[:, None], {})
    calibrated = CalibratedScorer(problem, hypernetwork, splits, truth, 24, SCORE)
    predicted = np.array(calibrated(known, 0))
    assert np.corrcoef(predicted, accuracy)[0, 1] > 0.9
    retrained = dataclasses.replace(truth, runs=truth.runs[::-1])
    assert CalibratedScorer(problem, hypernetwork, splits, retrained, 24, SCORE).id != calibrated.id


def test_ids_tell_apart_what_must_not_be_mixed(hypernetwork: Hypernetwork, splits: Splits) -> None:
    other = Hypernetwork.create(SPACE, hypernetwork.config, seed=1)
    less = dataclasses.replace(SCORE, images=8)
    ids = [
        HypernetworkScorer(own, data, config).id
        for own, data, config in (
            (hypernetwork, splits, SCORE),
            (other, splits, SCORE),
            (hypernetwork, splits, less),
            (hypernetwork, dataclasses.replace(splits, provenance={"source": "other"}), SCORE),
        )
    ]
    assert len(set(ids)) == 4
    assert HypernetworkScorer(hypernetwork, splits, SCORE).id == ids[0]
    tables = [0.5, 0.6, 0.7, 0.8], [0.5, 0.6, 0.7, 0.8], [0.5, 0.6, 0.8, 0.7]
    first, same, other_run = (TabularScorer(table_of(own), SPACE).id for own in tables)
    assert first == same != other_run
    wider = dataclasses.replace(SPACE, channels=4)
    assert ProxyScorer(SPACE, splits.train, "nwot").id != ProxyScorer(wider, splits.train, "nwot").id
    with pytest.raises(ValueError, match="give a hypernetwork"):
        TrainingScorer(SPACE, splits, TUNE, 3, "generated")
