"""What a training run tells: a JSONL file always, TensorBoard on request, a live display on a terminal."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SHOWN = ("startup_loss", "loss", "loss_ahead", "accuracy")  # in the live line


class MetricsWriter:
    """Appends one line of metrics at a time to metrics.jsonl."""

    def __init__(self, run: Path, start: int, tensorboard: bool = False) -> None:
        """Drops lines after step `start`: they belong to steps that a resumed run takes again."""
        path = run / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if _step(line) <= start]
        write_whole(path, "".join(line + "\n" for line in kept))
        self._file = path.open("a")
        self._tensorboard: Any = None
        if tensorboard:
            try:
                from tensorboardX import SummaryWriter
            except ImportError as error:
                raise ValueError(
                    "--tensorboard needs the extra: pip install 'graph-hypernetwork[tensorboard]'"
                ) from error
            self._tensorboard = SummaryWriter(str(run / "tensorboard"), purge_step=start)

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line: {"step", "time", values...}; time in seconds since 1970."""
        self._file.write(json.dumps({"step": step, "time": round(time.time(), 3), **values}) + "\n")
        self._file.flush()
        if self._tensorboard is not None:
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, step)


def write_whole(path: Path, text: str) -> None:
    """Writes a text file that appears complete or not at all, also when several processes write it at once."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    temporary.write_text(text)
    temporary.replace(path)


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError):  # a line that a kill cut short
        return float("inf")


class TrainingProgress:
    """A live line: loss, accuracy, steps a second, time left."""

    def __init__(self, start: int, steps: int, show: bool = True) -> None:
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[shown]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not show,
        )
        self._task = self._progress.add_task("training", total=steps, completed=start, shown="compiling")
        self._since, self._start = time.perf_counter(), start

    def __enter__(self) -> TrainingProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, step: int, values: dict[str, float]) -> None:
        """Shows the metrics at a step."""
        rate = (step - self._start) / (time.perf_counter() - self._since)
        told = [f"{name.replace('_', ' ')} {values[name]:.3f}" for name in SHOWN if name in values]
        self._progress.update(self._task, completed=step, shown="  ".join([*told, f"{rate:.1f} steps/s"]))
