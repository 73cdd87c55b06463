"""Search algorithms on a toy: what they propose, that their history is all their state, that they beat random."""

import dataclasses
import itertools
import math
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pytest
from toy_search import OPTIMUM, SPACE, ToyScorer, evaluate

from architectures.spaces import MLPSpace
from eval.search.algorithms import (
    NSGA,
    Algorithm,
    EvolutionConfig,
    Guide,
    GuidedConfig,
    GuidedSearch,
    HalvingConfig,
    Hyperband,
    LocalConfig,
    LocalSearch,
    NSGAConfig,
    OptunaConfig,
    OptunaSearch,
    RandomSearch,
    RegularisedEvolution,
    SMASHConfig,
    SMASHSearch,
    SuccessiveHalving,
)
from eval.search.algorithms.guided import fitting_point
from eval.search.driver import Budget, search
from eval.search.features import described
from eval.search.history import Proposal, best_of, gains
from eval.search.pareto import pareto_front
from eval.search.problem import Constraints, Problem
from eval.search.store import SearchStore
from train.target_table import sample_classes

POOL = sample_classes(SPACE, 80, 5)
GUIDE = Guide(POOL, np.array([SPACE.cost(a).parameters for a in POOL], float), described(SPACE, POOL))
MAKERS: dict[str, Callable[[Problem, int], Algorithm]] = {
    "random": RandomSearch,
    "smash": lambda problem, seed: SMASHSearch(problem, seed, SMASHConfig(20, 10)),
    "evolution": lambda problem, seed: RegularisedEvolution(problem, seed, EvolutionConfig(15, 5)),
    "local": lambda problem, seed: LocalSearch(problem, seed, LocalConfig(4)),
    "halving": lambda problem, seed: SuccessiveHalving(problem, seed, HalvingConfig((0, 10, 40), 3, 9)),
    "hyperband": lambda problem, seed: Hyperband(problem, seed, HalvingConfig((0, 10, 40), 3)),
    "nsga": lambda problem, seed: NSGA(problem, seed, NSGAConfig(15)),
    "guided": lambda problem, seed: GuidedSearch(problem, seed, GUIDE, GuidedConfig(4, 30)),
    "optuna": lambda problem, seed: OptunaSearch(problem, seed, OptunaConfig(15)),
}
COUNT = {"guided": 20, "optuna": 45}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("batch", [1, 7])
def test_history_is_all_that_an_algorithm_knows(name: str, batch: int) -> None:
    problem = Problem(SPACE, Constraints(parameters=400))
    starts = list[int]()
    history = evaluate(MAKERS[name](problem, 3), problem, COUNT.get(name, 90), batch, starts)
    assert all(SPACE.cost(e.architecture).parameters <= 400 and SPACE.connected(e.architecture) for e in history)
    if name not in ("halving", "hyperband"):
        assert len({e.key for e in history}) == len(history)  # no class twice
    cut = starts[2 * len(starts) // 3]
    fresh = MAKERS[name](problem, 3)
    for e in history[:cut]:
        fresh.note(e.index, Proposal(e.architecture, e.fidelity, e.parent))
        fresh.tell(e)
    first = fresh.ask(cut, min(batch, len(history) - cut))
    assert [p.architecture for p in first] == [e.architecture for e in history[cut : cut + len(first)]]
    assert first == fresh.ask(cut, len(first))  # asking changes nothing
    other = evaluate(MAKERS[name](problem, 4), problem, 8, batch)
    assert [e.key for e in other] != [e.key for e in history[:8]]


@pytest.mark.parametrize("name", MAKERS)
def test_a_search_that_gets_a_larger_budget_ends_as_an_unbroken_one(name: str, tmp_path: Path) -> None:
    histories, count = [], COUNT.get(name, 60)
    for part, budgets in (("whole", [count]), ("parts", [3, 6, count // 2, count // 2 + 1, count])):
        for budget in budgets:
            problem = Problem(SPACE)
            store = SearchStore(tmp_path / part, problem, "toy", 1)
            search(MAKERS[name](problem, 1), ToyScorer(), store, Budget(budget), 8)
        histories.append(
            [(e.index, str(e.architecture), e.fidelity, e.score, e.parent, e.repeats) for e in store.evaluations()]
        )
    assert histories[0] == histories[1] and len(histories[0]) >= count


@pytest.mark.parametrize("name", ["smash", "evolution", "local"])
def test_guided_by_scores_beats_random(name: str) -> None:
    def found(maker: Callable[[Problem, int], Algorithm]) -> list[float]:
        bests = [best_of(evaluate(maker(problem, seed), problem, 80)) for seed in range(5)]
        return [best.score for best in bests if best is not None]

    problem = Problem(SPACE)
    assert np.mean(found(MAKERS[name])) > np.mean(found(RandomSearch)) + 3
    assert max(found(MAKERS[name])) <= OPTIMUM


def test_the_oldest_die() -> None:
    problem = Problem(SPACE)
    history = evaluate(RegularisedEvolution(problem, 0, EvolutionConfig(10, 3)), problem, 60)
    children = [e for e in history[10:] if e.parent is not None]
    assert all(e.parent is not None and e.index - 10 <= e.parent < e.index for e in children)
    for child in children:
        assert child.parent is not None
        pairs = zip(child.architecture.edges, history[child.parent].architecture.edges, strict=True)
        assert sum(a != b for a, b in pairs) == 1


def test_smash_perturbs_the_best_of_the_random_ones_then_the_best() -> None:
    problem = Problem(SPACE)
    history = evaluate(MAKERS["smash"](problem, 0), problem, 60)
    first = best_of(history[:20])
    assert first is not None
    assert all(e.parent is None for e in history[:20])
    assert {e.parent for e in history[20:30]} == {first.index}
    for e in history[30:]:
        best = best_of(history[: e.index])
        assert best is not None and e.parent in (best.index, None)


def test_local_search_moves_to_better_neighbours_and_begins_anew() -> None:
    problem = Problem(SPACE)
    history = evaluate(MAKERS["local"](problem, 1), problem, 150)
    centre = best_of(history[:4])
    assert centre is not None
    restarts = 0
    for e in history[4:]:
        if e.parent is None:
            restarts += 1
            tried = {h.key for h in history[: e.index]}
            assert all(
                problem.key(other) in tried for other in SPACE.neighbours(centre.architecture) if problem.allows(other)
            )
            centre = e
        else:
            assert e.parent == centre.index
            centre = e if e.score > centre.score else centre
    assert restarts >= 1


def test_halving_trains_ever_fewer_ever_longer() -> None:
    problem = Problem(SPACE)
    history = evaluate(MAKERS["halving"](problem, 0), problem, 26, batch=5)
    assert [e.fidelity for e in history] == [0] * 9 + [10] * 3 + [40] + [0] * 9 + [10] * 3 + [40]
    best = sorted(history[:9], key=lambda e: -e.score)[:3]
    assert [e.key for e in history[9:12]] == [e.key for e in best]
    assert history[12].key == best[0].key


def test_hyperband_begins_at_ever_higher_rungs() -> None:
    problem = Problem(SPACE)
    history = evaluate(MAKERS["hyperband"](problem, 0), problem, 30)
    runs = [(fidelity, len(list(group))) for fidelity, group in itertools.groupby(history, key=lambda e: e.fidelity)]
    assert runs[:6] == [(0, 9), (10, 3), (40, 1), (10, 5), (40, 2 + 3), (0, 7)]


def test_nsga_covers_the_front_better_than_random() -> None:
    problem = Problem(SPACE)
    objectives = ("score", "parameters")
    everything = [gains(e, objectives) for e in evaluate(RandomSearch(problem, 9), problem, 600)]
    front = {everything[row] for row in pareto_front(everything)}

    def share(maker: Callable[[Problem, int], Algorithm]) -> float:
        own = [{gains(e, objectives) for e in evaluate(maker(problem, s), problem, 150)} for s in range(3)]
        return float(np.mean([len(front & found) / len(front) for found in own]))

    assert share(MAKERS["nsga"]) > share(RandomSearch)


def test_guided_search_needs_few_labels() -> None:
    problem = Problem(SPACE)
    history = evaluate(MAKERS["guided"](problem, 0), problem, 25)
    every = sorted(ToyScorer()(POOL, 0), reverse=True)
    best = best_of(history)
    assert best is not None and best.score >= every[4]
    assert [fitting_point(n) for n in (3, 4, 7, 8, 30)] == [3, 4, 6, 8, 27]


def test_a_sampler_of_optuna_learns_and_any_other_takes_its_place() -> None:
    problem = Problem(SPACE)
    history = evaluate(MAKERS["optuna"](problem, 0), problem, 60)
    assert np.mean([e.score for e in history[40:]]) > np.mean([e.score for e in history[:15]]) + 10
    seeds: list[int] = []

    def uniform(seed: int) -> optuna.samplers.BaseSampler:
        seeds.append(seed)
        return optuna.samplers.RandomSampler(seed)

    other = OptunaSearch(problem, 0, sampler=uniform)
    assert len(evaluate(other, problem, 5)) == 5 and len(set(seeds)) == 5
    worst = history[0]
    other.tell(dataclasses.replace(worst, score=math.nan))  # a failed trial: it counts for nothing
    assert other.ask(5, 1)[0] == other.ask(5, 1)[0]


def test_optuna_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match=r"pip install .*\[optuna\]"):
        OptunaSearch(Problem(SPACE))


def test_failed_scores_are_the_worst() -> None:
    problem = Problem(SPACE)
    history = evaluate(RandomSearch(problem, 0), problem, 3)
    failed = type(history[0])(9, history[0].architecture, "x", 0, math.nan, history[0].costs)
    assert best_of([failed, *history]) in history
    assert gains(failed, ("score",)) == (-math.inf,)


@pytest.mark.parametrize("objectives", [("score", "parameters"), ("parameters", "flops")])
def test_nsga_keeps_no_failures_while_there_is_something_else(objectives: tuple[str, ...]) -> None:
    problem = Problem(SPACE)
    history = evaluate(RandomSearch(problem, 0), problem, 8)
    cheap = min(history, key=lambda e: e.costs.parameters)
    failed = [dataclasses.replace(e, index=8 + e.index, score=math.nan, costs=cheap.costs) for e in history]
    algorithm = NSGA(problem, 0, NSGAConfig(8), objectives)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for e in [*failed, *history]:
            algorithm.tell(e)
        parents = {algorithm.propose(index, set()).parent for index in range(20, 60)}  # type: ignore[union-attr]
    assert parents <= {e.index for e in history}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: EvolutionConfig(5, 6), "tournament=6"),
        (lambda: SMASHConfig(0), "random=0"),
        (lambda: SMASHConfig(probability=0), "probability=0"),
        (lambda: LocalConfig(0), "starts=0"),
        (lambda: HalvingConfig((10, 0)), r"fidelities=\(10, 0\)"),
        (lambda: HalvingConfig(eta=1), "eta=1"),
        (lambda: NSGAConfig(1), "population=1"),
        (lambda: GuidedConfig(2), "initial=2"),
        (lambda: GuidedConfig(reach=0.0), r"reach=0\.0"),
        (lambda: OptunaConfig(startup=0), "startup=0"),
        (lambda: OptunaSearch(Problem(MLPSpace())), "mlp has none"),
    ],
)
def test_bad_settings_are_named(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
