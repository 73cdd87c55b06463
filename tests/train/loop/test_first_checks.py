"""What cannot run is told before its folder is claimed: the corrected command then takes the same folder."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from train import loop
from train.config import SpaceConfig, TrainConfig
from train.data import AugmentConfig


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space": SpaceConfig(channels=0)}, r"NASBench201\.channels=0"),
        ({"batch": 100_000}, r"TrainConfig\.batch=100000: the train split has only 180 images"),
        ({"start": "nothere"}, "checkpoint 'nothere'"),
        ({"augment": AugmentConfig(crop=6)}, "crop: found 6"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_command_that_cannot_run_leaves_no_folder(
    light: TrainConfig, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        loop.train(dataclasses.replace(light, **change), tmp_path / "run", show=False)
    assert not (tmp_path / "run").exists()
