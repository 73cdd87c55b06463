"""What kernels pass on as it is: a part of every output channel that is one of the inputs.

weights = (rest + g * sqrt(fan-in) * delta) / sqrt(1 + g^2), with the rest of unit root mean square and delta a Dirac
kernel (Zagoruyko & Komodakis 2017, DiracNets, equation 2, with g for a/b). Channels then mean the same in all layers of
a network, with skip connections and without, which is what lets one hypernetwork serve both.

Shape letters: I inputs (of a group), O outputs.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def passed_on(inputs: int, outputs: int) -> tuple[Indices, Indices]:
    """Rows and columns of an [I, O] matrix: each output takes the input of its number, both counted around."""
    longer = np.arange(max(inputs, outputs))
    return longer % inputs, longer % outputs


def share(inputs: int, outputs: int) -> float:
    """What each of these entries is multiplied by: an output may take several inputs, whose sum has the size of one."""
    return math.sqrt(min(1.0, outputs / inputs))
