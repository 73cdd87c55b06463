"""Results of single runs on disk, so that a benchmark that was killed goes on where it was."""

from __future__ import annotations

import hashlib
import inspect
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import code_digest, console

from train.metrics import write_whole


class Kept:
    """Calls functions, and remembers what they returned for the same arguments and the same code.

    Attributes:
        cpu_s: CPU seconds that everything asked for took when it was computed, in this process or an earlier one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.cpu_s = 0.0

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """`function(*arguments)`, a JSON value; arguments are told apart by their `repr`."""
        everything = (code_digest("architectures", "ghn", "train"), inspect.getsource(function), repr(arguments))
        path = self._folder / f"{hashlib.sha256(repr(everything).encode()).hexdigest()[:16]}.json"
        if not path.exists():
            start = time.process_time()
            value = function(*arguments)
            record = {
                "value": value,
                "cpu_s": time.process_time() - start,
                "call": [function.__name__, repr(arguments)],
            }
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(record) + "\n")
            console.print(f"{function.__name__}: {record['cpu_s']:.0f} CPU s", highlight=False)
        record = json.loads(path.read_text())
        self.cpu_s += record["cpu_s"]
        return record["value"]
