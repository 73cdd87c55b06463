"""What a search is: everything but its budget, so that a longer budget goes on with the same search."""

from __future__ import annotations

import dataclasses
from typing import Literal

from architectures.checks import at_least
from architectures.spaces.registry import SPACES
from eval.scoring import ScoreConfig
from eval.search.algorithms import (
    EvolutionConfig,
    GuidedConfig,
    HalvingConfig,
    LocalConfig,
    NSGAConfig,
    OptunaConfig,
    SMASHConfig,
)
from eval.search.history import OBJECTIVES
from eval.search.problem import Constraints
from eval.tabular import DEFAULT_COLUMN
from eval.two_stage import Start
from train.config import SpaceConfig
from train.data import DataConfig
from train.finetune import FinetuneConfig

ScorerName = Literal["hypernetwork", "combined", "calibrated", "anytime", "proxy", "training", "tabular"]
AlgorithmName = Literal["random", "smash", "evolution", "local", "halving", "hyperband", "nsga", "guided", "optuna"]
FIDELITIES = ("halving", "hyperband")  # algorithms that ask for steps of training


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """What to search, by which score, how."""

    space: str | None = None  # name of a space, such as smash; None: that of the checkpoint, or nasbench201
    sizes: SpaceConfig = SpaceConfig()  # of the space, where no checkpoint decides them; `name` is that of --space
    scorer: ScorerName = "hypernetwork"  # anytime: early exits; tabular: looks accuracies up; training: some steps
    algorithm: AlgorithmName = "evolution"  # guided: labels by the scorer, chosen by what the checkpoint says
    objective: tuple[str, ...] = ("score",)  # with nsga, two or more of score, parameters, flops, latency_ms
    constraints: Constraints = Constraints()  # what an architecture may cost
    checkpoint: str = "demo"  # run folder, .safetensors file, or name of a packaged checkpoint
    data: DataConfig = DataConfig()  # has to be the data that the checkpoint was trained on
    score: ScoreConfig = ScoreConfig(images=500)  # how generated weights are scored
    proxy: str = "nwot"  # of the scorer proxy
    steps: int = 120  # of the scorer training
    start: Start = "generated"  # of the scorer training: where it begins
    finetune: FinetuneConfig = FinetuneConfig(learning_rate=0.02)  # of steps, in the scorers training and hypernetwork
    ground_truth: str | None = None  # tabular, calibrated: CSV, JSON or SQLite file, or "embedded"
    column: str = DEFAULT_COLUMN  # its accuracy column
    labels: int = 100  # of the scorer calibrated: trained architectures that it is fitted on
    pool: int = 500  # of the algorithm guided: architectures to choose from; a table's classes where there is one
    batch: int | None = None  # proposals that are made with the same knowledge; None: 16, for guided 1
    seed: int = 0  # of every proposal
    controls: int = 100  # random architectures that the result is held against; 0: none
    smash: SMASHConfig = SMASHConfig()
    evolution: EvolutionConfig = EvolutionConfig()
    local: LocalConfig = LocalConfig()
    halving: HalvingConfig = HalvingConfig()  # of halving and hyperband
    nsga: NSGAConfig = NSGAConfig()
    guided: GuidedConfig = GuidedConfig()
    optuna: OptunaConfig = OptunaConfig()

    def __post_init__(self) -> None:
        if self.space not in (None, *SPACES):
            raise ValueError(f"space {self.space!r}: unknown; there are {', '.join(SPACES)}")
        if self.proposals < 1:
            raise ValueError(f"SearchConfig.batch={self.batch}: must be at least 1")
        at_least(self, seed=0, controls=0, labels=20, pool=10, steps=1)
        for name in self.objective:
            if name not in OBJECTIVES:
                raise ValueError(f"objective {name!r}: unknown; there are {', '.join(OBJECTIVES)}")
        several = len(self.objective) > 1
        if several != (self.algorithm == "nsga") or (not several and self.objective != ("score",)):
            raise ValueError(
                f"objective {' '.join(self.objective)} with algorithm {self.algorithm}: several objectives are what "
                "nsga takes; every other algorithm takes score alone (and constraints for costs)"
            )
        if self.algorithm in FIDELITIES and self.scorer not in ("hypernetwork", "training"):
            raise ValueError(
                f"algorithm {self.algorithm}: asks for steps of training, the scorer {self.scorer} has none"
            )
        if self.algorithm == "guided" and self.scorer not in ("training", "tabular"):
            raise ValueError(f"algorithm guided: spends labels; give the scorer training or tabular, not {self.scorer}")
        if self.scorer in ("tabular", "calibrated") and self.ground_truth is None:
            raise ValueError(
                f"scorer {self.scorer}: give a table with --ground-truth, 'embedded' for the package's own"
            )

    @property
    def proposals(self) -> int:
        """How many are made with the same knowledge."""
        if self.batch is not None:
            return self.batch
        return 1 if self.algorithm == "guided" else 16

    @property
    def reads_checkpoint(self) -> bool:
        """Whether a hypernetwork takes part."""
        generated = self.scorer == "training" and self.start == "generated"
        return (
            self.scorer in ("hypernetwork", "combined", "calibrated", "anytime")
            or generated
            or self.algorithm == "guided"
        )
