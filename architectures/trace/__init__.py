"""Any JAX function `apply(params, *inputs)` as an ArchGraph, read from its jaxpr.

The jaxpr is walked once on abstract values (`values`): each knows which node it is a function of, what was done to it
since, and which parameters have entered it. Convolutions, matrix products, lookups, pools, and sums or products of
different data are nodes; elementwise arithmetic, reductions and changes of layout belong to what they follow, and
become a node (a normalisation, an activation) when something else reads them. Arithmetic on parameters alone folds into
its consumer.
"""

from architectures.trace.api import TraceError, trace
from architectures.trace.ops import OPS

__all__ = ["OPS", "TraceError", "trace"]
