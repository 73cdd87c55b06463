"""Are generated weights a better start for training than an ordinary initialiser?

    python benchmarks/initialization.py
    python benchmarks/initialization.py --data FASHION_MNIST_FOLDER --seeds 3 --steps 1000

`ghn-eval initialise` on networks made by hand, which the open hypernetwork in the package never saw: trained from its
weights and from an initialiser's (He et al. 2015) on the same batches, each at every learning rate; each side's rate is
the one that is best on the score split after the last step. Trainings are kept in --runs; a killed benchmark goes on.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro
from common import console, finish

from eval.initialise import InitialiseConfig, as_json, as_rows, initialise, verdict
from eval.starts import TrainingConfig
from train.data import DataConfig


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run."""

    checkpoint: str = "default"  # an open hypernetwork
    data: str = DataConfig().source  # the data in the package, or a folder of a data set's files
    networks: tuple[str, ...] = ()  # by name; all that fit the space where none is given
    steps: int = 200  # of training
    rates: tuple[float, ...] = (1e-3, 4e-3)  # of Adam, constant
    seeds: int = 1  # of initialisers and batches
    images: int = 500  # of the score and of the test split
    runs: Path = Path("runs/benchmark-initialization")  # where trainings are kept
    quick: bool = False  # two networks, 4 steps, one rate
    out: Path = Path("benchmarks/results")  # results


def main(options: Options) -> None:
    """Trains, chooses rates, writes the table."""
    if options.quick:
        options = dataclasses.replace(options, networks=("resnet18", "vit"), steps=4, rates=(1e-3,), images=100)
    training = TrainingConfig(options.steps, rates=options.rates, seeds=options.seeds, images=options.images)
    config = InitialiseConfig(
        options.checkpoint, options.networks, data=DataConfig(source=options.data, image_size=14), training=training
    )
    found = initialise(config, options.runs, console)
    header, *rows = as_rows(found, training.stops)
    notes = [
        f"Test accuracy, %. {verdict(found, training.stops)} {options.seeds} seed(s), Adam at {options.rates} for "
        f"either side, {options.images} test images."
    ]
    results = as_json(found, training.stops)
    finish("initialization", results, header, rows, notes, list(range(options.seeds)), options.out)


if __name__ == "__main__":
    main(tyro.cli(Options))
