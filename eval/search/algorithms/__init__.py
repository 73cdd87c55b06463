"""Search algorithms behind one ask/tell interface."""

from eval.search.algorithms.base import Algorithm
from eval.search.algorithms.evolution import EvolutionConfig, RegularisedEvolution
from eval.search.algorithms.guided import Guide, GuidedConfig, GuidedSearch
from eval.search.algorithms.halving import HalvingConfig, Hyperband, SuccessiveHalving
from eval.search.algorithms.local import LocalConfig, LocalSearch
from eval.search.algorithms.nsga import NSGA, NSGAConfig
from eval.search.algorithms.optuna import OptunaConfig, OptunaSearch
from eval.search.algorithms.random import RandomSearch
from eval.search.algorithms.smash import SMASHConfig, SMASHSearch

__all__ = [
    "NSGA",
    "Algorithm",
    "EvolutionConfig",
    "Guide",
    "GuidedConfig",
    "GuidedSearch",
    "HalvingConfig",
    "Hyperband",
    "LocalConfig",
    "LocalSearch",
    "NSGAConfig",
    "OptunaConfig",
    "OptunaSearch",
    "RandomSearch",
    "RegularisedEvolution",
    "SMASHConfig",
    "SMASHSearch",
    "SuccessiveHalving",
]
