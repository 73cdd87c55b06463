"""Checks that a hypernetwork reads architectures."""

import dataclasses

import numpy as np
import pytest

from eval.checks import SHUFFLED, SILENT, SMALL, WRONG, judge, no_messages, shuffled_edges, spoilt_scores
from eval.ranking import Method
from eval.scoring import ScoreConfig, Scorer
from tests.eval.rank.tiny import SPACE, TINY, tiny
from train.data import Splits
from train.target_table import sample_classes


def test_spoilt_graphs_keep_their_nodes_and_lose_their_edges(splits: Splits) -> None:
    inputs = tiny(splits).inputs(SPACE.graph(SPACE.sample(1)))
    silent, shuffled = no_messages(inputs), shuffled_edges(np.random.default_rng(0))(inputs)
    assert not silent.distances_NN.any() and inputs.distances_NN.any()
    assert (shuffled.distances_NN != inputs.distances_NN).any()
    np.testing.assert_array_equal(np.sort(shuffled.distances_NN, None), np.sort(inputs.distances_NN, None))
    for spoilt in (silent, shuffled):
        np.testing.assert_array_equal(spoilt.op_N, inputs.op_N)
        np.testing.assert_array_equal(spoilt.features_NF, inputs.features_NF)


def test_checks_tell_a_hypernetwork_that_reads_from_one_that_does_not(splits: Splits) -> None:
    cells = sample_classes(SPACE, 18, 2)
    reading = tiny(splits)
    scorer = Scorer(reading, splits.train, splits.score, ScoreConfig(images=30))
    right = scorer(cells).train_loss
    losses = spoilt_scores(scorer, reading, cells)
    assert set(losses) == {WRONG, SHUFFLED, SILENT}
    assert all(np.abs(loss - right).max() > 1e-5 for loss in losses.values())
    supernet = tiny(splits, dataclasses.replace(TINY, delta=False))
    assert spoilt_scores(scorer, supernet, cells) == {}
    truth, keys = -right, np.array([SPACE.canonical(cell) for cell in cells])
    noise = right + np.random.default_rng(0).normal(size=18)
    checks = judge({WRONG: noise, SMALL: right}, Method(-right, 0.0), truth, keys, 100)
    assert checks[SMALL].kendall.value == 1 and checks[SMALL].gap.as_list() == [0, 0, 0]
    assert checks[WRONG].difference.low > 0
    assert checks[WRONG].gap.value == pytest.approx((noise - right).mean())
