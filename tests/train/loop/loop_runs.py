"""What the tests of the loop ask of a run."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ghn.checkpoint import load_training, steps_of
from train import loop
from train.batches import BatchStream
from train.config import TrainConfig
from train.data import load as load_data
from train.loop import make_hypernetwork
from train.optimizer import make_optimizer
from train.step import init_state


def quick_loss(definition: Any, parameters: Any, batch: Any, layers: Any = None) -> tuple[Any, dict[str, Any]]:
    leaves = jax.tree.leaves(parameters)
    loss = sum(jnp.mean(jnp.square(leaf - jnp.mean(batch.images))) for leaf in leaves)
    return loss, {"loss": loss, "accuracy": jnp.zeros(())}


def metrics_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def without_time(lines: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{name: value for name, value in line.items() if name != "time"} for line in lines]


def state_of(run: Path, step: int, config: TrainConfig) -> Any:
    """Parameters and training state of a checkpoint."""
    hypernetwork = make_hypernetwork(config, load_data(config.data))
    state = init_state(hypernetwork, make_optimizer(config.optimizer, config.steps))
    return load_training(run, step, state.parameters, loop._training_tree(state, config))


def assert_same_run(found: Path, expected: Path, config: TrainConfig) -> None:
    """Bitwise: parameters, optimiser state, metrics."""
    jax.tree.map(
        np.testing.assert_array_equal, state_of(found, config.steps, config), state_of(expected, config.steps, config)
    )
    assert without_time(metrics_of(found)) == without_time(metrics_of(expected))
    assert steps_of(found) == steps_of(expected)


def break_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The run stops when it asks for the batch of `step`."""
    original = BatchStream.__getitem__

    def getitem(self: BatchStream, index: int) -> Any:
        if index == step:
            raise KeyboardInterrupt
        return original(self, index)

    monkeypatch.setattr(BatchStream, "__getitem__", getitem)
