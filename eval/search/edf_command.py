"""`ghn-eval spaces`: parts of a space compared by what their architectures score with generated weights."""

from __future__ import annotations

import dataclasses
import html
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

import ghn
from architectures.checks import at_least
from eval import pages
from eval.rank import load_matching
from eval.report import rich_table, write_json
from eval.scoring import ScoreConfig
from eval.search.driver import SearchScorer
from eval.search.edf import FEWEST, Comparison, Distribution, chart, compare, part, sample
from eval.search.history import Evaluation
from eval.search.marginals import marginals
from eval.search.problem import Constraints, Problem
from eval.search.scorers import HypernetworkScorer
from train.data import DataConfig

WHOLE = "the whole space"


@dataclasses.dataclass(frozen=True)
class SpacesConfig:
    """Which parts to compare, and how they are scored."""

    parts: tuple[str, ...] = ()  # "choice = value" or "choice != value"; with one, the other is what it leaves out
    checkpoint: str = "demo"  # run folder, .safetensors file, or name of a packaged checkpoint
    data: DataConfig = DataConfig()  # has to be the data that the checkpoint was trained on
    score: ScoreConfig = ScoreConfig(images=500)  # how to score
    constraints: Constraints = Constraints()  # that hold in every part
    count: int = 100  # random architectures of each part
    seed: int = 0  # of the draws
    resamples: int = 2000  # of the intervals

    def __post_init__(self) -> None:
        at_least(self, count=FEWEST, seed=0, resamples=1)


def spaces(config: SpacesConfig, out: Path, console: Console) -> dict[str, Distribution]:
    """Scores a sample of every part, compares each with the first, writes spaces.json and spaces.html."""
    hypernetwork = ghn.load(config.checkpoint)
    splits = load_matching(hypernetwork, config.data)
    problem = Problem(hypernetwork.space, config.constraints)
    scorer = HypernetworkScorer(hypernetwork, splits, config.score)
    texts = _parts(config)
    keeps = {text: None if text == WHOLE else part(problem.space, text) for text in texts}
    drawn = {text: sample(problem, config.count, config.seed, keep) for text, keep in keeps.items()}
    out.mkdir(parents=True, exist_ok=True)
    scores = {text: _scores(scorer, own, text, console) for text, own in drawn.items()}
    found = {text: Distribution.of(own) for text, own in scores.items()}
    others = {text: compare(found[texts[0]], found[text], config.resamples) for text in texts[1:]}
    everyone = [
        Evaluation(0, a, problem.key(a), 0, value, problem.costs(a))
        for text in texts
        for a, value in zip(drawn[text], scores[text], strict=True)
    ]
    rows = _rows(found, others)
    write_json(
        out / "spaces.json",
        {
            "space": problem.describe(),
            "scores": scores,
            "comparisons": {text: dataclasses.asdict(own) for text, own in others.items()},
            "marginals": marginals(problem.space, everyone),
        },
    )
    _write_page(out / "spaces.html", problem, found, rows, scorer.unit)
    console.print(rich_table(rows, problem.describe()))
    console.print(f"written to {out}; read {out / 'spaces.html'}")
    return found


def _parts(config: SpacesConfig) -> list[str]:
    if not config.parts:
        raise ValueError("parts: give at least one, such as '0 to 3 = skip_connect'")
    if len(config.parts) > 1:
        return list(config.parts)
    (own,) = config.parts
    other = own.replace("!=", "=", 1) if "!=" in own else own.replace("=", "!=", 1)
    return [own, other]


def _scores(scorer: SearchScorer, architectures: list[Any], name: str, console: Console) -> list[float]:
    starts = range(0, len(architectures), scorer.chunk)
    found: list[float] = []
    for start in track(starts, f"scoring {name}", console=console):
        found += scorer(architectures[start : start + scorer.chunk], 0)
    return found


def _rows(found: dict[str, Distribution], others: dict[str, Comparison]) -> list[list[str]]:
    rows = [["part", "median", "expected best of 20", "chance that the first scores higher", "distance (p)"]]
    for text, own in found.items():
        against = others.get(text)
        told = ["", ""] if against is None else [str(against.ahead), f"{against.distance:.2f} ({against.p:.3f})"]
        rows.append([text, f"{own.median:.4f}", f"{own.best_of(20):.4f}", *told])
    return rows


def _write_page(path: Path, problem: Problem, found: dict[str, Distribution], rows: list[list[str]], unit: str) -> None:
    note = "The share of random architectures that score at least so much: the further right, the better the space."
    lead = f"<p class=lead>{html.escape(problem.describe())}</p>"
    parts = [
        f"<header><h1>Which part of the space is better?</h1>{lead}</header>",
        pages.section("Parts", pages.text_table(rows)),
        pages.section("Distributions", f"<figure>{chart(found, unit).svg()}</figure>", note),
    ]
    path.write_text(pages.page("Spaces compared", parts), encoding="utf-8")
