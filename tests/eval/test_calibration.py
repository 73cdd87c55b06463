"""Calibration: predictions improve on what they are made of, intervals hold what they promise."""

import numpy as np
import pytest
from scipy import stats

from eval.calibration import CalibrationConfig, calibrate, feature_matrix, principal
from eval.ground_truth import read_ground_truth
from eval.judging import Judged, draws_of_labels, judge, judge_baseline, over_draws, report, unlabelled
from eval.metrics import kendall
from eval.predictors import one_hot
from train.config import SpaceConfig


def synthetic(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two noisy scores of a quality that accuracy saturates in, with noise that is larger for bad networks."""
    rng = np.random.default_rng(seed)
    quality = rng.normal(size=count)
    scores = {"a": quality + rng.normal(size=count), "b": np.exp(quality + rng.normal(size=count))}
    noise = rng.normal(size=count) * np.where(quality < 0, 0.04, 0.01)
    return feature_matrix(scores), np.clip(0.9 - 0.1 * np.exp(-quality) + noise, 0.05, 0.99)


@pytest.mark.parametrize("kind", ["gp", "ridge"])
def test_intervals_cover_what_they_promise_and_scores_improve(kind: str) -> None:
    config = CalibrationConfig(kind=kind)  # type: ignore[arg-type]
    features, accuracy = synthetic(1000, 0)
    pool = np.arange(1000) < 300
    judged = judge(features, accuracy, ~pool, draws_of_labels(pool, 100, 4), config)
    assert (judged.asked == ~pool).all()
    assert 0.85 <= judged.coverage.mean() <= 0.96
    alone = max(kendall(column, accuracy[~pool]) for column in features[~pool].T)
    assert over_draws("kendall", judged, accuracy, resamples=50).value > alone + 0.03


def test_a_higher_level_gives_wider_intervals_around_the_same_prediction() -> None:
    features, accuracy = synthetic(200, 1)
    narrow, wide = (
        calibrate(features[:60], accuracy[:60], CalibrationConfig(level=level))(features[60:]) for level in (0.5, 0.9)
    )
    np.testing.assert_array_equal(narrow.mean, wide.mean)
    assert ((wide.low <= narrow.low) & (narrow.low <= narrow.mean)).all()
    assert ((wide.high >= narrow.high) & (narrow.high >= narrow.mean)).all()


@pytest.mark.parametrize(("level", "needed"), [(0.5, 1), (0.9, 9), (0.95, 19), (0.97, 33), (0.99, 99)])
def test_a_level_that_so_few_labels_cannot_hold_is_refused(level: float, needed: int) -> None:
    features, accuracy = synthetic(100, 1)
    config, least = CalibrationConfig("ridge", level, folds=2), max(4, needed)
    calibrate(features[:least], accuracy[:least], config)(features)
    if needed > 4:
        words = f"level={level}: {needed - 1} labels hold no interval of that level, {needed} are needed"
        with pytest.raises(ValueError, match=words):
            calibrate(features[: needed - 1], accuracy[: needed - 1], config)


@pytest.mark.parametrize("log_error", [True, False])
def test_intervals_hold_shares_only(log_error: bool) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 2))
    accuracy = np.clip(0.5 + 0.2 * features[:, 0], 0, 0.999)
    config = CalibrationConfig("ridge", log_error=log_error)
    predicted = calibrate(features, accuracy, config)(10 * features)
    assert predicted.low.min() == 0 and 0.9 < predicted.high.max() <= 1
    assert (predicted.low <= predicted.high).all()


def test_intervals_cover_on_the_shipped_table() -> None:
    space = SpaceConfig().build((14, 14, 1), 10)
    truth = read_ground_truth("embedded", space)
    counts = {"parameters": np.array([float(space.cost(a).parameters) for a in truth.architectures])}
    features = feature_matrix(counts, one_hot(space, truth.architectures))
    covered = []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(features))
        inside, outside = order[:80], order[80:]
        config = CalibrationConfig(kind="ridge")
        covered.append(
            calibrate(features[inside], truth.accuracy[inside], config)(features[outside]).coverage(
                truth.accuracy[outside]
            )
        )
    assert 0.83 <= np.mean(covered) <= 0.97


def test_features_are_normal_quantiles_of_ranks_and_tell_what_is_missing() -> None:
    column = np.array([5.0, np.nan, 1000.0, -2.0])
    features = feature_matrix({"score": column}, np.arange(4.0)[:, None])
    np.testing.assert_allclose(features[[3, 0, 2], 0], stats.norm.ppf([1 / 6, 1 / 2, 5 / 6]))
    np.testing.assert_array_equal(features[:, 1:], [[0, 0], [1, 1], [0, 2], [0, 3]])
    assert features[1, 0] == 0


def test_principal_directions_keep_what_differs_most() -> None:
    rng = np.random.default_rng(0)
    block = rng.normal(size=(50, 1)) @ rng.normal(size=(1, 6)) * 10 + rng.normal(size=(50, 6)) * 0.01
    kept = principal(block, 2)
    assert kept.shape == (50, 2)
    np.testing.assert_allclose(kept.T @ kept / 50, np.eye(2), atol=1e-9)
    assert abs(np.corrcoef(kept[:, 0], block[:, 0])[0, 1]) > 0.999
    assert principal(np.ones((5, 3)) * np.arange(5)[:, None], 3).shape == (5, 1)


def test_intervals_over_draws_are_paired_and_widen_with_the_spread_of_draws() -> None:
    rng = np.random.default_rng(0)
    truth, asked = rng.normal(size=150), np.ones((4, 150), bool)
    same = Judged(np.tile(truth + rng.normal(size=150), (4, 1)), asked, np.full(4, np.nan))
    noise = rng.normal(size=(4, 150)) * np.array([0.2, 0.5, 2, 6])[:, None]
    spread = Judged(truth + noise, asked, np.full(4, np.nan))
    one = over_draws("kendall", same, truth, resamples=400)
    assert one.value == pytest.approx(kendall(same.scores[0], truth))
    assert over_draws("kendall", same, truth, same, resamples=50).as_list() == [0, 0, 0]
    several = over_draws("kendall", spread, truth, resamples=400)
    assert several.high - several.low > 1.5 * (one.high - one.low)
    bad = unlabelled(spread.scores[3], asked[0])
    assert over_draws("kendall", same, truth, bad, resamples=50).low > 0


def test_labelled_candidates_are_not_judged() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=80)
    draws = draws_of_labels(np.ones(80, bool), 20, 2)
    features = rng.normal(size=(80, 3))
    judged = judge_baseline("ridge", features, truth, np.arange(80) < 60, draws)
    values = []
    for scores, rows in zip(judged.scores, draws, strict=True):
        left = np.setdiff1d(np.arange(60), rows)
        values.append(kendall(scores[left], truth[left]))
    told = report(judged, truth, {"nothing": unlabelled(features[:, 0], np.arange(80) < 60)}, resamples=20)
    assert told["kendall"][0] == pytest.approx(np.mean(values))
    assert told["draws"] == 2 and "coverage_90" not in told
    assert len(told["minus nothing"]["choose_1_of_100"]) == 3


def test_bad_input_is_named() -> None:
    features, accuracy = synthetic(50, 2)
    with pytest.raises(ValueError, match="at least 20"):
        calibrate(features[:10], accuracy[:10])
    with pytest.raises(ValueError, match="shares of 1"):
        calibrate(features, 100 * accuracy)
    with pytest.raises(ValueError, match="not finite"):
        calibrate(np.full((50, 2), np.nan), accuracy)
    with pytest.raises(ValueError, match=r"level=1.5"):
        CalibrationConfig(level=1.5)
    with pytest.raises(ValueError, match="kind='boosting': use 'gp' or 'ridge'"):
        CalibrationConfig(kind="boosting")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="labels=100"):
        draws_of_labels(np.ones(50, bool), 100, 1)
