"""ghn-train: trains hypernetworks, and single architectures from scratch for ground truth."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro
from rich.console import Console

from architectures.checks import at_least
from train.config import SpaceConfig, TrainConfig
from train.continual import ContinualConfig
from train.continual import run as run_stream
from train.continual.metrics import summarise
from train.data import DataConfig, load
from train.loop import train
from train.memory import keep_memory
from train.parallel import join_processes
from train.target import Protocol
from train.target_table import TargetTable, sample_classes

console = Console(stderr=True)


def ghn(
    config: Annotated[TrainConfig, tyro.conf.arg(name="")],
    out: Path = Path("runs/ghn"),
    tensorboard: bool = False,
    distributed: bool = False,
) -> None:
    """Train a graph hypernetwork; run the same command again to continue after an interruption.

    Args:
        config: the run.
        out: folder of the run.
        tensorboard: also write TensorBoard events (needs the extra).
        distributed: one of several processes of a cluster that JAX knows (Slurm, Open MPI, Kubernetes, cloud TPUs), all
            with the same command; elsewhere set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.
    """
    if distributed:
        join_processes()
    trained = train(config, out, tensorboard)
    if jax.process_index() > 0:
        return
    console.print(f"{trained.space.describe()}")
    console.print(
        f"{trained.parameter_count:,} parameters, {trained.step:,} steps; load it with ghn.load({str(out)!r})"
    )


@dataclasses.dataclass(frozen=True)
class TargetConfig:
    """Which architectures to train from scratch, and how."""

    space: SpaceConfig = SpaceConfig()
    data: DataConfig = DataConfig()
    protocol: Protocol = Protocol()
    count: int = 200  # random connected isomorphism classes
    seeds: int = 4  # trainings of each
    seed: int = 0  # of the draw of classes
    held_out: float | None = 0.1  # draw only from this held-out share (as in training); None draws from all
    held_out_seed: int = 0  # which share

    def __post_init__(self) -> None:
        at_least(self, count=1, seeds=1, seed=0)
        if self.held_out is not None and self.held_out <= 0:
            raise ValueError(f"TargetConfig.held_out={self.held_out}: a share above 0, or None to draw from all")


def target(config: Annotated[TargetConfig, tyro.conf.arg(name="")], out: Path = Path("runs/target.csv")) -> None:
    """Train architectures from scratch under a fixed, hashed protocol; run again to continue.

    The same command may run in several processes at once: they divide the work.

    Args:
        config: which and how.
        out: CSV file, one row a run; the database that it comes from lies beside it as .sqlite, its protocol as .json.
    """
    from rich.progress import track

    splits = load(config.data)
    space = config.space.build(splits.train.images.shape[1:], splits.train.classes)

    def accept(architecture: Any) -> bool:
        return config.held_out is None or space.held_out(architecture, config.held_out, config.held_out_seed)

    architectures = sample_classes(space, config.count, config.seed, accept)
    command = shlex.join(["ghn-train", *sys.argv[1:]])
    table = TargetTable(out, space, splits, config.data, config.protocol, command)
    rows = table.run(architectures, range(config.seeds))
    left = config.count * config.seeds - len(table.rows())
    for _ in track(rows, total=max(left, 0), description="training from scratch", console=console):
        pass
    console.print(f"{out}: {len(table.rows())} runs under protocol {table.protocol_hash}")


def continual(config: Annotated[ContinualConfig, tyro.conf.arg(name="")], out: Path = Path("runs/continual")) -> None:
    """Learn a stream of tasks, one after the other; run the same command again to continue after an interruption.

    Args:
        config: the stream, the target, what learns them.
        out: folder of the run.
    """
    summary = summarise(run_stream(config, out).matrix)
    console.print(
        f"{config.method}, {config.scenario}: {100 * summary.average:.2f}% over all tasks after the last, "
        f"{100 * summary.during:.2f}% when each was learned, {100 * summary.forgetting:.2f} points forgotten; "
        f"ghn-eval continual {out}"
    )


def run_command(commands: dict[str, Callable[..., None]], description: str) -> None:
    """Runs the subcommand on the command line; bad input ends with one clear line and exit code 2."""
    cache = Path.home() / ".cache" / "graph-hypernetwork" / "jax"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))  # processes started from here share it
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    try:
        tyro.extras.subcommand_cli_from_dict(commands, description=description)
    except (ValueError, OSError) as error:
        console.print(f"[bold red]error:[/] {error}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        console.print("stopped; run the same command again to continue")
        sys.exit(130)


def main() -> None:
    """The console script."""
    keep_memory()
    run_command({"ghn": ghn, "target": target, "continual": continual}, __doc__ or "")


if __name__ == "__main__":
    main()
