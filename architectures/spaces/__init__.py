"""Search spaces."""

from architectures.spaces.banks import BankNetwork, Block
from architectures.spaces.base import Cost, Encoding, SearchSpace
from architectures.spaces.cell import Cell, CellSpace
from architectures.spaces.darts import DARTS
from architectures.spaces.darts_text import Genotype
from architectures.spaces.deepnets import DeepNets
from architectures.spaces.deepnets_text import DeepNet
from architectures.spaces.grammar import Grammar
from architectures.spaces.grammar_text import Derivation
from architectures.spaces.mlp import MLP, MLPSpace
from architectures.spaces.nasbench201 import NASBench201
from architectures.spaces.registry import from_settings, settings
from architectures.spaces.smash import SMASH
from architectures.spaces.tape_space import TapeSpace

__all__ = [
    "DARTS",
    "MLP",
    "SMASH",
    "BankNetwork",
    "Block",
    "Cell",
    "CellSpace",
    "Cost",
    "DeepNet",
    "DeepNets",
    "Derivation",
    "Encoding",
    "Genotype",
    "Grammar",
    "MLPSpace",
    "NASBench201",
    "SearchSpace",
    "TapeSpace",
    "from_settings",
    "settings",
]
