"""Zero-cost proxies: scores of networks with random weights. One file each; `PROXIES` has them by name."""

from eval.proxies.proxy import Proxy, Size
from eval.proxies.registry import AZ_NAS, PROXIES
from eval.proxies.score import iterate, missing, score, score_model
from eval.proxies.traced import TracedModel

__all__ = ["AZ_NAS", "PROXIES", "Proxy", "Size", "TracedModel", "iterate", "missing", "score", "score_model"]
