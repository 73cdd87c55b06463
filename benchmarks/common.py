"""What the benchmarks share: timing, fresh processes, and how results are written and printed."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import multiprocessing
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from architectures.spaces import SearchSpace
from eval.proxies.table import ProxyTable
from eval.report import finite_json, markdown_table
from train.data import Splits

Result = TypeVar("Result")
Rows = Sequence[Sequence[str]]

console = Console(stderr=True)  # standard output is kept for the JSON
_START = time.perf_counter()


def progress() -> Progress:
    """A progress display with a count and the time so far."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)


# --------------------------------------------------------------------------------------------------------- measuring


def interleaved(arms: Mapping[str, Callable[[], Any]], repeats: int, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of every repeat of every arm, taken in turns in this process.

    The order is reversed from one round to the next, so that a drift of the machine's speed falls on all arms alike.

    Args:
        arms: name -> function; what it returns is waited for.
        repeats: timed rounds.
        warmup: rounds before them, not timed (compilation).
    """
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(-warmup, repeats):
        for name in list(arms)[:: 1 if turn % 2 == 0 else -1]:
            start = time.perf_counter()
            jax.block_until_ready(arms[name]())
            if turn >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def medians(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of every arm."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def in_fresh_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """`function(*arguments)` in a new Python process: nothing compiled, no memory used before.

    Raises:
        RuntimeError: the process ended without a result; its own message is on standard error.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_deliver, args=(sender, function, arguments), daemon=True)
    process.start()
    sender.close()
    try:
        result: Result = receiver.recv()
    except EOFError as error:
        process.join()
        raise RuntimeError(f"{function.__name__}{arguments}: ended with exit code {process.exitcode}") from error
    process.join()
    return result


def _deliver(sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    sender.send(function(*arguments))


def peak_mb() -> float:
    """Largest resident memory that this process has had, in 10^6 bytes.

    Linux hands `ru_maxrss` of the parent on to a child that it starts, so /proc is asked first.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def proxy_columns(
    path: Path,
    space: SearchSpace[Any],
    splits: Splits,
    architectures: Sequence[Any],
    images: int = 64,
    initialisations: int | None = 1,
    seed: int = 0,
) -> dict[str, NDArray[np.float64]]:
    """Columns [A] of all proxies on the first training images, from the table at `path`; missing rows are added."""
    provenance = {"data": dict(splits.provenance), "images": images}
    table = ProxyTable(path, space, None, initialisations, seed, provenance)
    with progress() as bar:
        task = bar.add_task("proxies", total=len(architectures))
        for count in table.run(architectures, splits.train.images[:images], splits.train.labels[:images]):
            bar.advance(task, count)
    return table.columns(architectures)


# --------------------------------------------------------------------------------------------------------- reporting


def finish(
    name: str, results: dict[str, Any], header: Sequence[str], rows: Rows, notes: Sequence[str], seed: Any, out: Path
) -> None:
    """Shows the table, writes NAME.json and NAME.md into `out`, prints the JSON as the last line of standard output.

    Args:
        name: of the benchmark.
        results: the JSON values; what `context` tells is added under "context".
        header: the table's columns.
        rows: its cells.
        notes: sentences below it.
        seed: of the benchmark, or several.
        out: folder, made if missing.
    """
    results = finite_json({**results, "context": context(seed)})
    table = Table(*header, title=name)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for note in notes:
        console.print(note, highlight=False)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(results, indent=2) + "\n")
    (out / f"{name}.md").write_text(_markdown(name, results["context"], header, rows, notes))
    print(json.dumps(results), flush=True)


def context(seed: Any) -> dict[str, Any]:
    """What a result depends on besides the code: no names of hosts, no paths."""
    return {
        "command": _command(),
        "seed": seed,
        "commit": _commit(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu": _cpu_model(),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "seconds": round(time.perf_counter() - _START, 1),
    }


@functools.cache
def code_digest(*packages: str) -> str:
    """A hash of all Python files of these packages: results kept from an earlier run hold only for the same code."""
    digest = hashlib.sha256()
    for package in packages:
        specification = importlib.util.find_spec(package)
        assert specification is not None and specification.submodule_search_locations is not None
        for folder in specification.submodule_search_locations:
            for file in sorted(Path(folder).rglob("*.py")):
                digest.update(f"{package}/{file.relative_to(folder).as_posix()}".encode() + file.read_bytes())
    return digest.hexdigest()


def _markdown(name: str, context: Mapping[str, Any], header: Sequence[str], rows: Rows, notes: Sequence[str]) -> str:
    lines = [f"# {name}", "", f"`{context['command']}`", "", markdown_table([header, *rows])]
    lines += ["", *(f"- {note}" for note in notes), ""]
    lines += [
        f"Seed {context['seed']}; commit {context['commit']}; {context['cpus']} CPUs ({context['cpu']}), device "
        f"{context['device']}; jax {context['jax']}, Python {context['python']}; {context['seconds']:.0f} s."
    ]
    return "\n".join(lines) + "\n"


def _command() -> str:
    """The command line, without the folder that the results go to."""
    kept, arguments = [], iter(sys.argv[1:])
    for argument in arguments:
        if argument == "--out":
            next(arguments, None)
        elif not argument.startswith("--out="):
            kept.append(argument)
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *kept])


@functools.cache
def _commit() -> str:
    """The commit of the code, with a "+" where the working tree differs from it."""
    folder = Path(__file__).resolve().parent
    try:
        commit = _git(folder, "rev-parse", "--short=12", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--", ":/", ":(exclude,top)benchmarks/results")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def _cpu_model() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
