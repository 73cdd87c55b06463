"""Learned baselines on synthetic tables whose best answer is known."""

import numpy as np
import pytest

from architectures.spaces import NASBench201
from eval.metrics import kendall
from eval.predictors import CurvePredictor, curve_features, early_stopping, one_hot, predict, regressor

SPACE = NASBench201(channels=2, stages=1, input_shape=(6, 6, 1))
RNG = np.random.default_rng(0)


def synthetic(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Encodings of random cells and a linear function of them with a little noise."""
    encodings = one_hot(SPACE, [SPACE.sample(seed) for seed in range(count)])
    weights = np.random.default_rng(1).normal(size=encodings.shape[1])
    return encodings, encodings @ weights + 0.05 * RNG.normal(size=count)


def test_one_hot_marks_one_value_of_every_choice() -> None:
    cells = [SPACE.sample(seed) for seed in range(200)]
    encodings = one_hot(SPACE, cells)
    assert set(np.unique(encodings)) == {0.0, 1.0}
    assert (encodings.sum(1) == len(SPACE.wiring)).all()
    same = {tuple(row): SPACE.encode(cell)["op"].tolist() for row, cell in zip(encodings, cells, strict=True)}
    assert len(same) == len({tuple(code) for code in same.values()})


@pytest.mark.parametrize(("kind", "least"), [("ridge", 0.98), ("gp", 0.9), ("boosting", 0.6)])
def test_predicts_what_it_was_not_told(kind: str, least: float) -> None:
    features, target = synthetic(200)
    predicted = predict(kind, features[:100], target[:100], features[100:])  # type: ignore[arg-type]
    assert np.corrcoef(predicted, target[100:])[0, 1] > least


def test_unknown_regressors_and_too_few_labels_are_named() -> None:
    with pytest.raises(ValueError, match="'forest'"):
        regressor("forest")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 5"):
        predict("ridge", np.ones((3, 2)), np.ones(3), np.ones((1, 2)))


def curves(count: int, epochs: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Trainings that rise towards their final accuracies at their own speed."""
    final = RNG.uniform(0.6, 0.95, count)
    speed = RNG.uniform(0.2, 0.5, (count, 1))
    return final[:, None] * (1 - np.exp(-speed * np.arange(1, epochs + 1))), final


def test_features_of_a_curve_are_values_and_differences() -> None:
    features = curve_features(np.array([[1.0, 3.0, 6.0, 10.0]]), np.array([[7.0]]))
    np.testing.assert_array_equal(features, [[1, 3, 6, 10, 2, 3, 4, 1, 1, 7]])


def test_extrapolation_sees_more_the_longer_it_looks() -> None:
    known, final = curves(60)
    asked, truth = curves(60)
    predictor = CurvePredictor(known, final)
    errors = [np.sqrt(np.mean((predictor(asked[:, :epochs]).mean - truth) ** 2)) for epochs in (1, 3, 8)]
    assert errors[0] > errors[1] > errors[2]
    assert predictor(asked[:, :3]).deviation == pytest.approx(errors[1], rel=0.6)
    chance = predictor.chance_to_beat(0.8, asked[:, :8])
    assert chance[truth > 0.83].min() > 0.9
    assert chance[truth < 0.77].max() < 0.1


def test_early_stopping_finds_the_best_in_fewer_epochs() -> None:
    known, final = curves(60)
    asked, truth = curves(40)
    stopped = early_stopping(CurvePredictor(known, final), asked, truth)
    assert truth[stopped.best] == truth.max()
    assert stopped.finished[0]  # nothing to compare the first one with
    assert stopped.finished[stopped.best]
    assert stopped.epochs.sum() < 0.6 * asked.size
    assert stopped.epochs.min() >= 2


def test_a_training_without_an_accuracy_is_never_the_best() -> None:
    known, final = curves(60)
    asked, truth = curves(40)
    predictor = CurvePredictor(known, final)
    truth[[0, 7]], asked[7, 4:] = np.nan, np.nan
    truth[9] = np.inf
    stopped = early_stopping(predictor, asked, truth)
    assert truth[stopped.best] == truth[np.isfinite(truth)].max()
    assert stopped.finished[1]  # nothing to compare it with either
    assert not stopped.finished[7] and stopped.epochs[7] <= 5
    assert early_stopping(predictor, asked[:3], np.full(3, np.nan)).best == -1


def test_curves_that_do_not_fit_are_refused() -> None:
    known, final = curves(10)
    predictor = CurvePredictor(known, final)
    with pytest.raises(ValueError, match="20 epochs"):
        predictor(np.zeros((1, 20)))
    with pytest.raises(ValueError, match="features_AF"):
        predictor(known, np.zeros((10, 1)))
    with pytest.raises(ValueError, match="confidence=2"):
        early_stopping(predictor, known, final, confidence=2)


def test_a_gaussian_process_ranks_what_lies_beyond_its_labels() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 6))
    truth = features @ [2.0, -1.0, 0.5, 0.0, 1.0, 0.3] + 0.1 * rng.normal(size=200)
    order = np.argsort(truth)
    known, beyond = order[:15], order[100:]
    predicted = predict("gp", features[known], truth[known], features[beyond])
    assert predicted.min() > truth[known].max()  # where a Matern alone falls back to the mean
    assert kendall(predicted, truth[beyond]) > 0.8
