"""What configurations and spaces ask of their numbers."""

from __future__ import annotations

from typing import Any


def at_least(config: Any, **least: float) -> None:
    """Refuses fields that are smaller than given, or not a number; None passes.

    Raises:
        ValueError: names the class, the field and what it must be.
    """
    for name, smallest in least.items():
        value = getattr(config, name)
        if value is not None and not value >= smallest:
            raise ValueError(f"{type(config).__name__}.{name}={value}: must be at least {smallest}")
