"""Number of scalar parameters: the baseline that every score has to beat. Higher is better."""

from __future__ import annotations

from eval.proxies.proxy import Proxy, nothing

PARAMS = Proxy(nothing, lambda _, size: size.parameters, initialisations=1)
