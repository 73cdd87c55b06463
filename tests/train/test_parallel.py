"""Steps on several devices are those of one device; what the devices exchange; runs that change devices or hosts.

Virtual CPU devices, in processes of their own (`on_devices.py`), because their number is fixed before JAX starts.
"""

import dataclasses
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

import ghn
from ghn.checkpoint import steps_of
from train import loop, parallel
from train.config import DevicesConfig, TrainConfig
from train.step import Batch

SCRIPT = Path(__file__).with_name("on_devices.py")
ROOT = SCRIPT.parents[2]
STEPS = 20


def launch(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def findings(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a process found; its own message where it failed."""
    try:
        output, errors = process.communicate(timeout=900)  # of a busy machine
    finally:
        process.kill()
    assert process.returncode == 0, errors
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny data, and the runs on it."""
    folder = tmp_path_factory.mktemp("runs")
    images = np.random.default_rng(0).integers(0, 256, (300, 8, 8), dtype=np.uint8)
    labels = (np.arange(300) % 3).astype(np.uint8)
    train, test = {"x_train": images[:240], "y_train": labels[:240]}, {"x_test": images[240:], "y_test": labels[240:]}
    np.savez(folder / "tiny.npz", **train, **test)
    return folder


@pytest.fixture(scope="module")
def eight(folder: Path) -> dict[str, Any]:
    """Findings on eight devices; leaves the runs "one", "eight" and "two"."""
    return findings(launch("eight", folder))


@pytest.fixture(scope="module")
def together(folder: Path, eight: dict[str, Any]) -> list[dict[str, Any]]:
    """Findings of two processes that train the run "together"."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [launch("together", folder, port, index) for index in range(2)]
    try:
        return [findings(process) for process in processes]
    finally:
        for process in processes:
            process.kill()


def losses(run: Path) -> np.ndarray:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    return np.array([line["loss"] for line in lines])


def parameters(run: Path) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(ghn.load(run).parameters)])


# ---------------------------------------------------------------------------------------------------------- one step


@pytest.mark.parametrize("space", ["gradients", "smash", "hard", "path"])
def test_gradients_over_differing_architectures_are_those_of_one_device(eight: dict[str, Any], space: str) -> None:
    found = eight[space]
    assert found["differing_ops"] >= 3  # so the devices' switches take different branches
    assert found["difference"] < 1e-5 < 1e-2 < found["largest"]
    assert found["losses"][0] == pytest.approx(found["losses"][1], rel=1e-5)


def test_one_all_reduce_of_gradients_and_moments_are_all_that_is_exchanged(eight: dict[str, Any]) -> None:
    found = eight["gradients"]
    reduced = [size for name, size in found["collectives"] if name == "all-reduce"]
    assert reduced == [found["parameters"] + 2]  # with loss and accuracy
    others = [(name, size) for name, size in found["collectives"] if name != "all-reduce"]
    assert {name for name, _ in others} <= {"all-gather", "reduce-scatter"}
    channels, devices = 4, 2
    assert others and all(size <= devices * 2 * channels < found["activation"] for _, size in others)


def test_the_sharded_step_lowers_for_accelerators(eight: dict[str, Any]) -> None:
    assert eight["gradients"]["exported"] == ["cuda", "tpu"]


def test_devices_that_share_an_architecture_are_neighbours(eight: dict[str, Any]) -> None:
    assert eight["mesh"] == [0, 1]


# --------------------------------------------------------------------------------------------------------- whole runs


def test_a_run_on_eight_devices_follows_one_device(folder: Path, eight: dict[str, Any]) -> None:
    one = losses(folder / "one")
    np.testing.assert_allclose(losses(folder / "eight"), one, rtol=0, atol=1e-4)
    assert one.std() > 1e-2


def test_a_run_goes_on_with_other_devices(folder: Path, eight: dict[str, Any]) -> None:
    """Ten steps on eight devices, ten on two."""
    np.testing.assert_allclose(losses(folder / "two"), losses(folder / "one"), rtol=0, atol=1e-4)
    np.testing.assert_allclose(parameters(folder / "two"), parameters(folder / "one"), rtol=0, atol=1e-4)
    assert steps_of(folder / "two") == [STEPS // 2, STEPS]


def test_the_trained_hypernetwork_is_on_one_device(eight: dict[str, Any]) -> None:
    assert eight["devices_of_result"] == [1]


def test_two_processes_train_as_one(folder: Path, together: list[dict[str, Any]]) -> None:
    np.testing.assert_allclose(losses(folder / "together"), losses(folder / "one"), rtol=0, atol=1e-4)
    np.testing.assert_allclose(parameters(folder / "together"), parameters(folder / "one"), rtol=0, atol=1e-4)
    assert steps_of(folder / "together") == [STEPS // 2, STEPS]


def test_only_process_0_writes_metrics(together: list[dict[str, Any]]) -> None:
    assert [found["written"] for found in together] == [list(range(1, STEPS + 1)), []]


def test_processes_use_all_their_devices(together: list[dict[str, Any]]) -> None:
    for found in together:
        few, many = found["messages"]
        assert "1 x 1 = 1 asked for, but 2 processes have 4 cpu devices" in few
        assert "2 x 4 = 8 asked for, 4 cpu devices present" in many


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"meta_batch": 6}, "TrainConfig.meta_batch=6: does not divide among devices.architectures=4; use a multiple"),
        ({"batch": 65}, "TrainConfig.batch=65: does not divide among devices.batch=2; use a multiple"),
    ],
)
def test_a_size_that_does_not_divide_is_named(changes: dict[str, int], message: str) -> None:
    config = TrainConfig(meta_batch=8, devices=DevicesConfig(4, 2))
    with pytest.raises(ValueError, match=re.escape(message)):
        dataclasses.replace(config, **changes)


@pytest.mark.parametrize("field", ["architectures", "batch"])
def test_no_devices_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"DevicesConfig.{field}=0: must be at least 1"):
        DevicesConfig(**{field: 0})


def test_more_devices_than_there_are_is_an_error() -> None:
    count = len(jax.devices())
    with pytest.raises(ValueError, match=rf"devices: {count} x 2 = {2 * count} asked for, {count} .* ask for fewer"):
        parallel.make_mesh(count, 2)


def test_a_run_without_its_devices_leaves_nothing(tmp_path: Path) -> None:
    count = len(jax.devices())
    with pytest.raises(ValueError, match=f"devices: 1 x {count + 1}"):
        loop.train(TrainConfig(batch=8 * (count + 1), devices=DevicesConfig(1, count + 1)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("images", "architectures", "name"), [(3, 2, "3 images"), (2, 3, "3 architectures")])
def test_a_batch_that_does_not_divide_is_named(images: int, architectures: int, name: str) -> None:
    mesh: Any = AbstractMesh((2, 2), parallel.AXES, (AxisType.Auto,) * 2)
    batch = Batch(np.zeros((images, 8, 8, 1)), np.zeros(images), None, {"op": np.zeros((architectures, 6))})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"batch: {name} do not divide among 2 devices"):
        parallel.shard(mesh, batch)


def test_missing_addresses_of_processes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(ValueError, match=r"distributed: .*'two'.*set JAX_COORDINATOR_ADDRESS"):
        parallel.join_processes()
