"""report.html: a ranking as one self-contained page, made from the files that `ghn-eval rank` saved.

Tables, scatter with intervals, reliability plot, cost against quality; inline SVG, no external resources.
"""

from __future__ import annotations

import csv
import dataclasses
import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval import pages
from eval.charts import Axis, Chart
from eval.ranking import COMBINED, PRIMARY
from eval.report import PERCENT, SHOWN

BINS = 10  # of the reliability plot


@dataclasses.dataclass(frozen=True, eq=False)
class Saved:
    """What a folder holds.

    Attributes:
        values: of ranking.json.
        labels: A architectures, as text.
        accuracy: [A] shares of 1.
        error: [A] standard errors; nan where unknown.
        scores: method name -> [A].
    """

    values: Mapping[str, Any]
    labels: tuple[str, ...]
    accuracy: NDArray[np.float64]
    error: NDArray[np.float64]
    scores: Mapping[str, NDArray[np.float64]]


def read_saved(folder: Path) -> Saved:
    """Reads ranking.json and scores.csv.

    Raises:
        ValueError: a file that is missing or damaged.
    """
    try:
        values = json.loads((folder / "ranking.json").read_text())
        with (folder / "scores.csv").open(newline="") as file:
            header, *rows = list(csv.reader(file))
        table = np.array([row[2:] for row in rows], np.float64)
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}: holds no finished ranking ({error}); make one with ghn-eval rank") from error
    scores = dict(zip(header[4:], table[:, 2:].T, strict=True))
    return Saved(values, tuple(row[0] for row in rows), table[:, 0], table[:, 1], scores)


def write_html(folder: Path) -> Path:
    """Writes report.html into a folder that `ghn-eval rank` filled; returns its path."""
    saved = read_saved(folder)
    values = saved.values
    body = [
        "<header>",
        "<h1>How well do generated weights rank architectures?</h1>",
        f"<p class=lead>{_lead(values)}</p>",
        _facts(values),
        "</header>",
        pages.section("Every method against the truth", _methods_table(values), _TABLE_NOTE),
    ]
    charts = [(title, make(saved), text) for title, make, text in _CHARTS]
    body += [pages.section(title, f"<figure>{chart.svg()}</figure>", text) for title, chart, text in charts if chart]
    if values.get("checks"):
        body.append(pages.section("Is the architecture read at all?", _checks_table(values["checks"]), _CHECKS_NOTE))
    body.append(pages.section("Small print", pages.notes(values.get("notes", ()))))
    path = folder / "report.html"
    path.write_text(pages.page("Ranking report", body), encoding="utf-8")
    return path


# ------------------------------------------------------------------------------------------------------------- text

_TABLE_NOTE = (
    "Small figures are 95% bootstrap intervals over isomorphism classes. Higher is better, except for best rank and "
    "regret. The best value of a column is bold, which is no claim: intervals overlap."
)
_CHECKS_NOTE = (
    "Scores with what the hypernetwork reads spoilt. Where they rank as well as the right ones (a difference whose "
    "interval holds 0), what was spoilt plays no part in the ranking."
)
_SCATTER_NOTE = "One dot an architecture; bars are two standard errors of its accuracy over seeds. Hover for its name."
_RELIABILITY_NOTE = (
    "Architectures in ten groups of equal size by score: mean accuracy of each group, with two standard errors. A "
    "score that can be trusted rises all the way; one that levels off at the right cannot tell the best apart."
)
_COVERAGE_NOTE = "The share of architectures whose true accuracy lies within their predicted interval, for every level."
_COST_NOTE = (
    "Wall time an architecture, the hypernetwork's training shared among the architectures ranked here where it is "
    "known, against rank correlation. Training each from scratch is drawn at the noise ceiling: what the ground truth "
    "shows of itself."
)


def _lead(values: Mapping[str, Any]) -> str:
    """One sentence of the result, with its margin over parameter count."""
    methods = values["methods"]
    name = COMBINED if COMBINED in methods else next(iter(methods))
    value, low, high = methods[name]["kendall"]
    text = f"Over {values['n']:,} architectures, {html.escape(name)} has Kendall {_interval(value, low, high)}"
    gap = values["paired_differences"].get(f"Kendall: {name} minus parameters")
    if gap is None:
        return text + "."
    verdict = "ahead of" if gap[1] is not None and gap[1] > 0 else "not reliably ahead of"
    return f"{text}, {verdict} parameter count alone (paired difference {_interval(*gap)})."


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    return f"<b>{pages.number(value)}</b> <small>[{pages.number(low)}, {pages.number(high)}]</small>"


def _facts(values: Mapping[str, Any]) -> str:
    about, ceiling = values.get("about", {}), values["noise_ceiling"]
    facts = {
        "architectures": f"{values['n']:,}",
        "ground truth": str(about.get("ground_truth", pages.NOTHING)),
        "reliability of its means": pages.number(values["reliability"]),
        "noise ceiling, Kendall": pages.number(ceiling["kendall"]),
        "choosing 1 of 100": f"{pages.number(values['mean_accuracy'], 100)}% to "
        f"{pages.number(values['oracle_choose_1_of_100'], 100)}%",
        "hypernetwork": f"{about.get('checkpoint', pages.NOTHING)}, {about.get('steps', 0):,} steps",
        "space": str(about.get("space", pages.NOTHING)),
    }
    return pages.facts(facts)


# ----------------------------------------------------------------------------------------------------------- tables


def _methods_table(values: Mapping[str, Any]) -> str:
    methods = values["methods"]
    failed = any(method["failures"] for method in methods.values())
    head = ["method", *SHOWN.values(), "s / architecture", *(["failures"] if failed else [])]
    best = {key: _best(key, [method[key][0] for method in methods.values()]) for key in SHOWN}
    rows = []
    for name, method in methods.items():
        cells = [_cell(key, method[key], best[key]) for key in SHOWN]
        cells.append(f"<td>{pages.number(method['seconds_per_candidate'], digits=4)}</td>")
        if failed:
            cells.append(f"<td>{method['failures'] or ''}</td>")
        style = " class=own" if name in (PRIMARY, COMBINED) else ""
        rows.append(f"<tr{style}><th scope=row>{html.escape(name)}</th>{''.join(cells)}</tr>")
    return pages.table(head, rows)


def _best(key: str, column: Sequence[float | None]) -> float | None:
    known = [value for value in column if value is not None]
    return (min if key in ("regret", "best_rank_in_10") else max)(known, default=None)


def _cell(key: str, interval: Sequence[float | None], best: float | None) -> str:
    scale = 100 if key in PERCENT else 1
    value, low, high = (pages.number(end, scale) for end in interval)
    style = " class=best" if interval[0] is not None and interval[0] == best else ""
    return f"<td{style}>{value}<small>{low} &ndash; {high}</small></td>"


def _checks_table(checks: Mapping[str, Any]) -> str:
    head = ["what the hypernetwork reads", "Kendall", "right minus this", "rise of the loss, nats"]
    rows = []
    for name, check in checks.items():
        cells = [_cell(key, check[key], None) for key in ("kendall", "difference", "gap")]
        rows.append(f"<tr><th scope=row>{html.escape(name)}</th>{''.join(cells)}</tr>")
    return pages.table(head, rows)


# ----------------------------------------------------------------------------------------------------------- charts


def _scatter(saved: Saved) -> Chart | None:
    if PRIMARY not in saved.scores:
        return None
    scores, accuracy, error = saved.scores[PRIMARY], 100 * saved.accuracy, 200 * np.nan_to_num(saved.error)
    x = Axis.over("minus training loss with generated weights, nats", list(scores))
    y = Axis.over("accuracy trained from scratch, %", [*(accuracy - error), *(accuracy + error)])
    chart = Chart("accuracy from scratch against the score under generated weights", x, y)
    for score, value, half, label in zip(scores, accuracy, error, saved.labels, strict=True):
        chart.point(score, value, value - half, value + half, f"{label}: {value:.2f}%", "faint")
    return chart


def _reliability(saved: Saved) -> Chart | None:
    shown = [name for name in (PRIMARY, "parameters") if name in saved.scores]
    if not shown or len(saved.accuracy) < 2 * BINS:
        return None
    groups = {name: _groups(saved.scores[name], 100 * saved.accuracy) for name in shown}
    ends = [end for rows in groups.values() for mean, half in rows for end in (mean - half, mean + half)]
    x = Axis("group of architectures by score, the best at the right", 0.4, BINS + 0.6)
    chart = Chart("mean accuracy by group of score", x, Axis.over("mean accuracy, %", ends))
    for place, (name, rows) in enumerate(groups.items()):
        style = "accent" if name == PRIMARY else "other"
        at = [(group + 1 + (place - 0.5) * 0.14, *row) for group, row in enumerate(rows)]
        chart.line([(across, mean) for across, mean, _ in at], style)
        for across, mean, half in at:
            chart.point(across, mean, mean - half, mean + half, f"{name}: {mean:.2f}%", style)
    chart.legend([(name, "accent" if name == PRIMARY else "other") for name in shown])
    return chart


def _groups(scores: NDArray[np.float64], accuracy: NDArray[np.float64]) -> list[tuple[float, float]]:
    """Mean accuracy and two standard errors of ten groups by score, the worst first; failures are the worst."""
    order = np.argsort(np.where(np.isfinite(scores), scores, -np.inf), kind="stable")
    return [
        (float(own.mean()), 2 * float(own.std(ddof=1)) / len(own) ** 0.5)
        for own in np.array_split(accuracy[order], BINS)
    ]


def _coverage(saved: Saved) -> Chart | None:
    """Of a calibrated prediction, where the ranking holds one: {"coverage_curve": [[level, share], ...]}."""
    curve = (saved.values.get("calibrated") or {}).get("coverage_curve")
    if not curve:
        return None
    chart = Chart("coverage of predicted intervals", Axis("level of the interval", 0, 1), Axis("share covered", 0, 1))
    chart.line([(0, 0), (1, 1)], "other")
    chart.line([(level, share) for level, share in curve], "accent")
    for level, share in curve:
        chart.point(level, share, tooltip=f"{level:.0%}: {share:.0%}", style="accent")
    return chart


def _cost(saved: Saved) -> Chart | None:
    methods, values = saved.values["methods"], saved.values
    rows = []
    for name, method in methods.items():
        seconds = method["amortised_seconds_per_candidate"] or method["seconds_per_candidate"]
        if name != "random" and seconds and method["kendall"][0] is not None:
            rows.append((name, seconds, *(math.nan if end is None else end for end in method["kendall"])))
    if not rows:
        return None
    rows.sort(key=lambda row: row[0] in (PRIMARY, COMBINED))  # what stands out is drawn last, on top
    truth, ceiling = values.get("truth_seconds"), values["noise_ceiling"]["kendall"]
    trained = [(truth, ceiling)] if truth and ceiling is not None else []  # tables may not know the seconds
    x = Axis.over("seconds an architecture", [row[1] for row in rows] + [seconds for seconds, _ in trained], log=True)
    y = Axis.over("Kendall", [end for row in rows for end in row[2:]] + [0.0] + [own for _, own in trained])
    chart = Chart("rank correlation against wall time an architecture", x, y)
    for name, seconds, value, low, high in rows:
        style = "accent" if name in (PRIMARY, COMBINED) else "other"
        chart.point(seconds, value, low, high, f"{name}: {value:.2f} at {seconds:.2g} s", style, name)
    for seconds, own in trained:
        chart.point(seconds, own, tooltip=f"training from scratch: {seconds:.2g} s", label="from scratch")
        chart.rule(own, "noise ceiling")
    return chart


_CHARTS = (
    ("Accuracy against score", _scatter, _SCATTER_NOTE),
    ("Does a higher score mean a better architecture?", _reliability, _RELIABILITY_NOTE),
    ("Do predicted intervals hold?", _coverage, _COVERAGE_NOTE),
    ("Cost against quality", _cost, _COST_NOTE),
)
