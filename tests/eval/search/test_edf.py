"""Distributions of scores, sub-spaces, and what good architectures share."""

import itertools
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats
from toy_search import SPACE, ToyScorer, evaluate

from architectures.spaces import SMASH, MLPSpace
from eval.metrics import Interval
from eval.search import edf_command
from eval.search.algorithms import RandomSearch
from eval.search.edf import Distribution, chart, compare, part, sample, split
from eval.search.edf_command import SpacesConfig
from eval.search.marginals import choices, marginals
from eval.search.problem import Problem


def test_shares_and_expected_bests_are_those_of_the_definition() -> None:
    own = Distribution.of([3.0, 1.0, 2.0, 2.0])
    assert own.at_least([0.0, 1.0, 2.0, 2.5, 4.0]).tolist() == [1.0, 1.0, 0.75, 0.25, 0.0]
    bests = [max(draw) for draw in itertools.product([3.0, 1.0, 2.0, 2.0], repeat=3)]
    assert own.best_of(3) == pytest.approx(np.mean(bests))
    assert Distribution.of([1.0, float("nan"), 2.0]).at_least(-1e9) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="at least 3"):
        Distribution.of([1.0])


def test_two_spaces_are_compared_by_who_is_ahead() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.5, 1, 80), rng.normal(0, 1, 60)
    found = compare(Distribution.of(a), Distribution.of(b), 200)
    assert found.ahead.value == pytest.approx(stats.mannwhitneyu(a, b).statistic / (80 * 60))
    assert found.ahead.low < found.ahead.value < found.ahead.high and found.ahead.low > 0.5
    assert found.median.value == pytest.approx(np.median(a) - np.median(b))
    same = compare(Distribution.of(a), Distribution.of(a), 200)
    assert same.ahead.value == 0.5 and same.distance == 0 and same.p == pytest.approx(1)
    svg = chart({"a": Distribution.of(a), "b": Distribution.of(b)}, "points").svg()
    assert svg.count("<polyline") == 2 and "nan" not in svg


def test_failures_in_both_samples_are_compared_without_a_warning() -> None:
    failed = float("-inf")
    some = Distribution.of([failed, failed, 1.0, 2.0, 3.0])
    most = Distribution.of([failed, failed, failed, failed, 3.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compare(most, most, 200).median == Interval(0.0, -np.inf, np.inf)
        assert compare(some, some, 200).median.value == 0.0
        assert compare(some, most, 200).median.value == np.inf and compare(most, some, 200).median.value == -np.inf
        none = Distribution.of([failed] * 3)
        assert compare(none, none, 20).median == Interval(0.0, 0.0, 0.0) and none.best_of(20) == failed
    with pytest.raises(ValueError, match="every architecture failed"):
        chart({"a": none}, "points")


def test_tables_show_the_median_that_is_recorded() -> None:
    own = Distribution.of([1.0, 2.0, 4.0, 8.0])
    assert edf_command._rows({"part": own}, {})[1][:2] == ["part", "3.0000"]


def test_samples_too_small_for_a_distribution_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"SpacesConfig\.count=2: must be at least 3"):
        SpacesConfig(parts=("0 to 3 = none",), count=2)


def test_parts_of_spaces_are_cut_by_choices() -> None:
    with_skip, without = part(SPACE, "0 to 3 = skip_connect"), part(SPACE, "0 to 3 != skip_connect")
    cells = sample(Problem(SPACE), 60, 0)
    assert all(with_skip(a) == (a.edges[3] == "skip_connect") != without(a) for a in cells)
    drawn = sample(Problem(SPACE), 20, 0, with_skip)
    assert len({SPACE.canonical(a) for a in drawn}) == 20 and all(with_skip(a) for a in drawn)
    wide = part(MLPSpace((4, 4, 1)), "width 0 = 100")
    assert wide(MLPSpace((4, 4, 1)).from_string("100-50")) and not wide(MLPSpace((4, 4, 1)).from_string("50"))
    for text, words in (
        ("0 to 3", "write 'choice = value'"),
        ("0 to 9 = none", "no choice '0 to 9'; there are 0 to 1"),
        ("0 to 1 = conv_9x9", "is one of avg_pool_3x3"),
    ):
        with pytest.raises(ValueError, match=words):
            part(SPACE, text)
    with pytest.raises(ValueError, match="count=20: only 14"):
        sample(Problem(MLPSpace((4, 4, 1))), 20)


def test_what_the_good_ones_share_is_counted() -> None:
    problem = Problem(SPACE)
    history = evaluate(RandomSearch(problem), problem, 200)
    rows = marginals(SPACE, history)
    last = {row["value"]: row for row in rows if row["choice"] == "2 to 3"}
    assert last["nor_conv_3x3"]["share_of_best"] > 2 * last["nor_conv_3x3"]["share"]
    own = [e.score for e in history if e.architecture.edges[5] == "none"]
    assert last["none"]["count"] == len(own) and last["none"]["mean"] == pytest.approx(np.mean(own))
    inside, outside = split(history, part(SPACE, "2 to 3 = nor_conv_3x3"))
    assert len(inside) + len(outside) == 200 and np.mean(inside) > np.mean(outside)
    assert marginals(SPACE, history[:5]) == []
    smash = SMASH(input_shape=(4, 4, 1), blocks=1)
    columns = choices(smash, [smash.sample(seed) for seed in range(20)])
    assert columns and all(len(column) == 20 for column in columns.values())


def test_the_command_compares_a_part_with_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edf_command, "HypernetworkScorer", lambda *_: ToyScorer())  # scores are tested elsewhere
    config = SpacesConfig(parts=("2 to 3 = nor_conv_3x3",), count=25, resamples=50)
    found = edf_command.spaces(config, tmp_path / "out", Console(quiet=True))
    assert list(found) == ["2 to 3 = nor_conv_3x3", "2 to 3 != nor_conv_3x3"]
    values = json.loads((tmp_path / "out" / "spaces.json").read_text())
    assert values["comparisons"]["2 to 3 != nor_conv_3x3"]["ahead"]["low"] > 0.5
    assert "<polyline" in (tmp_path / "out" / "spaces.html").read_text()
    with pytest.raises(ValueError, match="give at least one"):
        edf_command.spaces(SpacesConfig(), tmp_path, Console(quiet=True))
