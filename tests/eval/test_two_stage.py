"""Two stages: how a budget is divided, what a shortlist does to a ranking, and that nothing is trained twice."""

from pathlib import Path

import numpy as np
import pytest

from architectures.spaces import NASBench201
from eval.metrics import kendall, kendall_top_half
from eval.two_stage import Looker, Plan, choose, plans, second_scores, shortlisted, two_stage_scores
from ghn import GHNConfig, Hypernetwork
from train.data import Dataset, Splits
from train.finetune import FinetuneConfig, Glance

SPACE = NASBench201(channels=2, cells=1, input_shape=(4, 4, 1), classes=3, stages=1)


def test_plans_spend_the_budget_and_no_more() -> None:
    found = plans(100, 124, (62, 124, 620, 10_000), ("generated", "initialiser"), weights=(0.0,))
    assert [(plan.start, plan.steps, plan.shortlist) for plan in found] == [
        (start, *rest) for start in ("generated", "initialiser") for rest in ((62, 100), (124, 100), (620, 20))
    ]
    assert all(plan.steps * plan.shortlist <= 124 * 100 for plan in found)
    with pytest.raises(ValueError, match="budget=5 steps an architecture: buys no three trainings of 620 steps"):
        plans(100, 5, (620, 10_000), ("generated",))


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
    good, bad = dict(enumerate(truth)), dict(enumerate(rng.normal(size=60)))
    looks = {("generated", 10): bad, ("initialiser", 10): good, ("generated", 20): good, ("initialiser", 20): bad}
    candidates = [Plan(start, steps, 600 // steps) for start, steps in looks]
    chosen = choose(candidates, first, truth, looks)
    assert (chosen.start, chosen.steps, chosen.shortlist) == ("initialiser", 10, 60)
    second = {row: good[row] for row in shortlisted(first, 60)}
    assert kendall_top_half(two_stage_scores(first, second), truth) == pytest.approx(1)


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
