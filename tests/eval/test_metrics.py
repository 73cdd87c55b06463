"""The ranking statistics against plain references."""

import itertools
import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from correlated import correlated
from scipy import stats

from eval import metrics


@pytest.mark.parametrize("steps", [None, 2])
def test_correlations_equal_scipy(steps: int | None) -> None:
    scores, truth = correlated(200, steps=steps)
    assert metrics.spearman(scores, truth) == pytest.approx(stats.spearmanr(scores, truth).statistic, abs=1e-12)
    assert metrics.kendall(scores, truth) == pytest.approx(stats.kendalltau(scores, truth).statistic, abs=1e-12)
    top = np.argsort(-truth, kind="stable")[:100]
    expected = stats.kendalltau(scores[top], truth[top]).statistic
    assert metrics.kendall_top_half(scores, truth) == pytest.approx(expected, abs=1e-12)
    top = top[:20]
    expected = stats.kendalltau(scores[top], truth[top]).statistic
    assert metrics.kendall_top10(scores, truth) == pytest.approx(expected, abs=1e-12)


def test_sign_is_kept_and_monotone_maps_do_not_matter() -> None:
    scores, truth = correlated(60)
    for statistic in (metrics.spearman, metrics.kendall, metrics.kendall_top_half, metrics.spearman_top_half):
        value = statistic(scores, truth)
        assert statistic(-scores, truth) == pytest.approx(-value, abs=1e-12)
        assert statistic(np.exp(scores), truth**3) == pytest.approx(value, abs=1e-12)
        assert statistic(truth, truth) == pytest.approx(1)


def test_constant_input_is_nan_without_a_warning() -> None:
    _, truth = correlated(20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for statistic in (metrics.spearman, metrics.kendall, metrics.kendall_top_half, metrics.spearman_top_half):
            assert math.isnan(statistic(np.ones(20), truth))
            assert math.isnan(statistic(truth, np.ones(20)))


def test_top_fraction() -> None:
    truth = np.array([1.0, 5.0, 3.0, 3.0, 3.0, 0.0, 4.0, 2.0])
    assert np.flatnonzero(metrics.top_fraction(truth, 0.5)).tolist() == [1, 2, 3, 6]
    assert np.flatnonzero(metrics.top_fraction(truth, 0.01)).tolist() == [1, 2, 6]
    assert metrics.top_fraction(np.arange(30.0), 0.1).sum() == 3
    assert metrics.top_fraction(np.arange(301.0), 0.1).sum() == 31
    assert metrics.top_fraction(np.arange(100.0), 0.07).sum() == 7  # 0.07 * 100 is a little above 7 in floats


def test_precision_and_regret_by_hand() -> None:
    truth = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    scores = np.array([1.0, 6.0, 2.0, 5.0, 4.0, 3.0])  # predicted order: 1 3 4 5 2 0
    assert metrics.precision_at(scores, truth, 1) == 0
    assert metrics.precision_at(scores, truth, 3) == pytest.approx(1 / 3)
    assert metrics.precision_at(scores, truth, 6) == 1
    assert metrics.regret(scores, truth, 3) == pytest.approx(0.1)
    assert metrics.regret(scores, truth, 6) == 0
    assert metrics.regret(-scores, truth, 1) == 0
    assert metrics.best_rank(scores, truth, 1) == 2
    assert metrics.best_rank(scores, truth, 6) == 1
    assert metrics.best_rank(-scores, np.array([0.9, 0.9, 0.7, 0.6, 0.5, 0.4]), 1) == 1  # ties share the lowest rank
    assert metrics.best_rank(-scores, np.array([0.7, 0.9, 0.9, 0.6, 0.5, 0.4]), 1) == 3
    assert metrics.relative_improvement(truth, truth, 6) == pytest.approx(100 * (0.9 - 0.65) / 0.65)
    assert math.isnan(metrics.relative_improvement(truth, truth - 0.65))
    assert metrics.precision_at_10_percent(np.arange(100.0), np.arange(100.0) % 99) == pytest.approx(0.9)
    assert metrics.precision_at_10(np.arange(100.0), np.arange(100.0) % 95) == pytest.approx(0.5)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_tied_scores_give_the_expectation_over_orders(k: int) -> None:
    truth = np.array([0.9, 0.8, 0.2, 0.5, 0.4, 0.7])  # high rows first: a stable order would flatter a constant score
    for scores in (np.zeros(6), np.array([1.0, 1.0, 2.0, 1.0, 1.0, 0.0]), np.array([1.0, 1.0, 1.0, 1.0, 0.0, 2.0])):
        orders = [np.lexsort((order, -scores)) for order in map(np.array, itertools.permutations(range(6)))]
        top = set(np.argsort(-truth)[:k])
        precision = np.mean([len(top & set(order[:k])) / k for order in orders])
        regret = np.mean([0.9 - truth[order[:k]].max() for order in orders])
        best = np.mean([(truth > truth[order[:k]].max()).sum() + 1 for order in orders])
        assert metrics.precision_at(scores, truth, k) == pytest.approx(precision, abs=1e-12)
        assert metrics.regret(scores, truth, k) == pytest.approx(regret, abs=1e-12)
        assert metrics.best_rank(scores, truth, k) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 4, 8, 20])
@pytest.mark.parametrize("steps", [None, 1])
def test_choose_one_of_equals_enumeration(n: int, steps: int | None) -> None:
    scores, truth = correlated(8, seed=3, steps=steps)
    picks = []
    for subset in itertools.combinations(range(8), min(n, 8)):
        rows = np.array(subset)
        picks.append(truth[rows][scores[rows] == scores[rows].max()].mean())
    assert metrics.choose_one_of(scores, truth, n) == pytest.approx(np.mean(picks), abs=1e-12)


def test_choose_one_of_limits() -> None:
    scores, truth = correlated(15_000)
    assert metrics.choose_one_of(np.zeros(15_000), truth) == pytest.approx(truth.mean(), abs=1e-9)
    assert metrics.choose_one_of(scores, truth, 1) == pytest.approx(truth.mean(), abs=1e-9)
    assert metrics.choose_one_of(scores, truth, 15_000) == pytest.approx(truth[np.argmax(scores)])
    probability = [math.comb(14_999 - r, 99) / math.comb(15_000, 100) for r in range(2_000)]
    assert metrics.choose_one_of_oracle(truth) == pytest.approx(probability @ np.sort(truth)[::-1][:2_000], rel=1e-5)
    assert metrics.choose_one_of_oracle(truth) > metrics.choose_one_of(scores, truth) > truth.mean()


def test_partial_spearman_three_variable_formula() -> None:
    scores, truth = correlated(50)
    control = truth + np.random.default_rng(9).normal(size=50)
    xy, xz, yz = (stats.spearmanr(*pair).statistic for pair in ((scores, truth), (scores, control), (truth, control)))
    expected = (xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2))
    assert metrics.partial_spearman(scores, truth, control) == pytest.approx(expected, abs=1e-12)
    doubled = np.column_stack([control, control**3])  # the same ranks twice: a singular design changes nothing
    assert metrics.partial_spearman(scores, truth, doubled) == pytest.approx(expected, abs=1e-9)
    assert math.isnan(metrics.partial_spearman(scores, truth, scores))


def test_rank_sum() -> None:
    summed = metrics.rank_sum([1.0, 2.0, 2.0], [30.0, 10.0, 20.0])
    assert summed.tolist() == [1 + 3, 2.5 + 1, 2.5 + 2]


def test_failures_rank_last_and_are_counted() -> None:
    filled, count = metrics.failures_last([3.0, math.nan, 1.0, math.inf, 2.0])
    assert count == 2
    assert filled[1] == filled[3] < 1
    assert filled[[0, 2, 4]].tolist() == [3, 1, 2]
    assert metrics.failures_last([math.nan] * 3)[1] == 3
    assert np.isfinite(metrics.failures_last([math.nan] * 3)[0]).all()
    assert metrics.failures_last([1.0, 2.0])[1] == 0


@pytest.mark.parametrize("lowest", [1e17, -1e17, 2.0**53, -(2.0**53), 0.0, -1e300, -np.finfo(np.float64).max])
def test_failures_rank_below_scores_of_any_size(lowest: float) -> None:
    scores = [lowest, math.nan, float(np.nextafter(lowest, np.inf)) if abs(lowest) > 1 else 1e-3, -math.inf, math.nan]
    filled, count = metrics.failures_last(scores)
    assert count == 3 and np.isfinite(filled).all()
    assert filled[1] == filled[3] == filled[4] < filled[0] < filled[2]


def test_reliability() -> None:
    rng = np.random.default_rng(0)
    runs = rng.normal(size=(4000, 1)) + rng.normal(size=(4000, 3))  # pairwise r = 1/2, so 3/4 for the mean of 3
    assert metrics.reliability(runs) == pytest.approx(0.75, abs=0.02)
    pairs = [stats.pearsonr(runs[:, i], runs[:, j]).statistic for i, j in ((0, 1), (0, 2), (1, 2))]
    r = np.mean(pairs)
    assert metrics.reliability(runs) == pytest.approx(3 * r / (1 + 2 * r), abs=1e-12)
    assert metrics.reliability(np.repeat(runs[:, :1], 2, axis=1)) == pytest.approx(1)
    assert math.isnan(metrics.reliability(np.column_stack([runs[:, 0], np.ones(4000)])))


def test_reliability_by_ranks_and_of_uneven_tables() -> None:
    rng = np.random.default_rng(1)
    runs = rng.normal(size=(300, 1)) + rng.normal(size=(300, 2))
    r = stats.spearmanr(runs[:, 0], runs[:, 1]).statistic
    assert metrics.reliability(runs, ranks=True) == pytest.approx(2 * r / (1 + r), abs=1e-12)
    holed = np.column_stack([runs, np.full(300, np.nan)])  # a third seed that no class has
    assert metrics.reliability(holed) == pytest.approx(metrics.reliability(runs))
    assert metrics.split_half_kendall(holed) == pytest.approx(metrics.split_half_kendall(runs))
    half = np.where((np.arange(300) < 150)[:, None] & [False, True], np.nan, runs)  # half of the classes have one run
    r = np.corrcoef(runs[150:].T)[0, 1]
    assert metrics.reliability(half) == pytest.approx(1.5 * r / (1 + 0.5 * r))
    assert math.isnan(metrics.reliability(np.column_stack([runs[:, 0], np.full(300, np.nan)])))


def test_disattenuation_undoes_the_noise_of_the_truth() -> None:
    rng = np.random.default_rng(0)
    quality = rng.normal(size=5000)
    scores = quality + 0.5 * rng.normal(size=5000)
    runs = quality[:, None] + rng.normal(size=(5000, 2))
    observed, clean = (metrics.spearman(scores, truth) for truth in (runs.mean(axis=1), quality))
    assert observed < clean - 0.1
    assert metrics.disattenuated_spearman(scores, runs.mean(axis=1), runs) == pytest.approx(clean, abs=0.03)
    assert math.isnan(metrics.disattenuated_spearman(scores, runs[:, 0], np.column_stack([runs[:, 0], -runs[:, 0]])))


def test_split_half_spearman() -> None:
    runs = np.random.default_rng(0).normal(size=(50, 2))
    assert metrics.split_half_spearman(runs) == pytest.approx(stats.spearmanr(*runs.T).statistic)


def test_split_half_kendall() -> None:
    rng = np.random.default_rng(0)
    runs = rng.normal(size=(100, 1)) + rng.normal(size=(100, 4))
    pairings = [((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2))]
    values = [metrics.kendall(runs[:, list(a)].mean(axis=1), runs[:, list(b)].mean(axis=1)) for a, b in pairings]
    assert min(values) < metrics.split_half_kendall(runs) < max(values)
    assert metrics.split_half_kendall(runs, splits=600) == pytest.approx(np.mean(values), abs=0.01)
    assert metrics.split_half_kendall(runs[:, :2]) == pytest.approx(metrics.kendall(runs[:, 0], runs[:, 1]))
    assert metrics.split_half_kendall(np.repeat(runs[:, :1], 5, axis=1)) == pytest.approx(1)


GOOD = np.arange(12.0)
HOLED = np.where(np.isin(GOOD, [4, 9]), np.nan, GOOD)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.spearman(HOLED, GOOD), r"^scores: 2 non-finite of 12 values, the first at index 4"),
        (lambda: metrics.kendall(GOOD, np.where(GOOD == 3, -np.inf, GOOD)), r"^truth: 1 non-finite .* index 3"),
        (lambda: metrics.regret(GOOD, GOOD[:-1]), r"^truth: 11 rows, expected 12"),
        (lambda: metrics.kendall(GOOD[:2], GOOD[:2]), r"^scores: 2 rows, at least 3"),
        (lambda: metrics.top_fraction(GOOD[:2], 0.5), r"^truth: 2 rows, at least 3"),
        (lambda: metrics.top_fraction(GOOD, 1.5), r"^fraction: 1.5"),
        (lambda: metrics.precision_at(GOOD, GOOD, 13), r"^k: 13 is not in 1..12"),
        (lambda: metrics.regret(GOOD, GOOD, 0), r"^k: 0"),
        (lambda: metrics.choose_one_of(GOOD, GOOD, 0), r"^n: 0"),
        (lambda: metrics.precision_at(GOOD, GOOD, 2.5), r"^k: 2.5 is not a whole number"),  # type: ignore[arg-type]
        (lambda: metrics.regret(GOOD, GOOD, 2.5), r"^k: 2.5"),  # type: ignore[arg-type]
        (lambda: metrics.best_rank(GOOD, GOOD, math.nan), r"^k: nan"),  # type: ignore[arg-type]
        (lambda: metrics.choose_one_of(GOOD, GOOD, 2.5), r"^n: 2.5"),  # type: ignore[arg-type]
        (lambda: metrics.relative_improvement(GOOD, GOOD, 2.5), r"^n: 2.5"),  # type: ignore[arg-type]
        (lambda: metrics.bootstrap(metrics.regret, GOOD, GOOD, k=2.5), r"^k: 2.5"),
        (lambda: metrics.paired_difference(metrics.regret, GOOD, GOOD, GOOD, k=2.5), r"^k: 2.5"),
        (lambda: metrics.partial_spearman(GOOD, GOOD, GOOD[:5]), r"^controls: 5 rows, expected 12"),
        (lambda: metrics.partial_spearman(GOOD, GOOD, HOLED), r"^controls: 2 non-finite"),
        (lambda: metrics.rank_sum(GOOD, GOOD[:4]), r"^scores: 4 rows, expected 12"),
        (lambda: metrics.rank_sum(), r"^scores: none"),
        (lambda: metrics.bootstrap(metrics.spearman, GOOD, GOOD, classes=[1, 2]), r"^classes: 2 rows, expected 12"),
        (lambda: metrics.bootstrap(metrics.spearman, GOOD, GOOD, classes=["a", "b"] * 6), r"^classes: 2 distinct"),
        (lambda: metrics.bootstrap(metrics.spearman, GOOD, GOOD, resamples=0), r"^resamples: 0"),
        (lambda: metrics.bootstrap(metrics.spearman, GOOD, GOOD, level=95), r"^level: 95"),
        (lambda: metrics.paired_difference(metrics.spearman, GOOD, HOLED, GOOD), r"^scores_b: 2 non-finite"),
        (lambda: metrics.paired_difference(metrics.spearman, HOLED, GOOD, GOOD), r"^scores_a: 2 non-finite"),
        (lambda: metrics.reliability(GOOD), r"^runs: expected \[A, S\]"),
        (lambda: metrics.split_half_kendall(np.column_stack([GOOD, GOOD + np.inf])), r"^runs: 12 infinite"),
        (lambda: metrics.ranking_table({"m": HOLED}, GOOD, None), r"^methods\['m'\]: scores: 2 non-finite"),
        (lambda: metrics.ranking_table({"m": GOOD}, GOOD, [0] * 5), r"^classes: 5 rows"),
    ],
)
def test_errors_name_the_parameter(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
