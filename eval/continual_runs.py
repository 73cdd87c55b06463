"""Finished runs over streams of tasks, read from their folders and grouped by their settings.

Shape letters: S seeds, T tasks.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from train.continual.build import RESULT
from train.continual.config import ContinualConfig

CONFIG = "config.json"  # beside RESULT
FREE = ("schedule.seed", "schedule.log_every", "schedule.checkpoint_every", "stream.data.source")  # tell nothing apart
Key = tuple[str, str, str]  # stream, scenario, method with the settings that tell it from others
Settings = Mapping[str, str]  # by dotted name, as text


class Group(NamedTuple):
    """Runs that differ in their seed alone.

    Attributes:
        matrices: [S, T, T] accuracy on task j after task i.
        seeds: of the runs.
        learner_parameters: of what learned.
        target_parameters: of the target.
        memory_images: kept of earlier tasks.
        settings: all but the seed.
        method: without settings.
    """

    matrices: NDArray[np.float64]
    seeds: tuple[int, ...]
    learner_parameters: int
    target_parameters: int
    memory_images: int
    settings: Settings
    method: str


def read_runs(folders: Iterable[Path]) -> dict[Key, Group]:
    """The finished runs of these folders, by stream, scenario and method; runs of one key differ in their seed alone.

    Raises:
        ValueError: no folder, one without a finished run, two runs of one seed.
    """
    found: dict[tuple[str, str, str, tuple[tuple[str, str], ...]], list[dict[str, Any]]] = {}
    for folder in folders:
        path = folder / RESULT
        try:
            result = json.loads(path.read_text())
            path = folder / CONFIG
            own = tuple(sorted(_settings(json.loads(path.read_text())).items()))
            found.setdefault((result["stream"], result["scenario"], result["method"], own), []).append(result)
        except FileNotFoundError as error:
            raise ValueError(f"{folder}: no finished run there ({path.name} is missing); finish it first") from error
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: is damaged ({error!r}); run it again") from error
    if not found:
        raise ValueError("runs: none given; name the folders that ghn-train continual wrote")
    named = {}
    for stream, scenario, method, own in found:
        others = [dict(key[3]) for key in found if key[:3] == (stream, scenario, method)]
        streams = [dict(key[3]) for key in found if key[:2] == (stream, scenario)]
        key = (stream, scenario, _label(method, dict(own), others, streams))
        named[key] = _group(key, method, dict(own), found[stream, scenario, method, own])
    return named


def scratch_for(group: Group, groups: Iterable[Group]) -> Group | None:
    """The one group of networks from scratch on the same stream, gone through in the same way where there are several;
    None where that leaves none or several."""
    found = [own for own in groups if own.method == "scratch"]
    for part in (("scenario", "stream.", "data"), ("schedule.", "target", "space.")):
        if part[0] == "scenario" or len(found) > 1:
            found = [own for own in found if _part(own.settings, part) == _part(group.settings, part)]
    return found[0] if len(found) == 1 else None


def _part(settings: Settings, prefixes: tuple[str, ...]) -> dict[str, str]:
    return {name: value for name, value in settings.items() if name.startswith(prefixes)}


def _settings(recorded: Mapping[str, Any]) -> Settings:
    """Every setting of a run but the seed; fields that an earlier version lacked have their defaults."""
    flat = {**_flat(dataclasses.asdict(ContinualConfig())), **_flat(recorded["config"])}
    digest = hashlib.sha256(json.dumps(recorded["provenance"], sort_keys=True).encode()).hexdigest()[:6]
    data = f"{Path(flat['stream.data.source']).name} {digest}"
    return {"data": data, **{name: value for name, value in flat.items() if name not in FREE}}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    result: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            result |= _flat(value, f"{prefix}{name}.")
        else:
            result[prefix + name] = " ".join(map(str, value)) if isinstance(value, list | tuple) else _text(value)
    return result


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _label(method: str, own: Settings, others: Sequence[Settings], streams: Sequence[Settings]) -> str:
    """The method, with what differs between its own settings, and between streams of one name."""
    differing = [name for name, value in own.items() if any(other.get(name) != value for other in others)]
    apart = [name for name in _part(own, ("stream.", "data")) if any(other.get(name) != own[name] for other in streams)]
    named = sorted({*differing, *apart} - {"method", "scenario"})
    return " ".join([method, *(f"{name}={own[name]}" for name in named)])


def _group(key: Key, method: str, settings: Settings, results: Sequence[Mapping[str, Any]]) -> Group:
    seeds = tuple(int(result["seed"]) for result in results)
    matrices = [np.array(result["matrix"], np.float64) for result in results]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"{', '.join(key)}: seed {max(seeds, key=seeds.count)} twice; give each run once")
    shapes = {matrix.shape for matrix in matrices} | {()}
    sizes = {(result["learner_parameters"], result["target_parameters"], result["memory_images"]) for result in results}
    if len(shapes) > 2 or len(sizes) > 1:
        raise ValueError(f"{', '.join(key)}: runs of different sizes are not seeds of one; evaluate them apart")
    return Group(np.stack(matrices), seeds, *sizes.pop(), settings, method)
