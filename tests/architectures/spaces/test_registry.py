"""Spaces survive being written as plain settings."""

import dataclasses
import json
from typing import Any

import pytest

from architectures.ops import NONE, SKIP
from architectures.spaces import (
    DARTS,
    SMASH,
    CellSpace,
    DeepNets,
    Grammar,
    NASBench201,
    SearchSpace,
    from_settings,
    settings,
)

SPACES = pytest.mark.parametrize(
    "space",
    [
        NASBench201(),
        NASBench201(channels=4, cells=3, input_shape=(6, 6, 2), classes=7, stages=2),
        NASBench201(channels=4, exits=True),
        SMASH(channels=(4, 8), layers=(2,)),
        DeepNets(widths=(8, 16), channels=(8, 24), units=(10, 10)),
        DeepNets(kinds=("basic",), norm_kinds=("batch",)),
        DARTS(channels=4, cells=2, nodes=3),
        Grammar(widths=(8,), sequence=0.4, kernels=(3,)),
    ],
    ids=["default", "other", "exits", "smash", "deepnets", "family", "darts", "grammar"],
)


@SPACES
def test_settings_survive_json(space: SearchSpace[Any]) -> None:
    assert from_settings(json.loads(json.dumps(settings(space)))) == space


@SPACES
def test_text_in_the_place_of_an_architecture_is_told(space: SearchSpace[Any]) -> None:
    text = space.to_string(space.sample(0))
    for call in (space.graph, space.encode, space.canonical, space.cost):
        with pytest.raises(ValueError, match=r"is text; read it with space\.from_string first"):
            call(text)


def test_settings_name_every_field() -> None:
    fields = {field.name for field in dataclasses.fields(NASBench201)}
    assert set(settings(NASBench201(exits=True))) == {"name", *fields}
    assert set(settings(NASBench201())) == {"name", *fields} - {"exits"}  # which came later: descriptions stay


def test_spaces_of_the_user_and_unknown_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"space 'cell': not one of nasbench201, smash"):
        from_settings(settings(CellSpace(ops=(SKIP,))))
    with pytest.raises(ValueError, match=r"space 'nasbench201': unknown settings width; known: channels, cells"):
        from_settings({"name": "nasbench201", "channels": 4, "width": 4})
    with pytest.raises(ValueError, match=r"space None: not one of nasbench201, smash"):
        from_settings({})
    with pytest.raises(ValueError, match=r"space 'nasbench201': expected an object of settings"):
        from_settings("nasbench201")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"space \['nasbench201'\]: not one of nasbench201, smash"):
        from_settings({"name": ["nasbench201"]})
    with pytest.raises(ValueError, match=r"space 'nasbench201': saved with ops \['none', 'skip_connect'\]"):
        from_settings(settings(NASBench201(ops=(NONE, SKIP))))
