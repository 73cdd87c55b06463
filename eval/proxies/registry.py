"""All proxies by name."""

from __future__ import annotations

from collections.abc import Sequence

from eval.proxies.az_nas import COMPLEXITY, EXPRESSIVITY, PROGRESSIVITY, TRAINABILITY
from eval.proxies.flops import FLOPS
from eval.proxies.grad_norm import GRAD_NORM
from eval.proxies.gradsign import GRADSIGN
from eval.proxies.hidden_covariance import HIDDEN_COVARIANCE
from eval.proxies.jacov import JACOV
from eval.proxies.nwot import NWOT
from eval.proxies.params import PARAMS
from eval.proxies.proxy import Proxy
from eval.proxies.snip import SNIP
from eval.proxies.swap import SWAP, SWAP_REGULARISED
from eval.proxies.synflow import SYNFLOW

PROXIES: dict[str, Proxy] = {
    "params": PARAMS,
    "flops": FLOPS,
    "grad_norm": GRAD_NORM,
    "snip": SNIP,
    "synflow": SYNFLOW,
    "jacov": JACOV,
    "nwot": NWOT,
    "gradsign": GRADSIGN,
    "swap": SWAP,
    "swap_regularised": SWAP_REGULARISED,
    "az_expressivity": EXPRESSIVITY,
    "az_progressivity": PROGRESSIVITY,
    "az_trainability": TRAINABILITY,
    "az_complexity": COMPLEXITY,
    "hidden_covariance": HIDDEN_COVARIANCE,
}
AZ_NAS = "az_nas"  # the aggregation of its four parts: a score of a set of candidates, not of one


def proxy_names(names: Sequence[str] | None) -> list[str]:
    """The names, all of them when None; ValueError for one that is unknown."""
    known = [*PROXIES, AZ_NAS]
    for name in names or ():
        if name not in known:
            raise ValueError(f"proxies: unknown {name!r}; there are {', '.join(known)}")
    return known if names is None else list(dict.fromkeys(names))
