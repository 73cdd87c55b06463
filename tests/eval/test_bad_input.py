"""Commands refuse what they cannot use in one line that names it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from architectures.spaces import NASBench201
from eval.rank import RankConfig, parse_candidates, rank
from eval.scoring import Scorer
from eval.search.edf_command import SpacesConfig, spaces
from eval.search.ensemble_command import EnsemblesConfig, ensemble


@pytest.mark.parametrize(
    ("command", "config"),
    [
        (rank, RankConfig(checkpoint="default")),
        (spaces, SpacesConfig(checkpoint="default", parts=("depth = 1",))),
        (ensemble, EnsemblesConfig(checkpoint="default")),
    ],
)
def test_an_open_hypernetwork_scores_no_space(command: Callable[..., Any], config: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"open hypernetwork, which has no space of its own; use ghn\.predict"):
        command(config, tmp_path / "out", Console(quiet=True))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", [{"seed": -1}, {"resamples": 0}])
def test_numbers_out_of_range_are_named(change: dict[str, int]) -> None:
    ((name, value),) = change.items()
    with pytest.raises(ValueError, match=rf"RankConfig\.{name}={value}: must be at least"):
        RankConfig(**change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00binary", r"candidates '.*cells\.txt': .* a readable text file \('utf-8'"),
        (b"\n|conv_9x9~0|+|none~0|none~1|+|none~0|none~1|none~2|\n", r"cells\.txt, line 2: .*conv_9x9"),
        (b"\n \n", r"cells\.txt': the file holds no architecture"),
    ],
)
def test_a_file_of_candidates_that_cannot_be_read_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "cells.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        parse_candidates(str(tmp_path / "cells.txt"), NASBench201())


def test_no_candidates_are_refused() -> None:
    with pytest.raises(ValueError, match="candidates '0': nothing to score; give a number of at least 1"):
        parse_candidates("0", NASBench201())


def test_a_scorer_wants_something_to_score() -> None:
    with pytest.raises(ValueError, match="architectures: there are none to score"):
        Scorer.__new__(Scorer)([])
