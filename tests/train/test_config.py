"""Configurations name what there is."""

from typing import Any, get_args, get_type_hints

import pytest

from architectures.spaces.registry import SPACES
from train.cli import TargetConfig
from train.config import OptimizerConfig, SpaceConfig, TrainConfig
from train.continual.config import ContinualConfig, RegulariserConfig, ScheduleConfig, StreamConfig

NAMES = get_args(get_type_hints(SpaceConfig)["name"])


def test_every_space_of_the_registry_can_be_trained_on() -> None:
    assert set(NAMES) == set(SPACES)


@pytest.mark.parametrize("name", NAMES)
def test_spaces_are_built_for_the_data(name: str) -> None:
    space = SpaceConfig(name=name).build((8, 8, 3), 7)  # type: ignore[arg-type]
    assert (space.name, space.input_shape, space.classes) == (name, (8, 8, 3), 7)
    assert space.graph(space.sample(0)).parameter_count > 0


@pytest.mark.parametrize("config", [TrainConfig, ScheduleConfig, StreamConfig, TargetConfig])
def test_a_negative_seed_is_named(config: type) -> None:
    with pytest.raises(ValueError, match=rf"{config.__name__}\.seed=-1: must be at least 0"):
        config(seed=-1)


def test_a_negative_warmup_is_named() -> None:
    with pytest.raises(ValueError, match=r"OptimizerConfig\.warmup=-5: must be at least 0"):
        OptimizerConfig(warmup=-5)


@pytest.mark.parametrize(
    ("config", "field", "value", "choices"),
    [
        (SpaceConfig, "name", "nasbench", "nasbench201, smash, mlp"),
        (OptimizerConfig, "name", "adamw", "adam, sgd"),
        (TrainConfig, "sampling", "larg", "uniform, large, small"),
        (TrainConfig, "precision", "float16", "float32, bfloat16"),
        (StreamConfig, "name", "permutted", "split, permuted, rotated"),
        (RegulariserConfig, "targets", "sored", "snapshot, stored"),
        (ScheduleConfig, "inference", "lowest", "entropy, classifier"),
        (ScheduleConfig, "evaluate", "train", "test, score"),
        (ContinualConfig, "scenario", "CL4", "CL1, CL2, CL3"),
        (ContinualConfig, "heads", "one", "own, shared"),
        (ContinualConfig, "method", "EWC", "hypernetwork, finetune"),
    ],
)
def test_a_choice_that_there_is_not_is_named(config: Any, field: str, value: str, choices: str) -> None:
    with pytest.raises(ValueError, match=rf"{config.__name__}\.{field}='{value}': use one of {choices}"):
        config(**{field: value})
