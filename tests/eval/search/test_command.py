"""`ghn-eval search` from the outside: reports, going on, interruption, bad input."""

import csv
import dataclasses
import json
import math
import signal
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from architectures.spaces import MLPSpace
from eval.scoring import ScoreConfig
from eval.search import build, command
from eval.search.command import _report, run_search
from eval.search.config import SearchConfig
from eval.search.driver import Budget
from eval.search.features import COLUMNS
from eval.search.history import Evaluation
from eval.search.html import write_page
from eval.search.problem import Constraints, Problem
from eval.search.report import Result, result_rows
from ghn import GHNConfig
from ghn.checkpoint import save_file
from train.cli import run_command
from train.config import SpaceConfig, TrainConfig
from train.data import load
from train.loop import make_hypernetwork

TABULAR = SearchConfig(scorer="tabular", ground_truth="embedded", batch=4, controls=12)
QUIET = Console(quiet=True)


class Page(HTMLParser):
    """Counts tags, keeps text and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.sources: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_reports_leave_out_what_failed(tmp_path: Path) -> None:
    space = MLPSpace((4, 4, 1), widths=(2, 3, 4, 5, 6, 7), depths=(1,))
    problem, cells = Problem(space), [space.from_string(str(width)) for width in range(2, 8)]
    config = SearchConfig(algorithm="nsga", objective=("score", "parameters"), controls=3)

    def told(index: int, score: float, fidelity: int = 0) -> Evaluation:
        return Evaluation(index, cells[index], problem.key(cells[index]), fidelity, score, problem.costs(cells[index]))

    some = [told(0, math.nan), told(1, 0.5), told(2, 0.4), told(3, 0.9), told(4, math.nan, 10)]
    result = Result(config, problem, "points", some, some[1:3], "stopped")
    assert [e.index for e in result.front] == [1, 3]
    assert [e.index for e in result.best] == [3, 1, 2]
    assert len(result_rows(result)) == 3
    none = Result(config, problem, "points", [told(0, math.nan)], [told(1, math.nan)], "stopped")
    assert none.front == none.best == []
    _report(none, tmp_path, QUIET)
    values = json.loads((tmp_path / "search.json").read_text())
    assert values["best"] == values["front"] == [] and "Every evaluation failed" in values["notes"][-1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("search") / "run"
    run_search(TABULAR, out, Budget(30), QUIET)
    return out


def test_everything_that_was_scored_is_told(finished: Path) -> None:
    values = json.loads((finished / "search.json").read_text())
    with (finished / "evaluations.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert values["evaluations"] == len(rows) == 30
    best = max(rows, key=lambda row: float(row["score"]))
    assert values["best"][0]["architecture"] == best["architecture"]
    assert values["curve"][-1][2] == pytest.approx(float(best["score"]))
    assert [point[2] for point in values["curve"]] == sorted(point[2] for point in values["curve"])
    random = values["random"]
    assert random["n"] == 12
    assert random["relative_improvement"] == pytest.approx(100 * (random["found"] / random["mean"] - 1))
    assert values["optimum"] >= values["best"][0]["score"]
    for choice in {row["choice"] for row in values["marginals"]}:
        own = [row for row in values["marginals"] if row["choice"] == choice]
        assert sum(row["share"] for row in own) == pytest.approx(1) == sum(row["share_of_best"] for row in own)
    assert any("Regret in the table" in note for note in values["notes"])


def test_the_page_is_one_file_that_draws_the_winners(finished: Path) -> None:
    page = Page((finished / "report.html").read_text(encoding="utf-8"))
    assert page.tags["svg"] == 4 and page.tags["img"] == 3 and "script" not in page.tags and "link" not in page.tags
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.sources)
    assert f"ghn-eval retrain --out {finished} --random 0 --architectures '|" in page.text  # what hovering shows
    assert "What evolution found" in page.text and "What the good ones share" in page.text
    assert page.tags["polyline"] == 3
    assert Page(write_page(finished).read_text(encoding="utf-8")).tags == page.tags  # from the files alone
    with pytest.raises(ValueError, match="holds no finished search"):
        write_page(finished / "nowhere")


def test_several_objectives_give_a_front(tmp_path: Path) -> None:
    config = dataclasses.replace(TABULAR, algorithm="nsga", objective=("score", "parameters"))
    result = run_search(config, tmp_path / "run", Budget(60), QUIET)
    front = [(e.score, e.costs.parameters) for e in result.front]
    assert front == sorted(front, key=lambda point: point[1]) == sorted(front)
    for e in result.scored:
        dominated = any(s >= e.score and p <= e.costs.parameters for s, p in front)
        assert dominated
    assert Page((tmp_path / "run" / "report.html").read_text()).tags["polyline"] == 4  # the front among them
    values = json.loads((tmp_path / "run" / "search.json").read_text())
    assert len(values["hypervolume"]) == 2 and min(values["hypervolume"]) > 0
    assert any("times the volume" in note for note in values["notes"])


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Shells start what runs in the background with the signal ignored, and Python then leaves it so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
def test_interruption_writes_the_report_and_gives_the_lease_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = command.search, []

    def interrupted(algorithm: Any, scorer: Any, *rest: Any) -> str:
        class Stopped:
            id, chunk, unit = scorer.id, scorer.chunk, scorer.unit

            def __call__(self, architectures: Any, fidelity: int) -> Any:
                calls.append(len(architectures))
                if len(calls) == 3:
                    signal.raise_signal(signal.SIGINT)
                return scorer(architectures, fidelity)

        return real(algorithm, Stopped(), *rest)

    with monkeypatch.context() as patch:
        patch.setattr(command, "search", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_search(TABULAR, tmp_path / "run", Budget(30), QUIET)
    values = json.loads((tmp_path / "run" / "search.json").read_text())
    assert values["evaluations"] == 8 and values["about"]["stopped"] == "stopped by hand"
    whole = run_search(TABULAR, tmp_path / "run", Budget(30), QUIET)
    unbroken = run_search(TABULAR, tmp_path / "other", Budget(30), QUIET)
    assert [(e.key, e.score) for e in whole.evaluations] == [(e.key, e.score) for e in unbroken.evaluations]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"constraints": Constraints(parameters=10)}, ("parameters <= 10", "none of 5,000", "loosen")),
        ({"scorer": "hypernetwork", "space": "smash"}, ("checkpoint 'demo'", "not for smash")),
        ({"scorer": "hypernetwork", "sizes": SpaceConfig(channels=16)}, ("checkpoint 'demo'", "16 channels")),
        ({"scorer": "anytime", "sizes": SpaceConfig(exits=True)}, ("checkpoint 'demo'", "an exit after each")),
        ({"scorer": "proxy", "space": "smash", "sizes": SpaceConfig(exits=True)}, ("SpaceConfig.exits", "smash")),
        ({"ground_truth": "cells.csv"}, ("cells.csv", "unknown op 'conv_9x9'")),
        ({"ground_truth": "nowhere.csv"}, ("nowhere.csv",)),
        ({"out": "file/run"}, ("cannot be written", "writable disk")),
        ({"out": "/proc/run"}, ("cannot be written", "writable disk")),
        ({"out": "other"}, ("other", "another run", "seed was 1, is 0")),
    ],
)
def test_bad_input_ends_with_one_line_and_exit_code_2(
    change: dict[str, Any],
    words: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    bad = "|conv_9x9~0|+|none~0|none~1|+|none~0|none~1|none~2|"
    Path("cells.csv").write_text(f"architecture,test_accuracy\n{bad},0.5\n")
    out = Path(change.pop("out", "run"))
    if out == Path("other"):
        run_search(dataclasses.replace(TABULAR, seed=1, controls=0), out, Budget(4), QUIET)
    config = dataclasses.replace(TABULAR, **change)
    monkeypatch.setattr("sys.argv", ["ghn-eval", "search"])

    def own() -> None:
        run_search(config, out, Budget(10), QUIET)

    with pytest.raises(SystemExit) as caught:
        run_command({"search": own, "other": own}, "")
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words), message
    assert out == Path("other") or not (out / "search.sqlite").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"objective": ("score", "parameters")}, "several objectives are what nsga takes"),
        ({"space": "hiaml"}, "'hiaml': unknown; there are nasbench201"),
        ({"objective": ("beauty",)}, "'beauty': unknown"),
        ({"algorithm": "hyperband"}, "the scorer tabular has none"),
        ({"algorithm": "guided", "scorer": "hypernetwork"}, "spends labels"),
        ({"ground_truth": None}, "--ground-truth"),
        ({"batch": 0}, "batch=0"),
    ],
)
def test_settings_that_do_not_fit_are_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(TABULAR, **change)


def test_a_search_that_is_there_is_not_begun_anew(finished: Path) -> None:
    with pytest.raises(ValueError, match="holds a search already"):
        run_search(TABULAR, finished, Budget(30), QUIET, resume=False)


def test_a_guided_search_keeps_what_guides_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Known:
        """Columns without a network."""

        def __init__(self, *_: object) -> None:
            pass

        def __call__(self, architectures: Any) -> dict[str, Any]:
            asked.append(len(architectures))
            rng = np.random.default_rng(0)
            return {name: rng.normal(size=len(architectures)) for name in COLUMNS}

    monkeypatch.setattr(build, "Columns", Known)  # scoring is tested elsewhere
    config = dataclasses.replace(TABULAR, algorithm="guided", batch=None, controls=0)
    assert config.proposals == 1
    broken = [run_search(config, tmp_path / "broken", Budget(count), QUIET) for count in (7, 12)][-1]
    assert sum(asked) == 208  # the table's classes, once
    whole = run_search(config, tmp_path / "whole", Budget(12), QUIET)
    assert [e.key for e in broken.evaluations] == [e.key for e in whole.evaluations]


def test_exits_are_drawn_where_they_are_searched_for(finished: Path, tmp_path: Path) -> None:
    for name in ("search.json", "evaluations.csv"):
        (tmp_path / name).write_text((finished / name).read_text())
    values = json.loads((tmp_path / "search.json").read_text())
    values["exits"] = {values["best"][0]["architecture"]: [[1000, 0.4], [50_000, 0.7], [90_000, 0.8]]}
    (tmp_path / "search.json").write_text(json.dumps(values))
    page = Page(write_page(tmp_path).read_text(encoding="utf-8"))
    assert page.tags["svg"] == 5 and page.tags["polyline"] == 4 and "Early exits of the best" in page.text


def test_a_search_by_generated_exits_says_so(tmp_path: Path) -> None:
    small = GHNConfig(width=8, message_width=4, hidden=8, tile=4)
    trained = TrainConfig(space=SpaceConfig(channels=2, exits=True), ghn=small)
    checkpoint = tmp_path / "exits.safetensors"
    save_file(make_hypernetwork(trained, load(trained.data)), checkpoint)
    config = SearchConfig(
        scorer="anytime", algorithm="random", checkpoint=str(checkpoint), score=ScoreConfig(images=32), batch=2
    )
    result = run_search(config, tmp_path / "run", Budget(2), QUIET)
    values = json.loads((tmp_path / "run" / "search.json").read_text())
    assert "Early exits: generated by the hypernetwork." in values["notes"]
    assert [len(exits) for exits in values["exits"].values()] == [3, 3]
    assert all(math.isfinite(e.score) for e in result.scored)
    page = Page((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))
    assert "Early exits of the best" in page.text and "generated by the hypernetwork" in page.text
