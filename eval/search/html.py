"""report.html of a search: one self-contained page, made from search.json and evaluations.csv."""

from __future__ import annotations

import base64
import html
import math
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from architectures.spaces import SearchSpace, from_settings
from eval import pages
from eval.charts import Axis, Chart
from eval.search.folder import Rows, read_comparison, read_search, retrain_command
from train.metrics import write_whole

DRAWN = 3  # of the winners
DOTS = 2000  # at most, the best ones: pages stay small
_CURVE_NOTE = (
    "The best score so far, in steps; dots are improvements. The rule is the best of as many random architectures as "
    "were drawn for comparison. Hover over a dot for the architecture and the command that trains it from scratch."
)
_SCATTER_NOTE = "One dot an architecture that was scored; the line joins those that nothing dominates."
_DRAWN_NOTE = "The best found, from the input at the top to the classifier."
_MARGINALS_NOTE = (
    "For every choice: the share of a value among the best tenth of what was scored, and among all of it. A search "
    "scores more of what it likes, so both matter."
)


def write_page(folder: Path) -> Path:
    """Writes report.html into a folder that `ghn-eval search` filled; returns its path.

    Raises:
        ValueError: a folder without a finished report.
    """
    values, rows = read_search(folder)
    values["command"] = retrain_command(folder)
    about = values["about"]
    parts = [
        "<header>",
        f"<h1>What {html.escape(about['algorithm'])} found</h1>",
        f"<p class=lead>{html.escape(_lead(values))}</p>",
        _facts(values),
        "</header>",
        pages.section("Best found", _best_table(values)),
        pages.section("Best score against architectures scored", _figure(_curve(values, rows, "count")), _CURVE_NOTE),
        pages.section("Best score against seconds", _figure(_curve(values, rows, "seconds"))),
        *_regret(values, rows),
        *_exits(values),
    ]
    if len({row["parameters"] for row in rows.values()}) > 1:
        parts.append(pages.section("Score against parameters", _figure(_scatter(values, rows)), _SCATTER_NOTE))
    parts.append(pages.section("The winners", _drawings(from_settings(about["settings"]), values), _DRAWN_NOTE))
    if values["marginals"]:
        parts.append(pages.section("What the good ones share", _marginals_table(values), _MARGINALS_NOTE))
    comparison = read_comparison(folder)
    if comparison is not None:
        parts.append(_retrained(comparison))
    parts.append(pages.section("Small print", pages.notes(values["notes"])))
    path = folder / "report.html"
    write_whole(path, pages.page("Search report", parts))
    return path


def command_line(values: Mapping[str, Any], architecture: str) -> str:
    """Trains an architecture from scratch."""
    return f"{values['command']} {shlex.quote(architecture)}"


def _lead(values: Mapping[str, Any]) -> str:
    random = values["random"]
    text = f"Best {values['about']['unit']} {values['best'][0]['score']:.4f} of {values['evaluations']:,} architectures"
    if not random or values["about"]["algorithm"] == "random":
        return text + "."
    better = "ahead of" if random["found_at_n"] > random["best"] else "not ahead of"
    return (
        f"{text}; after {random['n']:,} evaluations it was {better} the best of as many random ones "
        f"({random['found_at_n']:.4f} against {random['best']:.4f})."
    )


def _facts(values: Mapping[str, Any]) -> str:
    about = values["about"]
    return pages.facts(
        {
            "architectures scored": f"{values['evaluations']:,}",
            "seconds": f"{values['seconds']:.0f}",
            "in the scorer": f"{100 * values['scorer_seconds'] / max(values['seconds'], 1e-9):.0f}%",
            "scorer": about["scorer"],
            "objective": ", ".join(about["objective"]),
            "stopped": about["stopped"],
            "space": about["space"],
        }
    )


def _best_table(values: Mapping[str, Any]) -> str:
    head = ["architecture", "score", "parameters", "FLOPs", "number"]
    rows = []
    for own in values["front"] or values["best"]:
        hover = html.escape(command_line(values, own["architecture"]), quote=True)
        cells = [
            pages.number(own["score"], digits=4),
            f"{own['parameters']:,}",
            f"{own['flops']:,}",
            str(own["number"]),
        ]
        name = f'<th scope=row title="{hover}">{html.escape(own["architecture"])}</th>'
        rows.append(f"<tr>{name}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return pages.table(head, rows)


def _figure(chart: Chart) -> str:
    return f"<figure>{chart.svg()}</figure>"


def _hover(values: Mapping[str, Any], row: Mapping[str, str]) -> str:
    return f"{row['architecture']}\nscore {float(row['score']):.4f}\n{command_line(values, row['architecture'])}"


def _curve(values: Mapping[str, Any], rows: Rows, against: str) -> Chart:
    points = values["curve"]
    end = values["evaluations"] if against == "count" else values["seconds"]
    place = 0 if against == "count" else 1
    text = "architectures scored" if against == "count" else "seconds, all sessions"
    levels = [point[2] for point in points] + ([values["random"]["best"]] if values["random"] else [])
    x, y = Axis.over(text, [0.0, end]), Axis.over(values["about"]["unit"], levels)
    chart = Chart(f"best score against {text}", x, y)
    line: list[tuple[float, float]] = []
    for point in points:
        line += [(point[place], line[-1][1])] if line else []
        line.append((point[place], point[2]))
    chart.line([*line, (end, line[-1][1])] if line else [], "accent")
    for point in points:
        chart.point(point[place], point[2], tooltip=_hover(values, rows[point[3]]), style="accent")
    if values["random"]:
        chart.rule(values["random"]["best"], f"best of {values['random']['n']} random")
    return chart


def _regret(values: Mapping[str, Any], rows: Rows) -> list[str]:
    """The anytime regret, where the table's optimum is known."""
    if values["optimum"] is None:
        return []
    points = [(count, 100 * (values["optimum"] - best), number) for count, _, best, number in values["curve"]]
    x = Axis.over("architectures scored", [1.0, values["evaluations"]], log=True)
    chart = Chart("regret against architectures scored", x, Axis.over("regret, points", [0.0, *(p[1] for p in points)]))
    line: list[tuple[float, float]] = []
    for count, left, _ in points:
        line += [(count, line[-1][1])] if line else []
        line.append((count, left))
    chart.line([*line, (values["evaluations"], line[-1][1])], "accent")
    for count, left, number in points:
        chart.point(count, left, tooltip=_hover(values, rows[number]), style="accent")
    return [pages.section("Regret in the table", _figure(chart), "Points of accuracy below the best tabulated one.")]


def _exits(values: Mapping[str, Any]) -> list[str]:
    """Accuracy against FLOPs of the early exits of the best, where they were searched for."""
    found: Mapping[str, Sequence[Sequence[float]]] = values["exits"]
    if not found:
        return []
    points = [point for own in found.values() for point in own]
    x, y = (
        Axis.over("FLOPs until the answer", [p[0] for p in points], log=True),
        Axis.over("accuracy", [p[1] for p in points]),
    )
    chart = Chart("accuracy against FLOPs of early exits", x, y)
    for (text, own), style in zip(found.items(), ("accent", "other", ""), strict=False):
        chart.line([(flops, accuracy) for flops, accuracy in own], style)
        for flops, accuracy in own:
            chart.point(flops, accuracy, tooltip=f"{text}\n{accuracy:.1%}\n{command_line(values, text)}", style=style)
    return [pages.section("Early exits of the best", _figure(chart), "One line an architecture, one dot an exit.")]


def _scatter(values: Mapping[str, Any], rows: Rows) -> Chart:
    known = [row for row in rows.values() if math.isfinite(float(row["score"])) and not row["repeats"]]
    known = sorted(known, key=lambda row: -float(row["score"]))[:DOTS]
    x = Axis.over("parameters", [float(row["parameters"]) for row in known])
    scores = [float(row["score"]) for row in known]
    low = (
        float(np.quantile(scores, 0.02)) if len(scores) > 50 else min(scores)
    )  # a few failures do not decide the scale
    y = Axis.over(values["about"]["unit"], [score for score in scores if score >= low])
    chart = Chart("score against parameters", x, y)
    for row in known:
        if float(row["score"]) >= low:
            chart.point(float(row["parameters"]), float(row["score"]), tooltip=_hover(values, row), style="faint")
    front = sorted((own["parameters"], own["score"]) for own in values["front"])
    if len(front) > 1 and values["about"]["objective"][:2] == ["score", "parameters"]:
        chart.line([point for point in front if point[1] >= low], "other")
    return chart


def _drawings(space: SearchSpace[Any], values: Mapping[str, Any]) -> str:
    """The first winners as images inside the page."""
    figures = []
    for own in values["best"][:DRAWN]:
        text = own["architecture"]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "graph.svg"
            space.graph(space.from_string(text)).draw(path)
            data = base64.b64encode(path.read_bytes()).decode()
        hover = html.escape(command_line(values, text), quote=True)
        source = f"data:image/svg+xml;base64,{data}"
        image = f'<img alt="graph of {html.escape(text, quote=True)}" title="{hover}" src="{source}">'
        figures.append(f"<figure class=drawn>{image}<figcaption>{html.escape(text)}</figcaption></figure>")
    return f"<div class=row>{''.join(figures)}</div>"


def _marginals_table(values: Mapping[str, Any]) -> str:
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in values["marginals"]:
        found.setdefault(row["choice"], {})[row["value"]] = row
    head = ["choice", *sorted({row["value"] for row in values["marginals"]})]
    rows = []
    for choice, own in found.items():
        top = max(row["share_of_best"] for row in own.values())
        cells = [_share(own[value], top) if value in own else f"<td>{pages.NOTHING}</td>" for value in head[1:]]
        rows.append(f"<tr><th scope=row>{html.escape(choice)}</th>{''.join(cells)}</tr>")
    return pages.table(head, rows)


def _share(row: Mapping[str, Any], top: float) -> str:
    style = " class=best" if row["share_of_best"] == top else ""
    hover = f"{row['count']} scored, mean score {row['mean']:.4f}"
    return f'<td{style} title="{hover}">{row["share_of_best"]:.0%}<small>of all {row["share"]:.0%}</small></td>'


def _retrained(values: Mapping[str, Any]) -> str:
    rows = [
        ["group", "test accuracy, %"],
        *([name, pages.number(own, 100)] for name, own in values["accuracy"].items()),
    ]
    return pages.section("Retrained", pages.text_table(rows), values["verdict"])
