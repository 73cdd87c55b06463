"""The folder of a run: to whom it belongs, and whether the same command may go on in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from train.data import check_provenance
from train.metrics import write_whole


class RunError(ValueError):
    """A run that cannot start or go on; the message names what and the way out."""


def claim(
    run: Path,
    config: Mapping[str, Any],
    defaults: Mapping[str, Any],
    provenance: Mapping[str, str | int],
    free: Sequence[str] = (),
) -> None:
    """Records a configuration in the run's folder, or checks that the folder belongs to this very run.

    Where the data lie may change: they are compared by their content.

    Args:
        run: the folder.
        config: as JSON values or tuples.
        defaults: the same with nothing chosen: what fields had before they were there.
        provenance: of the data.
        free: fields that may change from one start to the next.

    Raises:
        RunError: it belongs to another run, holds something else, is damaged or cannot be written.
        DataError: the data is not that of the earlier start.
    """
    own = json.loads(json.dumps({"config": config, "provenance": provenance}))
    path = run / "config.json"
    try:
        if path.exists():
            recorded = json.loads(path.read_text())
            check_provenance(own["provenance"], recorded["provenance"])
            before = _completed(recorded["config"], dict(defaults))
            ignored = dict.fromkeys(free)
            differing = _differences({**before, **ignored}, {**own["config"], **ignored})
            if differing:
                raise RunError(
                    f"{run}: belongs to another run ({'; '.join(differing)}); choose another --out or delete the folder"
                )
        elif run.exists() and any(run.iterdir()):
            raise RunError(f"{run}: is not empty and holds no run; choose another --out")
        else:
            run.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(own, indent=2) + "\n")
    except OSError as error:
        raise RunError(f"{run}: cannot be written ({error}); choose a folder on a writable disk with room") from error
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path}: is damaged ({error!r}); delete the folder or choose another --out") from error


def _completed(recorded: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """A recorded configuration with the fields that this version added, at their defaults."""
    result = {**json.loads(json.dumps(defaults)), **recorded}
    for name, value in recorded.items():
        if isinstance(value, dict) and isinstance(defaults.get(name), dict):
            result[name] = _completed(value, defaults[name])
    return result


def _differences(recorded: dict[str, Any], own: dict[str, Any], prefix: str = "") -> list[str]:
    """The fields that differ, as "name was X, is Y", but for the path of the data."""
    result = []
    for name in sorted(set(recorded) | set(own)):
        before, now = recorded.get(name), own.get(name)
        if isinstance(before, dict) and isinstance(now, dict):
            result += _differences(before, now, f"{prefix}{name}.")
        elif before != now and not f"{prefix}{name}".endswith("data.source"):
            result.append(f"{prefix}{name} was {before!r}, is {now!r}")
    return result
