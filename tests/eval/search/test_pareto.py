"""Fronts, crowding and hypervolume against plain definitions."""

import warnings

import numpy as np
import pytest

from eval.search.pareto import crowding, front_numbers, hypervolume, pareto_front


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a >= b).all() and (a > b).any())


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_fronts_peel_off_what_nothing_dominates(objectives: int) -> None:
    points = np.random.default_rng(objectives).integers(0, 6, (40, objectives)).astype(float)
    left, expected, number = list(range(40)), np.zeros(40, int), 0
    while left:
        front = [i for i in left if not any(dominates(points[j], points[i]) for j in left)]
        expected[front] = number
        left = [i for i in left if i not in front]
        number += 1
    np.testing.assert_array_equal(front_numbers(points), expected)
    assert pareto_front(points) == np.flatnonzero(expected == 0).tolist()


def test_a_value_that_is_missing_is_the_worst() -> None:
    assert front_numbers([[1.0, 1.0], [np.nan, 1.0], [2.0, 0.0]]).tolist() == [0, 1, 0]


@pytest.mark.parametrize("missing", [np.nan, -np.inf])
def test_failures_lie_in_a_last_front_by_themselves(missing: float) -> None:
    points = [[1.0, 1.0], [missing, 9.0], [2.0, 0.0], [0.0, 0.0], [missing, 8.0]]
    assert front_numbers(points).tolist() == [0, 2, 0, 1, 2]
    assert pareto_front(points) == [0, 2]
    assert pareto_front(points[1:2]) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not np.isnan(crowding(points)).any()
        assert not np.isnan(crowding([[-np.inf, -np.inf]] * 3)).any()


def test_crowding_is_the_reach_of_neighbours() -> None:
    distance = crowding([[0.0, 4.0], [1.0, 3.0], [3.0, 1.0], [4.0, 0.0]])
    assert np.isinf(distance[[0, 3]]).all()
    np.testing.assert_allclose(distance[1:3], [3 / 4 + 3 / 4] * 2)
    assert np.isinf(crowding([[1.0, 2.0]])).all()


def test_hypervolume_equals_counted_area() -> None:
    rng = np.random.default_rng(0)
    points = rng.integers(0, 9, (12, 2))
    grid = np.stack(np.meshgrid(np.arange(9), np.arange(9)), -1).reshape(-1, 2)
    covered = sum(any((cell < point).all() for point in points) for cell in grid)
    assert hypervolume(points, [0, 0]) == covered
    assert hypervolume([[-1.0, 5.0]], [0, 0]) == 0
    with pytest.raises(ValueError, match="3 objectives"):
        hypervolume([[1.0, 1.0, 1.0]], [0, 0, 0])
