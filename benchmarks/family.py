"""Within one family of networks, how far are generated weights from trained ones?

    python benchmarks/family.py
    python benchmarks/family.py --data FASHION_MNIST_FOLDER

An open hypernetwork is trained on residual networks of mixed widths, depths and stems, a family of the DeepNets space.
Members that it has never seen are then used with its weights as they are, trained from them, and trained from an
ordinary initialiser (He et al. 2015) on the same batches, each at every learning rate; a start's rate is the one that
is best on the score split after the last step. The hypernetwork and all trainings are kept in --runs.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import tyro
from common import console, finish

from eval.initialise import InitialiseConfig, as_json, as_rows, initialise, verdict
from eval.starts import STARTS, TrainingConfig
from ghn.anymodel.hypernetwork import OPEN_CONFIG
from train.config import OptimizerConfig, SpaceConfig, TrainConfig
from train.data import AugmentConfig, DataConfig
from train.loop import train
from train.memory import keep_memory


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run."""

    data: str = DataConfig().source  # the data in the package, or a folder of a data set's files
    image_size: int = 14  # pixels along an axis
    kinds: tuple[str, ...] = ("basic",)  # blocks of the family
    steps: int = 6000  # of the hypernetwork
    learning_rate: float = 3e-3  # its peak
    count: int = 12  # unseen members
    trained: int = 1000  # steps of their own training
    rates: tuple[float, ...] = (1e-3, 4e-3)  # of Adam, constant
    seeds: int = 1  # of their initialisers and batches
    images: int = 500  # of the score and of the test split
    seed: int = 0  # of the hypernetwork
    runs: Path = Path("runs/benchmark-family")  # where the hypernetwork and all trainings are kept
    quick: bool = False  # 20 steps, 2 networks, 4 steps of their own
    out: Path = Path("benchmarks/results")  # results


def main(options: Options) -> None:
    """Trains the hypernetwork and the members, writes the table."""
    keep_memory()
    if options.quick:
        options = dataclasses.replace(options, steps=20, count=2, trained=4, rates=(1e-3,), images=100)
    data = DataConfig(source=options.data, image_size=options.image_size)
    config = TrainConfig(
        space=SpaceConfig("deepnets", block_kinds=options.kinds, norm_kinds=("batch",)),
        data=data,
        ghn=OPEN_CONFIG,
        augment=AugmentConfig(crop=1, flip=True),
        optimizer=OptimizerConfig(learning_rate=options.learning_rate),
        steps=options.steps,
        sampling="uniform",
        seed=options.seed,
        checkpoint_every=500,
    )
    checkpoint = options.runs / "hypernetwork"
    hypernetwork = train(config, checkpoint)
    training = TrainingConfig(options.trained, rates=options.rates, seeds=options.seeds, images=options.images)
    asked = InitialiseConfig(str(checkpoint), count=options.count, data=data, training=training, drawn=True)
    found = initialise(asked, options.runs / "members", console)

    header, *rows = as_rows(found, training.stops)
    generated, best = (
        100 * np.array([value(own) for own in found.values()])
        for value in (
            lambda own: own["generated"].mean_K[0],
            lambda own: max(own[start].mean_K[-1] for start in STARTS),
        )
    )
    gap = best - generated
    notes = [
        f"Test accuracy, %: generated weights reach {generated.mean():.1f} on average ({generated.min():.1f} to "
        f"{generated.max():.1f}), trained ones after {options.trained:,} steps {best.mean():.1f}, of either start the "
        f"better: a gap of {gap.mean():.1f} points ({gap.min():.1f} to {gap.max():.1f}).",
        f"{verdict(found, training.stops)} {options.seeds} seed(s), Adam at {options.rates} for either side, "
        f"{options.images} test images.",
        f"Hypernetwork: {options.steps:,} steps of 64 images, one network a step.",
    ]
    results = {
        **as_json(found, training.stops),
        "gap": {"generated": generated.mean(), "trained": best.mean(), "parameters": hypernetwork.parameter_count},
    }
    finish("family", results, header, rows, notes, options.seed, options.out)


if __name__ == "__main__":
    main(tyro.cli(Options))
