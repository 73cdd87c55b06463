"""`ghn-eval initialise`: are generated weights a better start for training than an ordinary initialiser's?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

import ghn
from architectures.checks import at_least
from architectures.spaces import DeepNets, SearchSpace, TapeSpace
from eval.plots import start_curves
from eval.report import markdown_table, rich_table, write_json
from eval.starts import STARTS, Curves, TrainingConfig, curves, read_rows, train_all, win_rates
from train.data import DataConfig, Splits, load
from train.memory import keep_memory
from train.metrics import write_whole
from train.run_folder import claim
from train.target_table import sample_classes

OPEN_SIZE = 14  # pixels along an axis where an open hypernetwork leaves the choice


@dataclasses.dataclass(frozen=True)
class InitialiseConfig:
    """What is trained, from which hypernetwork's weights."""

    checkpoint: str = "default"  # run folder, .safetensors file or packaged name
    # Architectures as text, or names of the space's `models`; none: all of those, or `count` unseen ones.
    networks: tuple[str, ...] = ()
    count: int = 6  # unseen architectures, where the space has no models or they are to be `drawn`
    drawn: bool = False  # unseen architectures instead of models
    data: DataConfig = DataConfig(image_size=OPEN_SIZE)
    training: TrainingConfig = TrainingConfig()
    seed: int = 0  # of the unseen architectures

    def __post_init__(self) -> None:
        at_least(self, count=1, seed=0)


def initialise(config: InitialiseConfig, out: Path, console: Console) -> dict[str, dict[str, Curves]]:
    """Trains, writes trainings.jsonl, initialise.json, .md, .png and .svg; a killed command goes on.

    Raises:
        ValueError: a network that the space does not have, a checkpoint of other images.
        RunError: the folder belongs to another run.
    """
    keep_memory()
    splits = load(config.data)
    hypernetwork = _hypernetwork(config, splits)
    networks = networks_of(config, hypernetwork)
    claim(out, dataclasses.asdict(config), dataclasses.asdict(InitialiseConfig()), splits.provenance)
    space, training = hypernetwork.space, config.training
    table = out / "trainings.jsonl"
    jobs = train_all(space, networks, lambda net: hypernetwork(space.graph(net)).arrays, splits, training, table)
    total = len(networks) * len(STARTS) * len(training.rates) * training.seeds
    for _ in track(jobs, "training", total=total, console=console):
        pass
    found = curves(read_rows(table), list(networks), training)
    _write(found, training, out, console)
    return found


def _hypernetwork(config: InitialiseConfig, splits: Splits) -> ghn.Hypernetwork:
    """The checkpoint's; an open one on the DeepNets space of the data."""
    loaded: Any = ghn.load(config.checkpoint)
    shape = splits.train.images.shape[1:]
    if isinstance(loaded, ghn.OpenHypernetwork):
        return loaded.on(DeepNets(input_shape=shape, classes=splits.train.classes))
    assert isinstance(loaded, ghn.Hypernetwork)
    if loaded.space.input_shape != shape:
        raise ValueError(
            f"InitialiseConfig.data: images of {shape}, checkpoint {config.checkpoint!r} was trained for "
            f"{loaded.space.input_shape}; set data.image-size or data.source"
        )
    return loaded


def networks_of(config: InitialiseConfig, hypernetwork: ghn.Hypernetwork) -> dict[str, Any]:
    """What to train, by name.

    Raises:
        ValueError: unseen architectures of a hypernetwork that has seen all, or more than there are.
    """
    space: SearchSpace[Any] = hypernetwork.space
    made = space.models() if isinstance(space, TapeSpace) else {}
    if config.networks:
        return {text: made[text] if text in made else space.from_string(text) for text in config.networks}
    if made and not config.drawn:
        return made
    if hypernetwork.held_out[0] <= 0:
        raise ValueError(
            f"InitialiseConfig.drawn: checkpoint {config.checkpoint!r} held nothing out of its training, so nothing is "
            "known to be unseen; train it with --held-out, or name architectures in networks"
        )
    try:
        drawn = sample_classes(space, config.count, config.seed, hypernetwork.unseen)
    except ValueError as error:
        raise ValueError(f"InitialiseConfig.{error}, or name architectures in networks") from error
    return {space.to_string(network): network for network in drawn}


def as_rows(found: Mapping[str, Mapping[str, Curves]], stops: tuple[int, ...]) -> list[list[str]]:
    """Header and one row a network: accuracies in percent, with standard errors where there are several seeds."""
    header = ["network", *(f"after {stop}: generated / initialiser" for stop in stops), "rates"]
    rows = [
        [
            name,
            *(" / ".join(_cell(own[start], stop) for start in STARTS) for stop in range(len(stops))),
            " / ".join(f"{own[start].rate:g}" for start in STARTS),
        ]
        for name, own in found.items()
    ]
    return [header, *rows]


def _cell(curve: Curves, stop: int) -> str:
    error = curve.error_K[stop]
    return f"{100 * curve.mean_K[stop]:.1f}" + ("" if np.isnan(error) else f" ± {100 * error:.1f}")


def as_json(found: Mapping[str, Mapping[str, Curves]], stops: tuple[int, ...]) -> dict[str, Any]:
    """Accuracies as shares of 1 and rates by network and start; win rates by stop."""
    models = {
        name: {start: dict(zip(map(str, stops), curve.mean_K.tolist(), strict=True)) for start, curve in own.items()}
        for name, own in found.items()
    }
    rates = {name: {start: curve.rate for start, curve in own.items()} for name, own in found.items()}
    won = {f"win_rate_{stop}": float(rate) for stop, rate in zip(stops, win_rates(found), strict=True)}
    return {"models": models, "rates": rates, **won}


def verdict(found: Mapping[str, Mapping[str, Curves]], stops: tuple[int, ...]) -> str:
    """One sentence."""
    won = ", ".join(f"{rate:.0%} after {stop}" for stop, rate in zip(stops, win_rates(found), strict=True))
    return f"Generated weights are ahead on {won} steps, of {len(found)} networks."


def _write(found: Mapping[str, Mapping[str, Curves]], training: TrainingConfig, out: Path, console: Console) -> None:
    rows = as_rows(found, training.stops)
    write_json(out / "initialise.json", as_json(found, training.stops))
    write_whole(out / "initialise.md", f"{markdown_table(rows)}\n\n{verdict(found, training.stops)}\n")
    start_curves(found, training.stops, out / "initialise")
    console.print(rich_table(rows, "test accuracy after so many steps, %"))
    console.print(verdict(found, training.stops), highlight=False)
    console.print(f"written to {out}", highlight=False)
