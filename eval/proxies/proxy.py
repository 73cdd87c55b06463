"""What a proxy is: a score of an architecture at initialisation, and how it is to be computed.

Shape letters: A architectures, B images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from eval.proxies.network import Network


class Size(NamedTuple):
    """What is known of a network without running it.

    Attributes:
        parameters: its scalar parameters.
        macs: multiply-accumulates for one image.
        largest: scalar parameters of the largest network that it is compared with.
    """

    parameters: int
    macs: int
    largest: int


Measure = Callable[[Network], Any]  # traced: arrays of one network at one initialisation
Finish = Callable[[Any, Size], float]  # on the host, in float64: those arrays as one number


def nothing(network: Network) -> tuple[()]:
    """The measure of a proxy that needs no run."""
    return ()


@dataclasses.dataclass(frozen=True)
class Proxy:
    """One proxy. Its score is sign * mean over initialisations of finish(measure(network)).

    Attributes:
        measure: what the compiled program computes; proxies that share it share its run.
        finish: what is computed from that outside.
        sign: +1 where its authors take higher to be better, -1 where they take lower: scores are always better higher.
        initialisations: how many random networks are averaged, unless the caller says otherwise.
        images: how many images enter, unless the caller gives fewer.
        float64: computed in double precision.
    """

    measure: Measure
    finish: Finish
    sign: int = 1
    initialisations: int = 3
    images: int = 64
    float64: bool = False
