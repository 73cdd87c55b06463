"""Prints pip constraints for one end of the ranges in pyproject.toml: `python tests/versions.py oldest|newest`.

The oldest are the lower bounds of what the package itself needs; the newest need no constraint.
"""

import re
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def oldest() -> list[str]:
    """Every requirement at its lower bound."""
    requirements = tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]
    return [re.sub(r">=", "==", requirement) for requirement in requirements]


if __name__ == "__main__":
    ends = {"oldest": oldest, "newest": list}
    if sys.argv[1:] not in [[end] for end in ends]:
        sys.exit(__doc__)
    sys.stdout.writelines(line + "\n" for line in ends[sys.argv[1]]())
