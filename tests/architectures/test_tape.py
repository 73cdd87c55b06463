"""The executor of tapes against networks in their own widths, of every split and kind of block."""

import collections
from typing import Any

import numpy as np
import pytest

from architectures.layers import Layers
from architectures.spaces import DeepNets
from architectures.spaces.deepnets_text import OPTIONS
from tests.architectures.spaces.tapes import assert_executor_is_the_plain_program, assert_nothing_else_is_read, step_of

SPACE = DeepNets(
    input_shape=(8, 8, 2),
    classes=3,
    widths=(8, 12),
    channels=(16, 24),
    kernels=(3, 5),
    units=(14, 24),
    tokens=16,
    blocks=6,
)
# Between them: every kind of block, normalisation, activation, way down and head; grouped, dilated, narrow and wide
# convolutions; every op that the second resolution has.
TEXTS = {
    "strided": "conv5 group silu | 8 plain-k3-d2-g2 | block>12 bottle-k3 sep-k5-d2 sep-k3-d2 plain-k5 | flatten",
    "mobile": "conv3 layer gelu | 8 mb-k3-e2-se | block>12 mb-k5-e2-se next-k5-e1 | average",
    "transformer": "patch2 layer gelu | 16 pos attn-h4 mlp-e1 mix-e2 pool attn-h2 | flatten",
    "cells": "conv3 batch relu | 8 sum:skip+conv3+max+avg | "
    "max>12 dense-k3-n3-w4 cat:conv1+conv3+max sum:sep3+dil3+max | average",
    "norm-free": "conv3 none silu | 8 pre-k3 basic-k3 | avg>12 pos attn-h1 mlp-e2 dense-k3-n2-w4 | average",
    "wide": "conv3 batch relu | 16 plain-k3-d1-g1 | conv2>24 basic-k3 plain-k3-d2-g1 | average",
}


@pytest.fixture(scope="module")
def step() -> Any:
    """((loss, logits), gradients) of any network, compiled once."""
    return step_of(SPACE)


def test_the_networks_below_have_everything() -> None:
    networks = [SPACE.from_string(text) for text in TEXTS.values()]
    kinds = collections.Counter(
        block.kind for network in networks for stage in network.stages for block in stage.blocks
    )
    assert set(kinds) == set(OPTIONS)
    used = {int(op) for network in networks for op in np.unique(SPACE.encode(network)["op"][1])}
    assert used == set(range(len(SPACE.shape.ops[1])))


@pytest.mark.parametrize("name", TEXTS)
def test_executor_equals_the_plain_program(step: Any, name: str) -> None:
    layers = Layers("canonical" if name in ("strided", "cells") else "plain")  # both forms of the same networks
    assert_executor_is_the_plain_program(step, SPACE, SPACE.from_string(TEXTS[name]), layers)


def test_what_lies_in_slots_beyond_the_leaves_is_never_read(step: Any) -> None:
    assert_nothing_else_is_read(step, SPACE, SPACE.from_string(TEXTS["mobile"]))
