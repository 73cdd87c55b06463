"""Configuration of a training run."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from architectures.checks import at_least, one_of
from architectures.layers import Precision
from architectures.spaces import DARTS, SMASH, DeepNets, Grammar, MLPSpace, NASBench201, SearchSpace
from ghn.config import GHNConfig
from train.data import AugmentConfig, DataConfig


@dataclasses.dataclass(frozen=True)
class SpaceConfig:
    """The search space of a run; image shape and classes come from the data."""

    name: Literal["nasbench201", "smash", "mlp", "deepnets", "darts", "grammar"] = "nasbench201"
    channels: int = 8  # nasbench201, darts: of the first stage
    cells: int = 1  # nasbench201, darts: in each stage (darts: beside reduction cells)
    exits: bool = False  # nasbench201: every stage ends in a classifier; training averages the loss over them
    bank_channels: tuple[int, ...] = (2, 4)  # smash: choices in the first block
    banks: tuple[int, ...] = (1, 2, 3, 4)  # smash: choices for the number of banks of a block
    layers: tuple[int, ...] = (1, 2, 3)  # smash: choices for the number of layers of a block
    kernels: tuple[int, ...] = (3, 5)  # smash: choices for a convolution
    widths: tuple[int, ...] = (50, 100)  # mlp: choices for a hidden layer
    depths: tuple[int, ...] = (1, 2, 3)  # mlp: choices for the number of hidden layers
    stage_widths: tuple[int, ...] = (16, 32, 48)  # deepnets: largest width of a stage at each resolution
    stage_channels: tuple[int, ...] = (24, 48, 64)  # deepnets: most channels of any layer there
    blocks: int = 10  # deepnets: most blocks of a network in training
    block_kinds: tuple[str, ...] = ()  # deepnets: of blocks that training draws, all convolutional; none: all there are
    norm_kinds: tuple[Literal["batch", "layer", "group"], ...] = ()  # deepnets: that training draws; none: all
    nodes: int = 4  # darts: of a cell
    grammar_widths: tuple[int, ...] = (8, 16, 24)  # grammar: channels of each stage
    grammar_leaves: int = 16  # grammar: most operations of a stage

    def __post_init__(self) -> None:
        one_of(self, "name")
        if self.exits and self.name != "nasbench201":
            raise ValueError(f"SpaceConfig.exits: only nasbench201 has early exits, {self.name} has none; drop it")

    def build(self, input_shape: tuple[int, int, int], classes: int) -> SearchSpace[Any]:
        """The space for images of this shape."""
        if self.name == "smash":
            return SMASH(
                input_shape=input_shape,
                classes=classes,
                channels=self.bank_channels,
                banks=self.banks,
                layers=self.layers,
                kernels=self.kernels,
            )
        if self.name == "mlp":
            return MLPSpace(input_shape=input_shape, classes=classes, widths=self.widths, depths=self.depths)
        if self.name == "deepnets":
            return DeepNets(
                input_shape=input_shape,
                classes=classes,
                widths=self.stage_widths,
                channels=self.stage_channels,
                blocks=self.blocks,
                kinds=self.block_kinds,
                norm_kinds=self.norm_kinds,
            )
        if self.name == "darts":
            return DARTS(
                input_shape=input_shape, classes=classes, channels=self.channels, cells=self.cells, nodes=self.nodes
            )
        if self.name == "grammar":
            return Grammar(
                input_shape=input_shape, classes=classes, widths=self.grammar_widths, leaves=self.grammar_leaves
            )
        return NASBench201(
            channels=self.channels,
            cells=self.cells,
            input_shape=input_shape,
            classes=classes,
            exits=self.exits,
        )


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Optax chain: clipping, Adam or SGD with momentum, decoupled weight decay, warm-up, cosine to 0."""

    name: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 3e-3  # at its peak, after the warm-up
    warmup: int = 100  # steps of linear warm-up
    clip: float = 5.0  # global gradient norm
    weight_decay: float = 1e-5  # decoupled, times the learning rate
    momentum: float = 0.9  # of sgd
    ema: float = 0.0  # decay of the moving average of parameters that checkpoints hold; 0: the parameters themselves

    def __post_init__(self) -> None:
        one_of(self, "name")
        at_least(self, warmup=0)
        if not self.learning_rate > 0:
            raise ValueError(f"OptimizerConfig.learning_rate={self.learning_rate}: must be positive")
        if not 0 <= self.ema < 1:
            raise ValueError(f"OptimizerConfig.ema={self.ema}: a decay in [0, 1); 0 for no average")
        if not self.clip > 0:
            raise ValueError(f"OptimizerConfig.clip={self.clip}: must be positive; use a large number for no clipping")


@dataclasses.dataclass(frozen=True)
class DevicesConfig:
    """How a step is spread over devices. Results are the same up to rounding, so a run may resume on other devices."""

    architectures: int = 1  # devices among which the architectures of a meta-batch are divided
    batch: int = 1  # times devices among which the images of a batch are divided

    def __post_init__(self) -> None:
        at_least(self, architectures=1, batch=1)


Sampling = Literal["uniform", "large", "small", "balanced", "sandwich", "hard"]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run. Expected of the default: 6,000 steps in 2 to 4 minutes on two CPU cores."""

    space: SpaceConfig = SpaceConfig()
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig(crop=1, flip=True)
    ghn: GHNConfig = GHNConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    start: str | None = None  # a run's folder, a file or a packaged checkpoint: its parameters are those of step 0
    steps: int = 6000  # optimiser steps
    batch: int = 64  # images a step
    meta_batch: int = 1  # architectures a step, all on the same images
    # Architectures of a step. "large", "small": the one of two draws with more (fewer) parameters; "balanced": of eight
    # draws, the nearest to a size drawn log-uniformly between their smallest and largest; "sandwich": the smallest and
    # the largest of eight draws, the others uniform (Yu et al. 2020; needs meta_batch of 3 or more). "hard": of three
    # draws, the one with the highest loss (Wang et al. 2021; a step takes some 1.5 times as long).
    sampling: Sampling = "large"
    startup: int = 0  # steps at the start that only bring the size of generated weights to an ordinary initialiser's
    # Steps of Adam that generated weights are trained for within a step, whose loss is then the mean along that path:
    # for weights to start from (first-order MAML, Finn et al. 2017). The images of a step are divided among them.
    ahead: int = 0
    ahead_rate: float = 2e-3  # learning rate of these steps
    label_smoothing: float = 0.0  # share of the target that is spread over all classes
    held_out: float = 0.1  # share of the space's isomorphism classes that training never sees
    held_out_seed: int = 0  # which share: seed of the hash that decides
    seed: int = 0  # of initialisation, batches, architectures, augmentation
    precision: Precision = "float32"  # of images and generated weights; parameters and statistics stay float32
    # Where the loss is not finite, a run goes back to the last good state and on with other batches: at most so often.
    retreats: int = 3
    devices: DevicesConfig = DevicesConfig()  # not part of a run's identity
    log_every: int = 50  # steps between lines of metrics, and between checks for NaN
    checkpoint_every: int = 1000  # steps between checkpoints; the last step has one too

    def __post_init__(self) -> None:
        one_of(self, "sampling", "precision")
        at_least(self, steps=1, batch=1, meta_batch=1, log_every=1, checkpoint_every=1)
        if not 0 <= self.startup < self.steps:
            raise ValueError(f"TrainConfig.startup={self.startup}: must be at least 0 and less than steps={self.steps}")
        at_least(self, seed=0, ahead=0)
        self._check_ahead()
        if self.retreats < 0:
            raise ValueError(f"TrainConfig.retreats={self.retreats}: must be at least 0, which stops at once")
        for name in ("held_out", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"TrainConfig.{name}={getattr(self, name)}: a share in [0, 1)")
        if self.sampling == "sandwich" and self.meta_batch < 3:
            raise ValueError(f"TrainConfig.meta_batch={self.meta_batch}: sampling='sandwich' needs at least 3")
        for name, axis in (("meta_batch", "architectures"), ("batch", "batch")):
            size, count = getattr(self, name), getattr(self.devices, axis)
            if size % count:
                raise ValueError(
                    f"TrainConfig.{name}={size}: does not divide among devices.{axis}={count}; use a multiple of it"
                )

    def _check_ahead(self) -> None:
        """ValueError for a path that the rest of the configuration has no room for."""
        if not self.ahead_rate > 0:
            raise ValueError(f"TrainConfig.ahead_rate={self.ahead_rate}: must be positive")
        if self.ahead and self.sampling == "hard":
            raise ValueError(
                f"TrainConfig.ahead={self.ahead}: sampling='hard' looks at generated weights alone; use another"
            )
        parts = (self.ahead + 1) * self.devices.batch
        if self.ahead and self.batch % parts:
            raise ValueError(
                f"TrainConfig.batch={self.batch}: does not divide into ahead + 1 = {self.ahead + 1} parts on each of "
                f"devices.batch={self.devices.batch}; use a multiple of {parts}"
            )
