"""ghn-eval: ranks architectures by generated weights, and shows the whole of it in one demonstration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from eval.demo import DemoConfig
from eval.demo import demo as run_demo
from eval.proxies.command import ProxiesConfig
from eval.proxies.command import proxies as run_proxies
from eval.rank import RankConfig
from eval.rank import rank as run_rank
from train.cli import run_command

console = Console()


def rank(config: Annotated[RankConfig, tyro.conf.arg(name="")], out: Path = Path("runs/rank")) -> None:
    """Order candidates by the loss that they reach with generated weights; judge the order by ground truth.

    Args:
        config: what to rank, and against what.
        out: folder for tables and plots.
    """
    run_rank(config, out, console)


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


def main() -> None:
    """The console script."""
    run_command({"rank": rank, "proxies": proxies, "demo": demo}, __doc__ or "")


if __name__ == "__main__":
    main()
