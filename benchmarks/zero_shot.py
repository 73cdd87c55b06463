"""How good are generated weights, without any training, on networks that the hypernetwork has never seen?

    python benchmarks/zero_shot.py
    python benchmarks/zero_shot.py --data FASHION_MNIST_FOLDER --checkpoint default --no-ablations

An open hypernetwork is trained on the DeepNets space and scored on test images: unseen networks of the distribution
that it was trained on, splits that lie outside of it, and networks made by hand after well-known ones. Beside it,
trained as long: no messages between nodes; delta = 0 (a base for every op and nothing else); no magnitude-invariant
parametrisation; kernels that pass nothing on as it is. Trained hypernetworks are kept in --runs and found there again;
--checkpoint scores one that is there.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from common import console, finish
from numpy.typing import NDArray

import ghn
from architectures.spaces import DeepNets
from architectures.spaces.deepnets_sampling import SPLITS
from eval.scoring import ScoreConfig, Scorer
from ghn import GHNConfig, Hypernetwork
from ghn.anymodel.hypernetwork import OPEN_CONFIG
from train.config import OptimizerConfig, SpaceConfig, TrainConfig
from train.data import AugmentConfig, DataConfig, Splits, load
from train.loop import train
from train.memory import keep_memory

ABLATIONS: dict[str, dict[str, Any]] = {
    "no messages": {"propagation": "none"},
    "delta = 0": {"delta": False},
    "no MIP": {"encoding": "raw", "normalise": False},
    "nothing passed on": {"direct": False},
}
COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
LONG = 5.0  # seconds of a compilation that counts: the programs that run networks, not the small ones around them


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run."""

    data: str = DataConfig().source  # the data in the package, or a folder of a data set's files
    image_size: int = 14  # pixels along an axis
    checkpoint: str | None = None  # score this one (run folder, file, packaged name) in place of training one
    steps: int = 8000  # of every hypernetwork that is trained
    ablations: bool = True  # train and score them too
    networks: int = 50  # of each split
    images: int = 500  # test images
    learning_rate: float = 2e-3  # peak
    seed: int = 0  # of training and of the networks
    runs: Path = Path("runs/benchmark-zero-shot")  # where hypernetworks are trained
    quick: bool = False  # 20 steps, 4 networks, a small space
    out: Path = Path("benchmarks/results")  # results


def training(options: Options, config: GHNConfig) -> TrainConfig:
    """Of one arm."""
    small = {"width": 8, "message_width": 4, "hidden": 8} if options.quick else {}
    return TrainConfig(
        space=SpaceConfig(name="deepnets"),
        data=DataConfig(source=options.data, image_size=options.image_size),
        augment=AugmentConfig(crop=1, flip=True),
        ghn=dataclasses.replace(config, **small),
        optimizer=OptimizerConfig(learning_rate=options.learning_rate),
        steps=options.steps,
        sampling="uniform",
        held_out=0.0,
        seed=options.seed,
        checkpoint_every=500,
    )


def hypernetwork_of(options: Options, name: str, run: TrainConfig, splits: Splits) -> Hypernetwork:
    """An arm's: trained, or what --checkpoint names."""
    if options.checkpoint is None or name != "GHN":
        console.print(f"{name}: training")
        return train(run, options.runs / name.replace(" ", "-").replace("=", "is"))
    loaded = ghn.load(options.checkpoint)
    if isinstance(loaded, ghn.OpenHypernetwork):
        return loaded.on(run.space.build(splits.train.images.shape[1:], splits.train.classes))
    return loaded


def networks_of(space: DeepNets, options: Options) -> dict[str, list[Any]]:
    """Split -> networks. Training draws others: its seeds start elsewhere, and the space is practically endless."""
    rng = np.random.default_rng((options.seed, 1))
    drawn = {split: [space.sample_split(split, rng) for _ in range(options.networks)] for split in SPLITS}
    return {**drawn, "hand-made": list(space.models().values())}


def accuracies(hypernetwork: Hypernetwork, splits: Splits, networks: list[Any], images: int) -> NDArray[np.float64]:
    """[A] shares of test images that are classified rightly with generated weights."""
    scorer = Scorer(hypernetwork, splits.train, splits.test, ScoreConfig(images))
    return scorer(networks).score_accuracy


def main(options: Options) -> None:
    """Trains what is missing, scores, writes the table."""
    keep_memory()
    if options.quick:
        options = dataclasses.replace(options, steps=20, networks=4, images=200)
    compiled: list[float] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(seconds) if event == COMPILE_EVENT and seconds > LONG else None
    )
    arms = {"GHN": OPEN_CONFIG}
    if options.ablations:
        arms |= {name: dataclasses.replace(OPEN_CONFIG, **change) for name, change in ABLATIONS.items()}
    found: dict[str, dict[str, NDArray[np.float64]]] = {}
    for name, config in arms.items():
        run = training(options, config)
        splits = load(run.data)
        hypernetwork = hypernetwork_of(options, name, run, splits)
        space = hypernetwork.space
        assert isinstance(space, DeepNets)
        drawn = networks_of(space, options)
        found[name] = {split: accuracies(hypernetwork, splits, own, options.images) for split, own in drawn.items()}
        if name == "GHN":
            compilations, steps = len(compiled), hypernetwork.step
    own = found["GHN"]
    results = {
        "splits": {s: {"mean": a.mean(), "max": a.max(), "n": len(a)} for s, a in own.items()},
        "hand_made": dict(zip(space.models(), own["hand-made"].tolist(), strict=True)),
        "ablations": {name: arm["id"].mean() for name, arm in found.items() if name != "GHN"},
        "ablation_splits": {
            name: {s: a.mean() for s, a in arm.items()} for name, arm in found.items() if name != "GHN"
        },
        "compilations": compilations,
        "steps": steps,
        "device": jax.devices()[0].device_kind,
    }
    header = ["split", "networks", *(f"{name}: mean (max) %" for name in found)]
    rows = [
        [
            split,
            str(len(a)),
            *(f"{100 * arm[split].mean():.1f} ({100 * arm[split].max():.1f})" for arm in found.values()),
        ]
        for split, a in own.items()
    ]
    notes = [
        f"{steps} steps of 64 images, one network a step; {options.images} test images.",
        "By hand: " + ", ".join(f"{name} {100 * value:.1f}" for name, value in results["hand_made"].items()) + ".",
        f"{compilations} compilations of more than {LONG:.0f} s in training, and in scoring "
        f"{sum(map(len, own.values()))} networks.",
    ]
    table = "zero_shot_ablations" if options.ablations else "zero_shot"
    finish(table, results, header, rows, notes, options.seed, options.out)


if __name__ == "__main__":
    main(tyro.cli(Options))
