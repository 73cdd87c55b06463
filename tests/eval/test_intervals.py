"""Intervals of statistics against plain resampling loops, and what they cover."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from correlated import Floats, correlated
from numpy.typing import NDArray

from eval import intervals, metrics, resampling


def _resample_loop(statistic: Callable[..., float], scores: Floats, truth: Floats, copies: NDArray[np.int64]) -> Floats:
    rows = [np.repeat(np.arange(len(scores)), count) for count in copies]
    return np.array([statistic(scores[row], truth[row]) for row in rows])


@pytest.mark.parametrize("steps", [None, 2])
@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("name", metrics.RANKING_STATISTICS)
def test_batched_resamples_equal_a_plain_loop(name: str, by_class: bool, steps: int | None) -> None:
    scores, truth = correlated(150, steps=steps)
    classes = np.random.default_rng(1).integers(60, size=150) if by_class else None
    statistic = metrics.RANKING_STATISTICS[name]
    copies = intervals.draw(classes, 150, 40, seed=5)
    batched = intervals.resampled(statistic, scores, truth, copies, {})
    np.testing.assert_allclose(batched, _resample_loop(statistic, scores, truth, copies), rtol=0, atol=1e-12)
    interval = metrics.bootstrap(statistic, scores, truth, classes, resamples=40, seed=5)
    assert interval.value == statistic(scores, truth)
    assert [interval.low, interval.high] == pytest.approx(np.quantile(batched, [0.025, 0.975]).tolist(), abs=1e-12)


def test_batched_blocks_and_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, truth = correlated(150, steps=10)
    whole = [metrics.bootstrap(f, scores, truth, resamples=50) for f in metrics.RANKING_STATISTICS.values()]
    monkeypatch.setattr(resampling, "BLOCK", 1000)
    again = [metrics.bootstrap(f, scores, truth, resamples=50) for f in metrics.RANKING_STATISTICS.values()]
    for one, other in zip(whole, again, strict=True):
        assert one.as_list() == pytest.approx(other.as_list(), abs=1e-12)
    default, single = (metrics.bootstrap(metrics.regret, scores, truth, resamples=50, k=k) for k in (10, 1))
    assert single.value == metrics.regret(scores, truth, 1) != default.value
    assert single.high > default.high


def test_generic_statistic_resamples_its_row_arguments() -> None:
    scores, truth = correlated(40)
    control = truth + np.random.default_rng(2).normal(size=40)
    for given in (control, control.tolist()):
        interval = metrics.bootstrap(metrics.partial_spearman, scores, truth, resamples=60, controls=given)
        copies = intervals.draw(None, 40, 60, 0)
        rows = [np.repeat(np.arange(40), count) for count in copies]
        expected = [metrics.partial_spearman(scores[r], truth[r], control[r]) for r in rows]
        assert [interval.low, interval.high] == pytest.approx(np.quantile(expected, [0.025, 0.975]).tolist(), abs=1e-12)


def test_copies_within_a_class_do_not_narrow_the_interval() -> None:
    scores, truth = correlated(80)
    one = metrics.bootstrap(metrics.spearman, scores, truth)
    again, classes = (np.tile(scores, 8), np.tile(truth, 8)), [f"class {i}" for i in list(range(80)) * 8]
    by_class = metrics.bootstrap(metrics.spearman, *again, classes)
    by_row = metrics.bootstrap(metrics.spearman, *again)
    assert by_class.as_list() == pytest.approx(one.as_list(), abs=1e-12)  # same draws of classes, ranks only scaled
    assert by_row.high - by_row.low < 0.6 * (one.high - one.low)


def test_bootstrap_covers_the_population_value() -> None:
    population = 6 / math.pi * math.asin(math.sqrt(0.5) / 2)  # Spearman of a normal pair with correlation sqrt(1/2)
    intervals = [metrics.bootstrap(metrics.spearman, *correlated(100, seed), resamples=200) for seed in range(100)]
    assert 85 <= sum(i.low <= population <= i.high for i in intervals) <= 100
    assert all(0.05 < i.high - i.low < 0.5 and i.low < i.value < i.high for i in intervals)


def test_interval_text_seed_and_level() -> None:
    assert str(metrics.Interval(0.614, 0.5512, 0.66)) == "0.61 [0.55, 0.66]"
    scores, truth = correlated(50)
    first, same, other = (metrics.bootstrap(metrics.kendall, scores, truth, seed=s) for s in (0, 0, 1))
    assert first == same != other
    narrow = metrics.bootstrap(metrics.kendall, scores, truth, level=0.5)
    assert first.low < narrow.low < narrow.high < first.high


def test_paired_difference() -> None:
    a, truth = correlated(100)
    b = a + 0.3 * np.random.default_rng(4).normal(size=100)
    for statistic in metrics.RANKING_STATISTICS.values():
        assert metrics.paired_difference(statistic, a, a.copy(), truth, resamples=50).as_list() == [0, 0, 0]
    difference = metrics.paired_difference(metrics.kendall, a, b, truth)
    flipped = metrics.paired_difference(metrics.kendall, b, a, truth)
    assert difference.value == metrics.kendall(a, truth) - metrics.kendall(b, truth)
    assert difference.as_list() == pytest.approx([-flipped.value, -flipped.high, -flipped.low])
    copies = intervals.draw(None, 100, 2000, 0)
    apart = [intervals.resampled(metrics.kendall, scores, truth, copies, {}) for scores in (a, b)]
    assert [difference.low, difference.high] == pytest.approx(np.quantile(apart[0] - apart[1], [0.025, 0.975]).tolist())
    alone = metrics.bootstrap(metrics.kendall, a, truth)
    assert difference.high - difference.low < 0.8 * (alone.high - alone.low)  # the resamples are shared


def test_the_p_value_of_a_difference() -> None:
    good, truth = correlated(100)
    noise = np.random.default_rng(4).normal(size=100)
    apart = metrics.paired_difference(metrics.kendall, good, noise, truth, resamples=400)
    assert apart.p == pytest.approx(2 / 401)  # no resample on the other side of 0
    assert metrics.paired_difference(metrics.kendall, good, good, truth, resamples=200).p == 1
    # Two equally good scores: p is uniform, so rarely small.
    pairs = [np.random.default_rng(seed).normal(size=(2, 100)) + truth for seed in range(40)]
    values = [metrics.paired_difference(metrics.kendall, a, b, truth, resamples=200).p for a, b in pairs]
    assert sum(p < 0.05 for p in values) <= 6
    assert sum(p < 0.5 for p in values) in range(10, 31)


def test_holm_is_the_step_down_rule() -> None:
    adjusted = metrics.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": math.nan, "e": 0.5})
    assert list(adjusted) == ["a", "b", "c", "d", "e"]
    # 4 tests: 0.01 * 4, then 0.03 * 3, then max(0.09, 0.04 * 2), then 0.5 * 1.
    assert [adjusted[name] for name in "abce"] == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert math.isnan(adjusted["d"])
    assert metrics.holm({"a": 0.9, "b": 0.8}) == {"a": 1, "b": 1}
    assert metrics.holm({}) == {}


def test_nested_bootstrap() -> None:
    rng = np.random.default_rng(0)
    quality = rng.normal(size=60) + 10
    runs = quality[:, None] + 0.3 * rng.normal(size=(60, 3))
    scores = quality + 0.5 * rng.normal(size=(3, 60))
    truth = runs.mean(axis=1)
    nested = metrics.nested_bootstrap(metrics.kendall, scores, runs, resamples=200)
    assert nested.value == pytest.approx(np.mean([metrics.kendall(own, truth) for own in scores]))
    assert nested.low < nested.value < nested.high
    # One run and one hypernetwork leave only the classes to draw: the plain bootstrap, on the same draws of them.
    plain = metrics.bootstrap(metrics.kendall, scores[0], runs[:, 0], resamples=200)
    once = metrics.nested_bootstrap(metrics.kendall, scores[:1], runs[:, :1], resamples=200)
    assert once.as_list() == pytest.approx(plain.as_list())
    # Runs that agree and hypernetworks that agree add no chance of their own.
    same = metrics.nested_bootstrap(metrics.kendall, scores[[0, 0]], runs[:, [0, 0]], resamples=200)
    assert same.as_list() == pytest.approx(plain.as_list())
    # Hypernetworks that disagree widen the interval.
    mixed = metrics.nested_bootstrap(metrics.kendall, np.stack([quality, -quality]), runs, resamples=200)
    assert mixed.low < -0.5 < 0.5 < mixed.high
    # A class that lacks a run draws from those that it has.
    holed = np.column_stack([runs[:, 0], np.where(np.arange(60) % 2, np.nan, runs[:, 0])])
    assert metrics.nested_bootstrap(metrics.kendall, scores[:1], holed, resamples=200).as_list() == pytest.approx(
        plain.as_list()
    )
    with pytest.raises(ValueError, match=r"\(3, 60\) and \(59, 3\)"):
        metrics.nested_bootstrap(metrics.kendall, scores, runs[1:])


def test_undefined_resamples() -> None:
    scores = np.zeros(30)
    scores[0] = 1.0  # a resample without row 0 (about 36 percent) has constant scores
    with pytest.raises(ValueError, match=r"kendall: undefined \(nan\) on \d+ of 300 resamples"):
        metrics.bootstrap(metrics.kendall, scores, np.arange(30.0), resamples=300)
    scores[:5] = 1.0  # now about 0.4 percent, which are left out
    interval = metrics.bootstrap(metrics.kendall, scores, np.arange(30.0), resamples=2000)
    copies = intervals.draw(None, 30, 2000, 0)
    assert np.isnan(intervals.resampled(metrics.kendall, scores, np.arange(30.0), copies, {})).any()
    assert -1 <= interval.low < interval.value < interval.high < 0


def test_ranking_table_equals_bootstrap_and_names_a_failing_method() -> None:
    scores, truth = correlated(60)
    classes = np.arange(60) // 2
    table = metrics.ranking_table({"good": scores, "bad": -scores}, truth, classes, resamples=100, seed=3)
    assert list(table) == ["good", "bad"]
    for method, sign in (("good", 1), ("bad", -1)):
        assert list(table[method]) == list(metrics.RANKING_STATISTICS)
        for name, statistic in metrics.RANKING_STATISTICS.items():
            expected = metrics.bootstrap(statistic, sign * scores, truth, classes, resamples=100, seed=3)
            assert table[method][name] == expected
    chosen = metrics.ranking_table({"m": scores}, truth, None, {"tau": metrics.kendall}, resamples=50)
    assert list(chosen["m"]) == ["tau"]
    undefined = metrics.ranking_table({"m": scores, "flat": np.ones(60)}, truth, None, resamples=50)
    assert np.isnan(undefined["flat"]["kendall"].low)
    assert np.isfinite(undefined["flat"]["precision_at_10"].low)
    assert np.isfinite(undefined["m"]["kendall"].low)
