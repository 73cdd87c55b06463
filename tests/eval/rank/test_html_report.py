"""The HTML report of a ranking."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from eval.charts import Axis, Chart
from eval.ground_truth import GroundTruth
from eval.html_report import write_html
from eval.ranking import PRIMARY, Method, compare
from eval.report import write_ranking_files
from tests.eval.rank.tiny import SPACE
from train.target_table import sample_classes


class Page(HTMLParser):
    """Collects what a page asks for from elsewhere, and checks that its elements are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []
        self.tags: dict[str, int] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.outside += [f"{tag} {name}" for name, _ in attributes if name in ("src", "href", "srcset", "xlink:href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def saved_ranking(folder: Path, seeds: int, failing: bool = False, seconds: float = 5.0) -> Path:
    """A folder as `ghn-eval rank` leaves it, of 40 classes and made-up scores."""
    rng = np.random.default_rng(0)
    cells = tuple(sample_classes(SPACE, 40, 1))
    runs = np.linspace(0.5, 0.9, 40)[:, None] + 0.02 * rng.normal(size=(40, seeds))
    truth = GroundTruth(cells, np.array([SPACE.canonical(cell) for cell in cells]), runs, {"disconnected": 2}, seconds)
    scores = runs.mean(1) + 0.1 * rng.normal(size=40)
    scores[0] = np.nan if failing else scores[0]
    methods = {PRIMARY: Method(scores, 0.1, 50.0), "parameters": Method(rng.normal(size=40), 1e-5)}
    ranking = compare(truth, {"generated <weights>": methods[PRIMARY], **methods}, resamples=100)
    write_ranking_files(ranking, {}, ["a & b"], {"ground_truth": "x", "steps": 5}, SPACE, folder)
    return folder


@pytest.mark.parametrize(("seeds", "failing"), [(1, False), (3, True)])
def test_the_html_report_is_one_sound_file_that_needs_nothing_else(tmp_path: Path, seeds: int, failing: bool) -> None:
    text = write_html(saved_ranking(tmp_path, seeds, failing)).read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == [] and page.outside == []
    assert "@import" not in text and "url(" not in text and "script" not in page.tags
    assert page.tags["svg"] == 3 and page.tags["table"] == 1
    assert page.tags["tr"] == 1 + 3
    assert page.tags["circle"] == (40 - failing) + (20 + 2) + (3 + (seeds > 1))  # scatter, groups and legend, cost
    assert "generated &lt;weights&gt;" in text and "a &amp; b" in text
    assert ("failures" in text) == failing
    assert "nan" not in text.replace("nanmean", "")
    values = json.loads((tmp_path / "ranking.json").read_text())
    values["calibrated"] = {"coverage_curve": [[0.5, 0.4], [0.9, 0.88]]}
    (tmp_path / "ranking.json").write_text(json.dumps(values))
    assert Page(write_html(tmp_path).read_text(encoding="utf-8")).tags["svg"] == 4


def test_a_truth_that_took_no_time_has_a_report_too(tmp_path: Path) -> None:
    text = write_html(saved_ranking(tmp_path, 3, seconds=0.0)).read_text(encoding="utf-8")
    assert Page(text).tags["svg"] == 3 and "training from scratch: " not in text


def test_charts_leave_out_what_a_logarithmic_axis_does_not_show() -> None:
    chart = Chart("cost", Axis.over("seconds", [0.0, 1.0, 10.0], log=True), Axis("Kendall", 0, 1))
    for seconds in (0.0, -1.0, 1.0):
        chart.point(seconds, 0.5)
    chart.line([(0.0, 0.1), (1.0, 0.5), (10.0, 0.9)])
    assert chart.svg().count("<circle") == 1 and chart.svg().count(",") == 2


def test_training_is_shared_among_candidates_in_the_cost(tmp_path: Path) -> None:
    values = json.loads((saved_ranking(tmp_path, 1) / "ranking.json").read_text())
    assert values["methods"][PRIMARY]["amortised_seconds_per_candidate"] == pytest.approx(0.1 + 50 / 40)


def test_a_folder_without_a_ranking_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{tmp_path}: holds no finished ranking .*ghn-eval rank"):
        write_html(tmp_path)
