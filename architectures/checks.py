"""What configurations and spaces ask of their numbers and choices."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints


def at_least(config: Any, **least: float) -> None:
    """Refuses fields that are smaller than given, or not a number; None passes.

    Raises:
        ValueError: names the class, the field and what it must be.
    """
    for name, smallest in least.items():
        value = getattr(config, name)
        if value is not None and not value >= smallest:
            raise ValueError(f"{type(config).__name__}.{name}={value}: must be at least {smallest}")


def one_of(config: Any, *names: str) -> None:
    """Refuses fields whose value is none of the choices that their annotation, a Literal, lists.

    Raises:
        ValueError: names the class, the field and the choices.
    """
    hints = get_type_hints(type(config))
    for name in names:
        value, choices = getattr(config, name), get_args(hints[name])
        if value not in choices:
            raise ValueError(f"{type(config).__name__}.{name}={value!r}: use one of {', '.join(choices)}")
