"""The NAS-Bench-201 search space (Dong & Yang, ICLR 2020)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from architectures.ops import AVG_POOL_3X3, CONV_1X1, CONV_3X3, NONE, SKIP, Op
from architectures.spaces.cell import CellSpace

ISOMORPHISM_CLASSES = 6466


@dataclasses.dataclass(frozen=True)
class NASBench201(CellSpace):
    """Cells of 4 nodes whose 6 edges carry none, skip, 1x1 or 3x3 convolution, or 3x3 average pooling.

    The benchmark's own networks are `NASBench201(channels=16, cells=5, input_shape=(32, 32, 3))`.
    """

    name: ClassVar[str] = "nasbench201"

    ops: tuple[Op, ...] = (NONE, SKIP, CONV_1X1, CONV_3X3, AVG_POOL_3X3)

    def describe(self) -> str:
        """Adds the number of isomorphism classes, and what sizes the networks."""
        return (
            f"{super().describe()}; {ISOMORPHISM_CLASSES:,} isomorphism classes; "
            f"{self.channels} channels, {self.cells} cell{'s' * (self.cells > 1)} a stage"
            f"{', an exit after each' if self.exits else ''}"
        )
