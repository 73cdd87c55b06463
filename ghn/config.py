"""Configuration of a graph hypernetwork."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from architectures.checks import at_least, one_of

# What each switch can be with network="open", which has decoders, bases and noise of its own.
OPEN: Mapping[str, tuple[Any, ...]] = {
    "encoding": ("mip", "raw"),
    "layer_norm": (False,),
    "decoder": ("tile",),
    "scaling": ("initialiser",),
    "residual": (True,),
    "noise": (0,),
}
# Switches of parts that network="smash" has not: it convolves over memory banks, and emits kernels directly.
NOT_SMASH = (
    "message_width",
    "hidden",
    "tile",
    "kernel_tile",
    "propagation",
    "message_relu",
    "heads",
    "layer_norm",
    "encoding",
    "decoder",
    "rank",
    "scaling",
    "centre",
    "task_width",
    "growth",
)


@dataclasses.dataclass(frozen=True)
class GHNConfig:
    """What a graph hypernetwork is made of; every switch is an ablation.

    `encoding` and `residual` together are the magnitude-invariant parametrisation (MIP, Ortiz et al. 2023). With
    `delta=False` nothing depends on the graph and the hypernetwork is a weight-sharing supernet. Published
    hypernetworks are in `ghn.presets`.
    """

    # Reads the graph, or SMASH's encoding of memory banks; "open": the graph, with a base for each op of traced models.
    network: Literal["graph", "smash", "open"] = "graph"
    width: int = 32  # size D of a node's state
    message_width: int = 16  # hidden units of the message networks
    hidden: int = 64  # hidden units of the decoders ("ghn2", "ghn3": twice as many in the second layer of kernels)
    tile: int = 32  # input and output channels of the largest decoded tile; wider layers repeat it ("chunks": of each)
    kernel_tile: int = 3  # spatial extent of the largest decoded tile; larger kernels repeat it
    propagation: Literal["gatedgnn", "transformer", "rnn", "none"] = "gatedgnn"  # how node states learn of the graph
    message_relu: bool = False  # the message networks end in a ReLU, as GHN-2's do
    layers: int = 3  # of the transformer
    heads: int = 8  # of the transformer's attention; a divisor of width
    layer_norm: bool = False  # after propagation, with gain and bias
    encoding: Literal["mip", "raw", "ghn2"] = "mip"  # constant-norm encoding and states, raw values, or binned shapes
    # How a state becomes a tensor: a tile that is repeated, many tiles that differ by their place, two factors of low
    # rank (from tiles, or from the coordinates of their rows), or reference forms.
    decoder: Literal["tile", "chunks", "lowrank", "coordinate", "ghn2", "ghn3"] = "tile"
    rank: int = 8  # of the factors
    scaling: Literal["initialiser", "ghn2"] = "initialiser"  # an ordinary initialiser's, or squashed as GHN-2's
    centre: bool = False  # what is decoded is how a node differs from its graph's mean (without messages: its state)
    residual: bool = True  # weights = base + delta, or delta alone
    delta: bool = True  # False: delta is frozen at 0
    normalise: bool = True  # every kernel has the root mean square of an ordinary initialiser, after training too
    direct: bool = False  # "open": part of a kernel passes channels on as they are (`ghn.direct`); states say how much
    noise: int = 0  # width of the noise z ~ N(0, 1) that weights are conditioned on (SMASH); 0 for none
    delta_scale: float = 0.1  # size of delta beside a base of 1, at the start
    tasks: int = 0  # room for learned task embeddings (it grows); 0: weights depend on no task
    task_width: int = 16  # size of a task's embedding, whose norm is constant
    conditions: tuple[tuple[str, float, float], ...] = ()  # continuous conditions: name, lowest and highest value
    growth: tuple[int, ...] = ()  # hidden units of each branch that the decoder ("chunks") grew after the start

    def __post_init__(self) -> None:
        object.__setattr__(self, "conditions", tuple(tuple(condition) for condition in self.conditions))
        object.__setattr__(self, "growth", tuple(self.growth))  # checkpoints hold lists
        at_least(
            self, width=1, message_width=1, hidden=1, tile=1, kernel_tile=1, layers=1, heads=1, task_width=1, rank=1
        )
        one_of(self, "network", "propagation", "encoding", "decoder", "scaling")
        if self.propagation == "transformer" and self.width % self.heads:
            raise ValueError(f"GHNConfig.heads={self.heads}: must divide width={self.width}")
        if self.encoding == "ghn2" and self.width % 4:
            raise ValueError(f"GHNConfig.width={self.width}: encoding='ghn2' embeds four sizes; use a multiple of 4")
        at_least(self, noise=0, tasks=0)
        if self.noise and self.encoding == "ghn2":
            raise ValueError(f"GHNConfig.noise={self.noise}: encoding='ghn2' takes no noise; use noise=0")
        if self.noise and not self.delta:
            raise ValueError(f"GHNConfig.noise={self.noise}: with delta=False weights depend on no noise; use noise=0")
        self._check_conditioning()
        if self.scaling == "ghn2" and (self.residual or not self.delta):
            raise ValueError("GHNConfig.scaling='ghn2': squashes what is decoded and knows no base; use residual=False")
        if not self.delta and not self.residual:
            raise ValueError("GHNConfig: delta=False with residual=False leaves nothing; switch one of them on")
        if self.direct and self.network != "open":
            raise ValueError(f"GHNConfig.direct=True: network={self.network!r} has no such part; use network='open'")
        if self.network == "open":
            self._check_open()
        if self.network == "smash":
            self._check_smash()
        if not self.delta_scale > 0:
            raise ValueError(f"GHNConfig.delta_scale={self.delta_scale}: must be positive; delta=False freezes it at 0")

    @property
    def centred(self) -> bool:
        """Whether states are centred: without messages a node's weights depend on nothing but the node."""
        return self.centre and self.propagation != "none"

    def _check_open(self) -> None:
        """Raises ValueError for switches of parts that an open network has in one form only."""
        for name, only in OPEN.items():
            if getattr(self, name) not in only:
                raise ValueError(
                    f"GHNConfig.{name}={getattr(self, name)!r}: an open hypernetwork has "
                    f"{' or '.join(map(repr, only))} only; use that, or network='graph'"
                )

    def _check_smash(self) -> None:
        """Raises ValueError for switches that SMASH's network has no part for, where they are not at their defaults."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in NOT_SMASH and value != field.default:
                raise ValueError(
                    f"GHNConfig.{field.name}={value!r}: network='smash' has no such part; leave it at "
                    f"{field.default!r}, or use network='graph'"
                )

    def _check_conditioning(self) -> None:
        """Raises ValueError for tasks, conditions or growth that the other fields do not admit."""
        if self.tasks or self.conditions:
            name = "tasks" if self.tasks else "conditions"
            if self.encoding == "ghn2" or self.network != "graph" or not self.delta:
                raise ValueError(
                    f"GHNConfig.{name}={getattr(self, name)}: weights depend on it through the states of nodes; use "
                    "network='graph', delta=True and an encoding other than 'ghn2'"
                )
        if len({name for name, _, _ in self.conditions}) < len(self.conditions):
            raise ValueError(f"GHNConfig.conditions={self.conditions}: give each name once")
        for name, low, high in self.conditions:
            if not low < high or not math.isfinite(high - low):
                raise ValueError(
                    f"GHNConfig.conditions: {name!r} from {low:g} to {high:g}; give finite bounds, the lowest first"
                )
        if self.growth and (self.decoder != "chunks" or min(self.growth) < 1):
            raise ValueError(
                f"GHNConfig.growth={self.growth}: at least 1 hidden unit a branch, and only decoder='chunks' grows"
            )
