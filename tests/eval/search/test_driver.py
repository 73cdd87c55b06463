"""Searches that are killed, shared, stopped: nothing is lost, and the history is that of an unbroken run."""

import dataclasses
import platform
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_search import SPACE, ToyScorer

from architectures.spaces import MLPSpace
from eval.ground_truth import GroundTruth, Tabulated
from eval.search.algorithms import HalvingConfig, Hyperband, RandomSearch, RegularisedEvolution
from eval.search.driver import Budget, search
from eval.search.history import Proposal
from eval.search.problem import Constraints, Problem
from eval.search.store import SearchStore, _alive, _started
from train.database import DatabaseError, transaction

ROOT = Path(__file__).resolve().parents[3]

# A process that forks searches and kills them: one import for all.
KILLS = """
import os, random, signal, sys, time
from pathlib import Path

from toy_search import SPACE, ToyScorer
from eval.search.algorithms import RegularisedEvolution
from eval.search.driver import Budget, search
from eval.search.problem import Problem
from eval.search.store import SearchStore

folder, count = Path(sys.argv[1]), int(sys.argv[2])

class Slow(ToyScorer):
    def __call__(self, architectures, fidelity):
        time.sleep(0.02)  # long beside a look at the database, on a busy machine too
        return super().__call__(architectures, fidelity)

def run(name, scorer):
    problem = Problem(SPACE)
    store = SearchStore(folder / name, problem, "toy", 1)
    search(RegularisedEvolution(problem, 1), scorer, store, Budget(count))
    return store

def fork(name):
    child = os.fork()
    if child == 0:
        run(name, Slow())
        os._exit(0)
    return child

def committed(name):
    import sqlite3
    try:
        with sqlite3.connect(folder / name) as database:
            return dict(database.execute("SELECT number, score FROM evaluations WHERE done = 1"))
    except sqlite3.Error:  # no table yet
        return {}

run("whole.sqlite", ToyScorer())
draws, lost, places = random.Random(0), 0, []
for kill in range(10):
    child = fork("broken.sqlite")
    wanted = (kill + draws.random()) * count / 11
    while len(committed("broken.sqlite")) < wanted:
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    before = committed("broken.sqlite")
    places.append(len(before))
    if kill:
        lost += sum(before.get(number) != score for number, score in earlier.items())
    earlier = before
run("broken.sqlite", ToyScorer())
final = committed("broken.sqlite")
lost += sum(final.get(number) != score for number, score in earlier.items())

def history(name):
    problem = Problem(SPACE)
    store = SearchStore(folder / name, problem, "toy", 1)
    return [(e.index, str(e.architecture), e.key, e.fidelity, e.score, e.costs[:2], e.parent, e.repeats)
            for e in store.evaluations()]

workers = [fork("shared.sqlite") for _ in range(3)]
time.sleep(0.2)
os.kill(workers[0], signal.SIGKILL)
codes = [os.waitpid(worker, 0)[1] for worker in workers]
shared = history("shared.sqlite")
print(places, file=sys.stderr)
print(lost, history("whole.sqlite") == history("broken.sqlite"), len(history("whole.sqlite")), len(set(places)))
print(codes[1:], len(shared), len({row[2] for row in shared if row[-1] is None}))
"""


def test_killed_searches_lose_nothing_and_end_as_unbroken_ones(tmp_path: Path) -> None:
    path = f"{ROOT}:{ROOT / 'tests' / 'models'}"
    command = [sys.executable, "-c", textwrap.dedent(KILLS), str(tmp_path), "240"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": path, "PATH": ""}, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    alone, shared = done.stdout.splitlines()
    assert alone.startswith("0 True 240 ") and int(alone.split()[-1]) >= 5  # kills at different places

    assert shared == "[0, 0] 240 240"


class Widths(ToyScorer):
    """For multi-layer perceptrons."""

    def __call__(self, architectures: Sequence[Any], fidelity: int) -> list[float]:
        return [float(sum(a.widths)) for a in architectures]


def store_at(path: Path, scorer: str = "toy", lease: float = 600.0) -> SearchStore:
    return SearchStore(path, Problem(SPACE), scorer, 0, lease)


def test_a_longer_budget_goes_on(tmp_path: Path) -> None:
    counts = []
    for budget in (30, 75):
        problem, store = Problem(SPACE), store_at(tmp_path / "s.sqlite")
        why = search(RandomSearch(problem), ToyScorer(), store, Budget(budget), 10, lambda new: counts.append(len(new)))
        assert why == "the budget in evaluations is spent"
    assert len(store.evaluations()) == 75
    assert counts == [10, 10, 10, 30, 10, 10, 10, 10, 5]  # the second run is first told what there is
    elapsed = [e.elapsed for e in store.evaluations()]
    assert elapsed == sorted(elapsed) and elapsed[0] > 0


def test_seconds_bound_all_sessions_together(tmp_path: Path) -> None:
    store = store_at(tmp_path / "s.sqlite")
    assert "seconds" in search(RandomSearch(Problem(SPACE)), ToyScorer(), store, Budget(seconds=0.3), 4)
    before = len(store.evaluations())
    assert before > 0
    again = store_at(tmp_path / "s.sqlite")
    assert "seconds" in search(RandomSearch(Problem(SPACE)), ToyScorer(), again, Budget(seconds=0.3), 4)
    assert len(again.evaluations()) == before
    with pytest.raises(ValueError, match="--budget-evaluations"):
        Budget()
    with pytest.raises(ValueError, match=r"evaluations=2\.5: must be a whole number"):
        Budget(2.5)  # type: ignore[arg-type]


def test_hyperband_resumes_in_the_middle_of_a_rung(tmp_path: Path) -> None:
    config, histories = HalvingConfig((0, 10, 40), 3), []
    for name, budgets in (("whole", (40,)), ("broken", (11, 17, 40))):
        for budget in budgets:
            problem, store = Problem(SPACE), store_at(tmp_path / name)
            search(Hyperband(problem, 0, config), ToyScorer(), store, Budget(budget), 4)
        histories.append([(e.key, e.fidelity, e.score, e.repeats) for e in store.evaluations()])
    assert histories[0] == histories[1]
    assert {fidelity for _, fidelity, _, _ in histories[0]} == {0, 10, 40}


def test_isomorphic_proposals_are_scored_once(tmp_path: Path) -> None:
    one = SPACE.from_string("|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|skip_connect~2|")
    two = SPACE.from_string("|skip_connect~0|+|none~0|nor_conv_3x3~1|+|none~0|none~1|skip_connect~2|")
    store = store_at(tmp_path / "s.sqlite")
    jobs = store.begin(lambda rows, first, scored: [Proposal(one), Proposal(two), Proposal(two, 10)], 3)
    assert [job.index for job in jobs] == [0, 2]
    store.finish(jobs, [1.5, 2.5], 0.1)
    found = store.evaluations()
    assert [(e.score, e.repeats, e.fidelity) for e in found] == [(1.5, None, 0), (1.5, 0, 0), (2.5, None, 10)]
    assert found[1].seconds == 0 and store.spent()[0] == 2


def test_leases_are_kept_by_the_living_and_taken_over_from_the_dead(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    first, second = store_at(path), store_at(path)
    second.owner = "elsewhere:1:"  # another machine
    cells = [SPACE.sample(seed) for seed in range(3)]
    jobs = second.begin(lambda rows, first, scored: [Proposal(cell) for cell in cells], 3)
    assert first.begin(lambda rows, first, scored: [], 5) == []  # nothing is known of it, its lease holds
    with transaction(path) as database:
        database.execute("UPDATE evaluations SET lease = 0 WHERE number = 1")
    assert [job.index for job in first.begin(lambda rows, first, scored: [], 5)] == [1]
    first.finish(jobs[1:2], [1.0], 0.0)
    second.finish(jobs, [2.0, 2.0, float("nan")], 0.0)  # late: what was stored first stands
    assert [e.score for e in first.evaluations()[:2]] == [2.0, 1.0]
    assert first.evaluations()[2].score != first.evaluations()[2].score

    third = store_at(tmp_path / "t.sqlite")
    third.begin(lambda rows, first, scored: [Proposal(cells[0])], 1)
    third.release()
    assert len(store_at(tmp_path / "t.sqlite").begin(lambda rows, first, scored: [], 1)) == 1
    with transaction(tmp_path / "t.sqlite") as database:
        gone = third.owner.rsplit(":", 2)[0] + ":999999999:1"
        database.execute("UPDATE evaluations SET owner = ?, lease = 1e12", (gone,))
    assert len(store_at(tmp_path / "t.sqlite").begin(lambda rows, first, scored: [], 1)) == 1


class Failing(ToyScorer):
    """Raises once."""

    def __init__(self, error: type[BaseException]) -> None:
        self._error: type[BaseException] | None = error

    def __call__(self, architectures: Sequence[Any], fidelity: int) -> list[float]:
        error, self._error = self._error, None
        if error is not None:
            raise error
        return super().__call__(architectures, fidelity)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_search_goes_on_after_an_error_in_the_same_process(tmp_path: Path, error: type[BaseException]) -> None:
    store, scorer = store_at(tmp_path / "s.sqlite"), Failing(error)
    search(RandomSearch(Problem(SPACE)), ToyScorer(), store, Budget(5), 5)
    with pytest.raises(error):
        search(RandomSearch(Problem(SPACE)), scorer, store, Budget(20, 20.0), 5)
    with transaction(tmp_path / "s.sqlite") as database:
        assert database.execute("SELECT COUNT(*) FROM evaluations WHERE owner IS NOT NULL").fetchone() == (0,)
    why = search(RandomSearch(Problem(SPACE)), scorer, store, Budget(20, 20.0), 5)
    assert why == "the budget in evaluations is spent"
    whole = store_at(tmp_path / "whole.sqlite")
    search(RandomSearch(Problem(SPACE)), ToyScorer(), whole, Budget(20), 5)
    assert [(e.key, e.score) for e in store.evaluations()] == [(e.key, e.score) for e in whole.evaluations()]


def test_leases_of_an_earlier_session_of_the_same_process_are_taken_over(tmp_path: Path) -> None:
    cells = [SPACE.sample(seed) for seed in range(3)]
    earlier, later = store_at(tmp_path / "s.sqlite"), store_at(tmp_path / "s.sqlite")
    with earlier.session():
        earlier.begin(lambda rows, first, scored: [Proposal(cell) for cell in cells], 3)
        assert later.begin(lambda rows, first, scored: [], 3) == []  # a thread that is searching
    assert [job.index for job in later.begin(lambda rows, first, scored: [], 3)] == [0, 1, 2]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc: the living cannot be told from the ended")
def test_a_process_that_has_ended_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = f"{platform.node()}:{child.pid}:{_started(child.pid)}"
    assert _alive(owner) and not _alive(owner + "0")  # another process of the same number is another one
    child.kill()
    while _alive(owner):  # it is not waited for: a zombie
        time.sleep(0.01)
    child.communicate()
    assert not _alive(owner)


def test_scores_of_another_scorer_are_refused(tmp_path: Path) -> None:
    store_at(tmp_path / "s.sqlite")
    with pytest.raises(DatabaseError, match=r"s\.sqlite: holds scores of toy, this search scores by other"):
        store_at(tmp_path / "s.sqlite", "other")
    (tmp_path / "text.sqlite").write_text("this is no database, but it is long enough to look like one" * 20)
    with pytest.raises(DatabaseError, match=r"text\.sqlite"):
        store_at(tmp_path / "text.sqlite")


def test_a_file_of_another_problem_is_refused(tmp_path: Path) -> None:
    cells = [SPACE.sample(seed) for seed in range(40)]
    classes = {SPACE.canonical(cell): cell for cell in cells if SPACE.connected(cell)}

    def tabulated(count: int) -> Tabulated:
        keys = list(classes)[:count]
        truth = GroundTruth(tuple(classes[key] for key in keys), np.array(keys), np.ones((count, 1)), {})
        return Tabulated(truth, SPACE)

    wide = dataclasses.replace(SPACE, channels=3)
    one, other = tabulated(5), tabulated(6)
    problems = {
        "constraints none": (Problem(SPACE), Problem(SPACE, Constraints(parameters=400))),
        "constraints parameters <= 500": [Problem(SPACE, Constraints(parameters=bound)) for bound in (500, 400)],
        "space": (Problem(SPACE), Problem(wide)),
        "table none": (Problem(SPACE), Problem(SPACE, table=one)),
        "table 5 classes": (Problem(SPACE, table=one), Problem(SPACE, table=other)),
    }
    for number, (part, (first, second)) in enumerate(problems.items()):
        path = tmp_path / f"{number}.sqlite"
        SearchStore(path, first, "toy")
        SearchStore(path, first, "toy")
        with pytest.raises(DatabaseError, match=rf"{number}\.sqlite: holds a search with {part}"):
            SearchStore(path, second, "toy")


def test_a_file_that_does_not_say_its_problem_is_opened(tmp_path: Path) -> None:
    store = store_at(tmp_path / "s.sqlite")
    search(RandomSearch(Problem(SPACE)), ToyScorer(), store, Budget(3))
    with transaction(tmp_path / "s.sqlite") as database:
        database.execute("DROP TABLE problem")
    for problem in (Problem(SPACE, Constraints(parameters=400)), Problem(SPACE)):
        assert len(SearchStore(tmp_path / "s.sqlite", problem, "toy").evaluations()) == 3


def test_a_space_that_is_used_up_ends_the_search(tmp_path: Path) -> None:
    space = MLPSpace((4, 4, 1), widths=(2, 3), depths=(1, 2))
    store = SearchStore(tmp_path / "s.sqlite", Problem(space), "toy")
    assert (
        search(RegularisedEvolution(Problem(space)), Widths(), store, Budget(10**6)) == "nothing new is left to propose"
    )
    assert len(store.evaluations()) == space.size == 6
