"""Floating-point operations for one image: twice the multiply-accumulates. Higher is better.

AZ-NAS (Lee & Ham 2024) calls it complexity.
"""

from __future__ import annotations

from eval.proxies.proxy import Proxy, nothing

FLOPS = Proxy(nothing, lambda _, size: 2 * size.macs, initialisations=1)
