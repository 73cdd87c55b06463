"""Two stages: how a budget is divided, what a shortlist does to a ranking, and that nothing is trained twice."""

from pathlib import Path

import numpy as np
import pytest

from architectures.spaces import NASBench201
from eval.metrics import kendall, kendall_top_half
from eval.two_stage import (
    Looker,
    Round,
    Start,
    choose,
    planned_scores,
    plans,
    second_scores,
    shortlisted,
    two_stage_scores,
)
from ghn import GHNConfig, Hypernetwork
from train.data import Dataset, Splits
from train.finetune import FinetuneConfig, Glance

SPACE = NASBench201(channels=2, cells=1, input_shape=(4, 4, 1), classes=3, stages=1)


def test_plans_spend_the_budget_and_no_more() -> None:
    both: tuple[Start, ...] = ("generated", "initialiser")
    found = plans(100, 124, (62, 124, 620, 10_000), (both[:1], both), weights=(0.0,))
    assert [(len(own.starts), own.steps, own.shortlist(100)) for (own,) in found] == [
        *((1, 62, 100), (1, 124, 100), (1, 620, 20)),
        *((2, 62, 100), (2, 124, 50), (2, 620, 10)),
    ]
    assert all(own.cost <= 124 for (own,) in found)
    with pytest.raises(ValueError, match="budget=5 steps an architecture: buys no three trainings of 620 steps"):
        plans(100, 5, (620, 10_000), (both[:1],))


def test_the_shortlist_comes_first_in_the_order_of_its_second_score() -> None:
    first = np.array([5.0, 1.0, 4.0, 3.0, 2.0])
    assert shortlisted(first, 3) == [0, 2, 3]
    scores = two_stage_scores(first, {0: 0.1, 2: 0.3, 3: 0.2})
    assert np.argsort(-scores).tolist() == [2, 3, 0, 4, 1]
    alone = two_stage_scores(first, {0: 0.1, 2: 0.3, 3: 0.2}, weight=1.0)
    assert np.argsort(-alone).tolist() == [0, 2, 3, 4, 1]  # the first score's own order


def test_the_plan_that_ranks_the_top_half_best_is_chosen() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=60)
    first = truth + rng.normal(size=60)
    bad = rng.normal(size=60)

    def second(rows: list[int], start: str, steps: int) -> np.ndarray:
        return np.asarray((truth if (start, steps) in {("initialiser", 10), ("generated", 20)} else bad)[rows])

    candidates = plans(60, 10, (10, 20), (("generated",), ("initialiser",)), weights=(0.0,))
    (chosen,) = choose(candidates, first, truth, second)
    assert chosen == Round(("initialiser",), 10, 1.0)
    assert kendall_top_half(planned_scores(first, (chosen,), second), truth) == pytest.approx(1)


def test_rounds_halve_what_is_left_by_the_scores_so_far() -> None:
    first, asked = np.arange(8.0), []

    def second(rows: list[int], start: str, steps: int) -> np.ndarray:
        asked.append((sorted(rows), start, steps))
        return -np.array(rows, np.float64)  # turns the order round

    plan = (Round(("generated",), 1, 1.0), Round(("generated", "initialiser"), 2, 0.5))
    assert sum(own.cost for own in plan) == 3
    scores = planned_scores(first, plan, second)
    half = [0, 1, 2, 3]
    assert asked == [(list(range(8)), "generated", 1), (half, "generated", 2), (half, "initialiser", 2)]
    assert np.argsort(-scores).tolist() == list(range(8))


def test_second_scores_join_three_views_and_put_failures_last() -> None:
    quality = np.linspace(0, 1, 6)
    glances = [Glance(-q, q, -q, q) for q in quality]
    assert kendall(second_scores(glances), quality) == pytest.approx(1)
    glances[5] = Glance(float("nan"), 0.0, float("nan"), 0.0)
    assert np.argmin(second_scores(glances)) in (0, 5)


def test_what_was_looked_at_is_kept(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = (np.arange(24) % 3).astype(np.int32)
    images = rng.normal(size=(24, 4, 4, 1)).astype(np.float32)
    own = Dataset("made up", images, labels, 3, (0.0,), (1.0,), ("a", "b", "c"))
    splits = Splits(own, own, own, {"source": "made up"})
    hypernetwork = Hypernetwork.create(SPACE, GHNConfig(width=8, message_width=4, hidden=8, tile=4))
    configs = {start: FinetuneConfig(batch=8, calibration=8) for start in ("generated", "initialiser")}

    def looker() -> Looker:
        return Looker(hypernetwork, splits, configs, tmp_path / "new" / "looks.sqlite")  # type: ignore[arg-type]

    cell, first = SPACE.sample(0), looker()
    glances = [first(cell, start, 2) for start in ("generated", "initialiser")]
    assert glances[0] != glances[1]
    assert first(cell, "initialiser", 2, seed=7) != glances[1]
    again = looker()
    assert [again(cell, start, 2) for start in ("generated", "initialiser")] == glances
    assert all(tuner._run._cache_size() == 0 for tuner in again._tuners.values())  # nothing was trained
