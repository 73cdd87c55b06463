"""Numbers out of range are named with their class."""

import dataclasses
import math
from typing import Literal

import pytest

from architectures.checks import at_least, one_of


@dataclasses.dataclass
class Config:
    count: float | None = 1
    seed: int = 0
    kind: Literal["small", "large"] = "small"

    def __post_init__(self) -> None:
        at_least(self, count=1, seed=0)
        one_of(self, "kind")


def test_what_is_large_enough_or_none_passes() -> None:
    assert Config().seed == 0 and Config(None, 3).count is None


@pytest.mark.parametrize(
    ("count", "seed", "message"),
    [(0, 0, r"Config\.count=0: must be at least 1"), (1, -1, r"Config\.seed=-1: .* 0"), (math.nan, 0, "count=nan")],
)
def test_others_are_named(count: float, seed: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(count, seed)


def test_what_is_no_choice_is_named() -> None:
    assert Config(kind="large").kind == "large"
    for wrong in ("Large", "", None):
        with pytest.raises(ValueError, match=f"Config.kind={wrong!r}: use one of small, large"):
            Config(kind=wrong)  # type: ignore[arg-type]
