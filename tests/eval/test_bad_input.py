"""Commands refuse what they cannot use in one line that names it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from eval.rank import RankConfig, rank
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
    with pytest.raises(ValueError, match="open hypernetwork, which has no space of its own; use ghn.predict"):
        command(config, tmp_path / "out", Console(quiet=True))
    assert not (tmp_path / "out").exists()
