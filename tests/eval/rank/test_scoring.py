"""Scores by generated weights, in all ways that there are."""

import dataclasses

import numpy as np
import optax
import pytest

from architectures.layers import Layers
from eval.scoring import ScoreConfig, Scorer, Scores, _score, ensemble, inverse_temperature, tempered_loss
from tests.eval.rank.tiny import SPACE, TUNED, tiny
from train.data import DataError, Splits


def test_scores_equal_a_plain_evaluation_of_each_architecture(splits: Splits) -> None:
    hypernetwork = tiny(splits)
    cells = [SPACE.sample(seed) for seed in range(18)]  # more than one chunk
    scores = Scorer(hypernetwork, splits.train, splits.score, ScoreConfig(images=30))(cells)
    for row in (0, 17):
        weights = hypernetwork(SPACE.graph(cells[row]))
        logits = SPACE.forward_static(weights.arrays, cells[row], splits.score.images[:30], Layers())
        labels = splits.score.labels[:30]
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        np.testing.assert_allclose(scores.score_loss[row], loss, rtol=1e-4)
        np.testing.assert_allclose(scores.score_accuracy[row], (logits.argmax(-1) == labels).mean(), atol=1e-6)


def test_scorer_refuses_images_of_another_shape(splits: Splits) -> None:
    other = dataclasses.replace(splits.train, images=np.zeros((20, 5, 5, 1), np.float32))
    with pytest.raises(DataError, match="train images"):
        Scorer(tiny(splits), other, splits.score)


def test_statistics_of_training_images_normalise_every_score(splits: Splits) -> None:
    hypernetwork, cell = tiny(splits), SPACE.sample(3)
    scores = Scorer(hypernetwork, splits.train, splits.score, ScoreConfig(images=30, calibration=20))([cell])
    layers = Layers(statistics_rows=20)
    images = np.concatenate([splits.train.images[:20], splits.score.images[:30]])
    logits = SPACE.forward_static(hypernetwork(SPACE.graph(cell)).arrays, cell, images, layers)[20:]
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, splits.score.labels[:30]).mean()
    np.testing.assert_allclose(scores.score_loss, loss, rtol=1e-4)


def test_one_split_alone_scores_as_beside_the_other(splits: Splits) -> None:
    hypernetwork, cells = tiny(splits), [SPACE.sample(seed) for seed in range(3)]
    both, alone = (
        Scorer(hypernetwork, splits.train, splits.score, ScoreConfig(images=30, unseen=unseen))(cells)
        for unseen in (True, False)
    )
    np.testing.assert_allclose(alone.train_loss, both.train_loss, rtol=1e-5)
    np.testing.assert_allclose(alone.train_tempered, both.train_tempered, rtol=1e-5)
    assert np.isnan(alone.score_loss).all() and np.isfinite(both.score_loss).all()


def test_the_best_temperature_is_found() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(400, 5)).astype(np.float32)
    labels = np.array([rng.choice(5, p=np.exp(row) / np.exp(row).sum()) for row in logits])  # right at factor 1
    for scale in (0.1, 1.0, 30.0):
        found = float(inverse_temperature(logits * scale, labels))
        grid = np.geomspace(found / 2, found * 2, 41)
        losses = [optax.softmax_cross_entropy_with_integer_labels(f * scale * logits, labels).mean() for f in grid]
        assert abs(int(np.argmin(losses)) - 20) <= 1
        assert found * scale == pytest.approx(1, abs=0.2)
    overconfident = optax.softmax_cross_entropy_with_integer_labels(30 * logits, labels).mean()
    right = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    assert right < overconfident - 1
    assert float(tempered_loss(30 * logits, labels)) == pytest.approx(float(right), abs=0.02)


def test_fine_tuning_starts_from_the_generated_weights_and_any_length_is_one_program(splits: Splits) -> None:
    hypernetwork, cells = tiny(splits), [SPACE.sample(seed) for seed in range(2)]
    plain, short, long = (
        Scorer(hypernetwork, splits.train, splits.score, dataclasses.replace(TUNED, steps=steps))(cells)
        for steps in (0, 1, 25)
    )
    before = _score._cache_size()
    Scorer(hypernetwork, splits.train, splits.score, dataclasses.replace(TUNED, steps=3))(cells)
    assert _score._cache_size() == before
    assert (np.abs(short.train_loss - plain.train_loss) > 0).all()
    assert (long.train_loss < plain.train_loss - 0.02).all()
    assert (np.abs(short.train_loss - plain.train_loss) < np.abs(long.train_loss - plain.train_loss)).all()


def test_an_ensemble_is_the_mean_of_its_members(splits: Splits) -> None:
    rng = np.random.default_rng(0)
    members = [Scores(*rng.random((len(Scores._fields), 4))) for _ in range(3)]
    np.testing.assert_allclose(ensemble(members).score_loss, np.mean([member.score_loss for member in members], axis=0))


@pytest.mark.parametrize("change", [{"images": 1}, {"draws": 0}, {"calibration": -1}, {"steps": -1}])
def test_bad_ways_of_scoring_are_named(change: dict[str, int]) -> None:
    ((name, value),) = change.items()
    with pytest.raises(ValueError, match=f"ScoreConfig.{name}={value}"):
        ScoreConfig(**change)  # type: ignore[arg-type]
