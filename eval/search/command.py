"""`ghn-eval search`: a search in a folder, from which the same command goes on."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from eval.report import rich_table
from eval.search.algorithms import RandomSearch
from eval.search.anytime import AnytimeScorer
from eval.search.build import Parts, build_algorithm, build_parts
from eval.search.config import SearchConfig
from eval.search.driver import Budget, search
from eval.search.history import Evaluation, best_of
from eval.search.html import write_page
from eval.search.report import Result, result_rows, summary_lines, write_result
from eval.search.store import SearchStore
from train.run_folder import RunError, claim

STOPPED = "stopped by hand"


def run_search(config: SearchConfig, out: Path, budget: Budget, console: Console, resume: bool = True) -> Result:
    """Searches until the budget is spent, compares with random architectures, writes the report.

    Args:
        config: of the search.
        out: its folder; what an earlier start left there is gone on from.
        budget: when to stop, earlier starts included.
        console: for the display.
        resume: False refuses a folder with a search in it.

    Raises:
        ValueError: bad input, or a folder that belongs to something else.
        KeyboardInterrupt: stopped by hand; the report of what there is has been written.
    """
    database = out / "search.sqlite"
    if not resume and database.exists():
        raise RunError(f"{out}: holds a search already; leave out --no-resume to go on, or choose another --out")
    parts = build_parts(config)
    claim(out, dataclasses.asdict(config), dataclasses.asdict(SearchConfig()), parts.splits.provenance, ("controls",))
    store = SearchStore(database, parts.problem, parts.scorer.id, config.seed)
    console.print(f"{parts.problem.describe()}\nscorer {parts.scorer.id}, algorithm {config.algorithm}")
    interrupted = False
    try:
        algorithm = build_algorithm(config, parts, out)
        with Display(store, budget, console) as display:
            stopped = search(algorithm, parts.scorer, store, budget, config.proposals, display.update)
        controls = _controls(config, parts, out, console)
    except KeyboardInterrupt:
        store.release()
        interrupted, stopped, controls = True, STOPPED, []
    exits = parts.scorer.curve if isinstance(parts.scorer, AnytimeScorer) else None
    unit, history = parts.scorer.unit, store.evaluations()
    result = Result(config, parts.problem, unit, history, controls, stopped, parts.truth, exits)
    _report(result, out, console)
    if interrupted:
        raise KeyboardInterrupt
    return result


def _controls(config: SearchConfig, parts: Parts, out: Path, console: Console) -> list[Evaluation]:
    """Random architectures of the same problem, by the same score at its lowest fidelity."""
    if config.controls == 0 or config.algorithm == "random":
        return []
    store = SearchStore(out / "controls.sqlite", parts.problem, parts.scorer.id, config.seed)
    algorithm = RandomSearch(parts.problem, config.seed + 2**31)
    budget = Budget(evaluations=config.controls)
    with Display(store, budget, console, "random controls") as display:
        search(algorithm, parts.scorer, store, budget, config.proposals, display.update)
    return store.evaluations()[: config.controls]


def _report(result: Result, out: Path, console: Console) -> None:
    if not result.evaluations:
        console.print("nothing was scored")
        return
    write_result(result, out)
    read = "no score, no page"
    if result.best:
        read = f"read {write_page(out)}"
        console.print(rich_table(result_rows(result), "best found"))
    for line in summary_lines(result):
        console.print(line, highlight=False)
    console.print(f"written to {out}; {read}")


class Display:
    """A live line: best so far, rate, time left."""

    def __init__(self, store: SearchStore, budget: Budget, console: Console, name: str = "searching") -> None:
        """Shows nothing yet."""
        count, seconds, _ = store.spent()
        columns = (TextColumn(name), BarColumn(), TextColumn("{task.fields[shown]}"))
        self._progress = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)
        self._budget, self._count, self._earlier = budget, 0, seconds
        self._first, self._begun, self._best = count, time.perf_counter(), -math.inf
        total = budget.evaluations if budget.evaluations is not None else budget.seconds
        self._task = self._progress.add_task(name, total=total, completed=0, shown="compiling")

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, fresh: list[Evaluation]) -> None:
        """After some evaluations, those of an earlier start among them."""
        self._count += sum(evaluation.repeats is None for evaluation in fresh)
        best = best_of(fresh)
        assert best is not None
        self._best = max(self._best, best.rank_value)
        seconds = time.perf_counter() - self._begun
        rate = max(0, self._count - self._first) / seconds
        done = self._count if self._budget.evaluations is not None else self._earlier + seconds
        shown = f"{self._count} scored  best {self._best:.4f}  {rate:.1f}/s"
        self._progress.update(self._task, completed=done, shown=shown)
