"""Early exits: what they cost, what they see, where they come from, how a curve becomes a score."""

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from architectures.layers import Layers
from architectures.spaces import MLPSpace, NASBench201
from eval.search.anytime import Anytime, AnytimeScorer, Budgets, Exit, _pooled, budgets_of, exit_flops, fit_exit
from ghn import GHNConfig, Hypernetwork
from train.data import Dataset, Splits

SPACE = NASBench201(channels=2, cells=2, input_shape=(4, 4, 1), classes=3, stages=2)
CONFIG = GHNConfig(width=8, message_width=4, hidden=8, tile=4)
CELL = SPACE.from_string("|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|nor_conv_1x1~1|skip_connect~2|")


@pytest.fixture(scope="module")
def splits() -> Splits:
    rng = np.random.default_rng(0)
    labels = (np.arange(24) % 3).astype(np.int32)
    images = rng.normal(size=(24, 4, 4, 1)).astype(np.float32) + labels[:, None, None, None]
    own = Dataset("made up", images, labels, 3, (0.0,), (1.0,), ("a", "b", "c"))
    return Splits(own, own, own, {"source": "made up"})


def test_an_exit_costs_what_lies_before_it() -> None:
    first, last = exit_flops(SPACE, CELL)
    cell = 2 * (9 * 2 * 2 + 2 * 2) * 16  # two cells, a 3x3 and a 1x1 convolution each, 4 x 4 pixels
    assert first == 2 * (9 * 1 * 2 * 16 + cell + 2 * 3)
    assert last == 2 * SPACE.cost(CELL).macs


def test_the_last_exit_sees_what_the_networks_own_classifier_sees(splits: Splits) -> None:
    hypernetwork = Hypernetwork.create(SPACE, CONFIG)
    arrays = hypernetwork(SPACE.graph(CELL)).arrays
    images = splits.train.images
    seen = np.asarray(_pooled(SPACE, arrays, SPACE.encode(CELL), images))
    assert seen.shape == (2, 24, 4) and not seen[0, :, 2:].any()
    plain = {**arrays, "norm/scale": 0 * arrays["norm/scale"] + 1, "norm/bias": 0 * arrays["norm/bias"]}
    plain |= {"classifier/bias": 0 * arrays["classifier/bias"]}
    logits = SPACE.forward_static(plain, CELL, images, Layers())
    np.testing.assert_allclose(logits, seen[1] @ arrays["classifier/kernel"][0], rtol=1e-3, atol=1e-5)
    exits = Anytime(hypernetwork, splits, 24)(CELL)
    assert [own.flops for own in exits] == exit_flops(SPACE, CELL)
    assert all(1 / 3 < own.accuracy <= 1 for own in exits)  # the images tell the classes apart
    scorer = AnytimeScorer(hypernetwork, splits, 24)
    assert scorer([CELL], 0) == [budgets_of(SPACE).value(exits)]
    with pytest.raises(ValueError, match="mlp has none"):
        Anytime(Hypernetwork.create(MLPSpace((4, 4, 1)), CONFIG), splits)


def test_exits_are_ridge_regressions() -> None:
    rng = np.random.default_rng(0)
    features, labels, other = rng.normal(size=(30, 4)), rng.integers(3, size=30), rng.normal(size=(5, 4))
    z = (features - features.mean(0)) / features.std(0)
    expected = Ridge(alpha=1.0).fit(z, np.eye(3)[labels])
    found = fit_exit(features, labels, 3)(other)
    np.testing.assert_allclose(found, expected.predict((other - features.mean(0)) / features.std(0)))


def test_a_curve_is_read_at_every_budget() -> None:
    budgets = Budgets((1.0, 10.0, 100.0, 1000.0), 0.1)
    assert budgets.value([Exit(10, 0.6), Exit(500, 0.8)]) == pytest.approx((0.1 + 0.6 + 0.6 + 0.8) / 4)
    assert budgets.value([Exit(10, 0.6), Exit(500, 0.5)]) == pytest.approx((0.1 + 3 * 0.6) / 4)


@pytest.fixture(scope="module")
def generating() -> Hypernetwork:
    return Hypernetwork.create(dataclasses.replace(SPACE, exits=True), CONFIG)


def test_generated_exits_answer_where_there_are_any(generating: Hypernetwork, splits: Splits) -> None:
    space = generating.space
    answers = space.apply_exits(generating(space.graph(CELL)), CELL, splits.score.images)
    expected = [float((np.asarray(own).argmax(-1) == splits.score.labels).mean()) for own in answers]
    curve = Anytime(generating, splits, 24)
    assert curve.source == "generated"
    assert curve(CELL) == [Exit(*pair) for pair in zip(exit_flops(SPACE, CELL), expected, strict=True)]
    scorer = AnytimeScorer(generating, splits, 24)
    assert scorer([CELL], 0) == [budgets_of(SPACE).value(curve(CELL))]
    assert Anytime(generating, splits, 24, "fitted").source == "fitted"


def test_exits_are_fitted_where_none_are_generated(generating: Hypernetwork, splits: Splits) -> None:
    plain = Hypernetwork.create(SPACE, CONFIG)
    assert Anytime(plain, splits).source == "fitted"
    assert AnytimeScorer(plain, splits).id != AnytimeScorer(generating, splits).id
    with pytest.raises(ValueError, match=r"generates no early exits; .* ghn-train ghn --space.exits"):
        Anytime(plain, splits, source="generated")


def test_what_an_exit_costs_is_what_the_shallower_network_costs() -> None:
    shallow = dataclasses.replace(SPACE, stages=1)
    assert exit_flops(SPACE, CELL)[0] == 2 * shallow.cost(CELL).macs
    assert exit_flops(dataclasses.replace(SPACE, exits=True), CELL) == exit_flops(SPACE, CELL)
