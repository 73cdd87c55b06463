"""The NaN guard's memory: where a run went back to, and on with other batches than those that broke it.

As PaLM was trained (Chowdhery et al. 2022, section 5.1): from a state before the trouble, past the batches that made
it. They are recorded, because the batches of a step depend on them: a run that is resumed takes the same turns.
"""

from __future__ import annotations

import json
from pathlib import Path

from train.metrics import write_whole


class Retreats:
    """The steps that a run went back to, in the order in which it did."""

    def __init__(self, run: Path) -> None:
        """Those that the run's folder records; raises ValueError where the record is damaged."""
        self._path = run / "retreats.jsonl"
        self._steps: list[int] = []
        if self._path.exists():
            try:
                self._steps = [int(json.loads(line)["to"]) for line in self._path.read_text().splitlines()]
            except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{self._path}: is damaged ({error!r}); start a new run in another folder") from error

    def __len__(self) -> int:
        return len(self._steps)

    def before(self, step: int) -> int:
        """How many of them the batch of a step has to avoid: it is drawn anew after each."""
        return sum(to <= step for to in self._steps)

    def add(self, to: int, since: int, write: bool = True) -> None:
        """One more: from step `since`, where the loss was found not to be finite, to step `to`."""
        self._steps.append(to)
        if write:
            lines = self._path.read_text() if self._path.exists() else ""
            write_whole(self._path, lines + json.dumps({"to": to, "from": since}) + "\n")
