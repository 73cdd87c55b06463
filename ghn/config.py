"""Configuration of a graph hypernetwork."""

from __future__ import annotations

import dataclasses
from typing import Literal

PROPAGATIONS = ("gatedgnn", "none")
ENCODINGS = ("mip", "raw")


@dataclasses.dataclass(frozen=True)
class GHNConfig:
    """What a graph hypernetwork is made of; every switch is an ablation.

    `encoding` and `residual` together are the magnitude-invariant parametrisation (MIP, Ortiz et al. 2023). With
    `delta=False` nothing depends on the graph and the hypernetwork is a weight-sharing supernet.
    """

    width: int = 32  # size D of a node's state
    message_width: int = 16  # hidden units of the message networks
    hidden: int = 64  # hidden units of the decoders
    tile: int = 32  # input and output channels of the largest decoded tile; wider layers repeat it
    kernel_tile: int = 3  # spatial extent of the largest decoded tile; larger kernels repeat it
    propagation: Literal["gatedgnn", "none"] = "gatedgnn"  # how node states learn of the graph
    message_relu: bool = False  # the message networks end in a ReLU, as GHN-2's do
    encoding: Literal["mip", "raw"] = "mip"  # constant-norm encoding and states, or raw values and states
    residual: bool = True  # weights = base + delta, or delta alone
    delta: bool = True  # False: delta is frozen at 0
    normalise: bool = True  # every kernel has the root mean square of an ordinary initialiser, after training too
    delta_scale: float = 0.1  # size of delta beside a base of 1, at the start

    def __post_init__(self) -> None:
        for name in ("width", "message_width", "hidden", "tile", "kernel_tile"):
            if getattr(self, name) < 1:
                raise ValueError(f"GHNConfig.{name}={getattr(self, name)}: must be at least 1")
        if self.propagation not in PROPAGATIONS:
            raise ValueError(f"GHNConfig.propagation={self.propagation!r}: use one of {', '.join(PROPAGATIONS)}")
        if self.encoding not in ENCODINGS:
            raise ValueError(f"GHNConfig.encoding={self.encoding!r}: use one of {', '.join(ENCODINGS)}")
        if not self.delta and not self.residual:
            raise ValueError("GHNConfig: delta=False with residual=False leaves nothing; switch one of them on")
        if not self.delta_scale > 0:
            raise ValueError(f"GHNConfig.delta_scale={self.delta_scale}: must be positive; delta=False freezes it at 0")
