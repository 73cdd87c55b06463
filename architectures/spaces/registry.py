"""Spaces as plain settings, for checkpoints and files that must name the space they belong to."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from architectures.spaces.base import SearchSpace
from architectures.spaces.darts import DARTS
from architectures.spaces.deepnets import DeepNets
from architectures.spaces.grammar import Grammar
from architectures.spaces.mlp import MLPSpace
from architectures.spaces.nasbench201 import NASBench201
from architectures.spaces.smash import SMASH

SPACES: dict[str, type[SearchSpace[Any]]] = {
    space.name: space for space in (NASBench201, SMASH, MLPSpace, DeepNets, DARTS, Grammar)
}


def settings(space: SearchSpace[Any]) -> dict[str, Any]:
    """The space's name and its fields as JSON values; ops are written by name.

    A `later` field is left out at its default.
    """
    result: dict[str, Any] = {"name": space.name}
    for field in dataclasses.fields(space):  # type: ignore[arg-type]
        value = getattr(space, field.name)
        if field.metadata.get("later") and value == field.default:
            continue
        if field.name == "ops":
            value = [op.name for op in value]
        result[field.name] = list(value) if isinstance(value, tuple) else value
    return result


def from_settings(values: Mapping[str, Any]) -> SearchSpace[Any]:
    """Rebuilds a space of this package from `settings`.

    Raises:
        ValueError: no settings at all, the name or a field is unknown, or the ops are not the space's own (a user's
            own space cannot be rebuilt from text: pass the object itself).
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"space {values!r}: expected an object of settings, 'name' among them")
    name = values.get("name")
    if not isinstance(name, str) or name not in SPACES:
        raise ValueError(f"space {name!r}: not one of {', '.join(SPACES)}; pass your own space object as space=...")
    fields = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items() if key != "name"}
    known = [field.name for field in dataclasses.fields(SPACES[name])]  # type: ignore[arg-type]
    unknown = sorted(set(fields) - set(known))
    if unknown:
        raise ValueError(f"space {name!r}: unknown settings {', '.join(unknown)}; known: {', '.join(known)}")
    ops = fields.pop("ops", None)
    space = SPACES[name](**fields)
    own = settings(space).get("ops")
    if ops is not None and list(ops) != own:
        raise ValueError(f"space {name!r}: saved with ops {list(ops)}, this version has {own}; pass space=...")
    return space
