"""ghn-eval: ranks architectures by generated weights, tells what ground truth is worth, predicts weights of models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from eval.continual import report as report_continual
from eval.demo import DemoConfig
from eval.demo import demo as run_demo
from eval.html_report import write_html
from eval.initialise import InitialiseConfig
from eval.initialise import initialise as run_initialise
from eval.plots import scatter
from eval.predict import PredictConfig
from eval.predict import predict as run_predict
from eval.proxies.command import ProxiesConfig
from eval.proxies.command import proxies as run_proxies
from eval.rank import RankConfig
from eval.rank import rank as run_rank
from eval.search.command import run_search
from eval.search.config import SearchConfig
from eval.search.driver import Budget
from eval.search.edf_command import SpacesConfig
from eval.search.edf_command import spaces as run_spaces
from eval.search.ensemble_command import EnsemblesConfig
from eval.search.ensemble_command import ensemble as run_ensemble
from eval.search.html import write_page
from eval.search.retrain_command import RetrainConfig
from eval.search.retrain_command import retrain as run_retrain
from eval.truth_report import TruthConfig
from eval.truth_report import ground_truth as run_ground_truth
from train.cli import run_command

console = Console()


def rank(config: Annotated[RankConfig, tyro.conf.arg(name="")], out: Path = Path("runs/rank")) -> None:
    """Order candidates by the loss that they reach with generated weights; judge the order by ground truth.

    Args:
        config: what to rank, and against what.
        out: folder for tables and plots.
    """
    run_rank(config, out, console)


def search(
    config: Annotated[SearchConfig, tyro.conf.arg(name="")],
    out: Path = Path("runs/search"),
    budget_evaluations: int | None = None,
    budget_seconds: float | None = None,
    resume: bool = True,
) -> None:
    """Search for good architectures; run again, in as many processes as you like, to continue.

    Args:
        config: what to search, by which score, how.
        out: folder of the search.
        budget_evaluations: architectures to score, earlier starts included.
        budget_seconds: of search, earlier starts and other processes included.
        resume: go on with what the folder holds.
    """
    run_search(config, out, Budget(budget_evaluations, budget_seconds), console, resume)


def initialise(
    config: Annotated[InitialiseConfig, tyro.conf.arg(name="")], out: Path = Path("runs/initialise")
) -> None:
    """Train networks from generated weights and from an ordinary initialiser's; run again to continue.

    Args:
        config: which networks, how.
        out: folder for the table and the plot.
    """
    run_initialise(config, out, console)


def retrain(config: Annotated[RetrainConfig, tyro.conf.arg(name="")], out: Path = Path("runs/search")) -> None:
    """Train the best of a search from scratch, against random architectures of the same size; run again to continue.

    Args:
        config: what to train.
        out: folder of the search.
    """
    run_retrain(config, out, console)


def ensemble(config: Annotated[EnsemblesConfig, tyro.conf.arg(name="")], out: Path = Path("runs/search")) -> None:
    """Choose architectures of a search whose predictions with generated weights are best together.

    Args:
        config: how many of how many.
        out: folder of the search.
    """
    run_ensemble(config, out, console)


def spaces(config: Annotated[SpacesConfig, tyro.conf.arg(name="")], out: Path = Path("runs/spaces")) -> None:
    """Compare parts of a space by the distribution of scores with generated weights.

    Args:
        config: which parts.
        out: folder for the report.
    """
    run_spaces(config, out, console)


def proxies(config: Annotated[ProxiesConfig, tyro.conf.arg(name="")], out: Path = Path("runs/proxies.csv")) -> None:
    """Score candidates by zero-cost proxies; run again to continue.

    Args:
        config: which proxies of which candidates.
        out: CSV file, one row a candidate; how it was made is written beside it as JSON.
    """
    run_proxies(config, out, console)


def demo(config: Annotated[DemoConfig, tyro.conf.arg(name="")], out: Path = Path("runs/demo")) -> None:
    """Train, rank, check and report, on data inside the package.

    Args:
        config: sizes of everything.
        out: folder for the run and its report.
    """
    run_demo(config, out, console)


def report(folder: Annotated[Path, tyro.conf.Positional]) -> None:
    """Write the HTML page of a finished ranking (with its scatter plot) or search anew, from the files that it saved.

    Args:
        folder: that `ghn-eval rank` or `ghn-eval search` wrote into.
    """
    if (folder / "search.json").exists():
        console.print(f"written to {write_page(folder)}")
        return
    console.print(f"written to {write_html(folder)}")
    scatter(folder)


def ground_truth(config: Annotated[TruthConfig, tyro.conf.arg(name="")], out: Path | None = None) -> None:
    """Tell what a table of trained accuracies is worth: reliability, noise ceiling, what was left out.

    Args:
        config: which table.
        out: also write it as CSV, one row a run, with its card beside it as JSON.
    """
    run_ground_truth(config, out, console)


def predict(
    model: Annotated[str, tyro.conf.Positional],
    config: Annotated[PredictConfig, tyro.conf.arg(name="")],
    out: Path = Path("weights.safetensors"),
) -> None:
    """Predict all weights of a Linen or NNX model or of an ONNX file; print where each leaf comes from.

    Args:
        model: module:attribute (a module, or a function that returns one), or a path that ends in .onnx.
        config: its inputs, and what predicts.
        out: a .safetensors file, or a folder for Orbax, new or of an earlier prediction; of an ONNX file, its copy.
    """
    run_predict(model, config, out, console)


def continual(runs: tyro.conf.Positional[tuple[Path, ...]], out: Path = Path("runs/continual-report")) -> None:
    """Compare runs of ghn-train continual: tables with intervals over seeds, heat maps, curves.

    Args:
        runs: their folders.
        out: folder for tables and plots.
    """
    report_continual(runs, out, console)


def main() -> None:
    """The console script."""
    commands: dict[str, Callable[..., None]] = {
        "rank": rank,
        "search": search,
        "initialise": initialise,
        "retrain": retrain,
        "ensemble": ensemble,
        "spaces": spaces,
        "report": report,
        "ground-truth": ground_truth,
        "proxies": proxies,
        "predict": predict,
        "continual": continual,
        "demo": demo,
    }
    run_command(commands, __doc__ or "")


if __name__ == "__main__":
    main()
