"""Runs: their files, exact resumption after a stop or a kill, folders of others, the command line."""

import dataclasses
import functools
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loop_runs import assert_same_run, break_at, metrics_of, without_time

import ghn
import train.step
from ghn.checkpoint import steps_of
from ghn.config import GHNConfig
from train import cli, loop
from train.batches import BatchStream
from train.config import OptimizerConfig, TrainConfig
from train.data import load as load_data
from train.loop import RunError, make_hypernetwork
from train.optimizer import make_optimizer
from train.step import init_state

ROOT = Path(__file__).resolve().parents[3]


# ------------------------------------------------------------------------------------------------------ whole runs


def test_a_run_leaves_its_files(config: TrainConfig, unbroken: tuple[Path, ghn.Hypernetwork]) -> None:
    run, trained = unbroken
    assert {path.name for path in run.iterdir()} == {"config.json", "metrics.jsonl", "checkpoints"}
    assert steps_of(run) == [2, 4, 6] and trained.step == 6
    lines = metrics_of(run)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all(line.keys() == {"step", "time", "loss", "accuracy", "gradient_norm", "parameter_norm"} for line in lines)
    assert np.isfinite([list(line.values()) for line in lines]).all()
    assert all(a["time"] <= b["time"] for a, b in itertools.pairwise(lines))
    recorded = json.loads((run / "config.json").read_text())
    assert recorded["config"] == json.loads(json.dumps(dataclasses.asdict(config)))
    loaded = ghn.load(run)
    assert (loaded.step, loaded.space, loaded.preprocessing) == (6, trained.space, trained.preprocessing)
    jax.tree.map(np.testing.assert_array_equal, loaded.parameters, trained.parameters)
    start = make_hypernetwork(config, load_data(config.data)).parameters
    pairs = zip(jax.tree.leaves(start), jax.tree.leaves(trained.parameters), strict=True)
    assert any(np.abs(a - b).max() > 1e-3 for a, b in pairs)


@pytest.mark.usefixtures("quick")
def test_checkpoints_hold_the_moving_average_and_a_run_goes_on_from_the_parameters(
    light: TrainConfig, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(light, optimizer=dataclasses.replace(light.optimizer, ema=0.9))
    trained = loop.train(config, tmp_path / "unbroken")
    with monkeypatch.context() as patch:
        break_at(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            loop.train(config, tmp_path / "stopped")
    loop.train(config, tmp_path / "stopped")
    assert_same_run(tmp_path / "stopped", tmp_path / "unbroken", config)
    average, last = ghn.load(tmp_path / "stopped").parameters, ghn.load(whole).parameters
    jax.tree.map(np.testing.assert_array_equal, average, trained.parameters)
    assert without_time(metrics_of(tmp_path / "unbroken")) == without_time(metrics_of(whole))  # the same steps
    assert max(jax.tree.leaves(jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), average, last))) > 1e-5


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("stop", [1, 5])
def test_a_stopped_run_goes_on_exactly(
    light: TrainConfig, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    run = tmp_path / "run"
    break_at(monkeypatch, stop)
    with pytest.raises(KeyboardInterrupt):
        loop.train(light, run)
    assert steps_of(run) == ([2, 4] if stop == 5 else [])
    monkeypatch.undo()
    assert loop.train(light, run).step == 6
    assert_same_run(run, whole, light)


def test_a_finished_run_is_loaded_and_left_alone(config: TrainConfig, unbroken: tuple[Path, ghn.Hypernetwork]) -> None:
    run, trained = unbroken
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    again = loop.train(config, run)
    jax.tree.map(np.testing.assert_array_equal, again.parameters, trained.parameters)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def command(config: TrainConfig, run: Path) -> list[str]:
    flags = {
        "space.name": config.space.name,
        "space.widths": config.space.widths,
        "space.depths": config.space.depths,
        "data.source": config.data.source,
        "data.image-size": config.data.image_size,
        "data.score-images": config.data.score_images,
        "augment.crop": config.augment.crop,
        "ghn.width": config.ghn.width,
        "ghn.message-width": config.ghn.message_width,
        "ghn.hidden": config.ghn.hidden,
        "ghn.tile": config.ghn.tile,
        "steps": config.steps,
        "batch": config.batch,
        "log-every": config.log_every,
        "checkpoint-every": config.checkpoint_every,
        "out": run,
    }
    words = (
        word
        for name, value in flags.items()
        for word in (f"--{name}", *(value if isinstance(value, tuple) else [value]))
    )
    return ["ghn", "--augment.no-flip", *map(str, words)]


def test_a_killed_run_goes_on_exactly(
    config: TrainConfig, unbroken: tuple[Path, Any], tmp_path: Path, cache: Path
) -> None:
    run = tmp_path / "run"
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    line = [sys.executable, "-m", "train.cli", *command(config, run)]
    with (tmp_path / "output").open("w+") as output:
        process = subprocess.Popen(line, env=environment, stdout=output, stderr=output)
        while process.poll() is None:
            if (run / "metrics.jsonl").exists() and len((run / "metrics.jsonl").read_text().splitlines()) >= 3:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.005)
        assert process.wait() == -signal.SIGKILL, (tmp_path / "output").read_text()
    assert 2 in steps_of(run) and 6 not in steps_of(run)
    again = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    whole = tmp_path / "whole"  # in a process of its own too: this one's compiled programs may round differently
    line = [sys.executable, "-m", "train.cli", *command(config, whole)]
    assert subprocess.run(line, env=environment, capture_output=True, check=False).returncode == 0
    assert_same_run(run, whole, config)
    recorded = [json.loads((folder / "config.json").read_text()) for folder in (run, unbroken[0])]
    assert recorded[0] == recorded[1]


# ----------------------------------------------------------------------------------------------------- warm starts


@pytest.mark.usefixtures("quick")
def test_a_warm_start_begins_with_the_parameters_of_another_run(
    light: TrainConfig, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crawling = dataclasses.replace(light, seed=1, optimizer=OptimizerConfig(learning_rate=1e-12))
    config = dataclasses.replace(crawling, start=str(whole))
    break_at(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        loop.train(config, tmp_path / "warm")
    monkeypatch.undo()
    warm, cold = loop.train(config, tmp_path / "warm"), loop.train(crawling, tmp_path / "cold")

    def distance(found: ghn.Hypernetwork) -> float:
        gaps = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), found.parameters, ghn.load(whole).parameters)
        return max(jax.tree.leaves(gaps))

    assert warm.step == 6 and distance(warm) < 1e-6 < 1e-2 < distance(cold)


def test_a_warm_start_with_another_configuration_is_refused(
    config: TrainConfig, unbroken: tuple[Path, Any], tmp_path: Path
) -> None:
    config = dataclasses.replace(config, start=str(unbroken[0]), ghn=dataclasses.replace(config.ghn, width=16))
    with pytest.raises(RunError, match=r"start='.*': its parameter .* \(ghn.width was 8, is 16\); train with"):
        loop.train(config, tmp_path / "run")


# ----------------------------------------------------------------------------------------------- folders of others


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed was 0, is 1"),
        ({"optimizer": OptimizerConfig(learning_rate=1e-3)}, "optimizer.learning_rate was 0.003, is 0.001"),
        ({"steps": 8}, "steps was 6, is 8"),
        ({"ghn": GHNConfig(width=8, message_width=4, hidden=8, tile=8, residual=False)}, "ghn.residual was True, is F"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_the_folder_of_another_run_is_refused(
    config: TrainConfig, unbroken: tuple[Path, Any], change: dict[str, Any], message: str
) -> None:
    run = unbroken[0]
    with pytest.raises(RunError, match=re.escape(f"{run}: belongs to another run ({message}") + ".*another --out"):
        loop.train(dataclasses.replace(config, **change), run)


def test_a_run_on_other_data_is_refused(config: TrainConfig, unbroken: tuple[Path, Any], tmp_path: Path) -> None:
    content = dict(np.load(config.data.source))
    content["x_test"][0, 0, 0] ^= 1
    np.savez(tmp_path / "tiny.npz", **content)
    other = dataclasses.replace(config.data, source=str(tmp_path / "tiny.npz"))
    with pytest.raises(ValueError, match="test_images_sha256"):
        loop.train(dataclasses.replace(config, data=other), unbroken[0])


def test_a_run_goes_on_where_its_data_has_moved(
    config: TrainConfig, unbroken: tuple[Path, Any], tmp_path: Path
) -> None:
    moved = shutil.copy(config.data.source, tmp_path)
    elsewhere = dataclasses.replace(config, data=dataclasses.replace(config.data, source=str(moved)))
    run = shutil.copytree(unbroken[0], tmp_path / "run")
    assert loop.train(elsewhere, run).parameter_count == unbroken[1].parameter_count


def test_a_folder_of_something_else_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("42")
    with pytest.raises(RunError, match=re.escape(str(tmp_path)) + r": is not empty and holds no run.*another --out"):
        loop.train(config, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("content", ["{", "{}", "[]"])
def test_a_config_that_is_no_runs_is_refused(config: TrainConfig, tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(RunError, match=re.escape(str(tmp_path)) + ".*another --out"):
        loop.train(config, tmp_path)


def test_a_file_in_the_place_of_the_folder_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("42")
    with pytest.raises(RunError, match=re.escape(str(tmp_path / "run")) + ": cannot be written"):
        loop.train(config, tmp_path / "run")


# ----------------------------------------------------------------------------------------------------- command line


def exit_of(arguments: list[str], monkeypatch: pytest.MonkeyPatch, cache: Path) -> Any:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(cache))
    monkeypatch.setattr(sys, "argv", ["ghn-train", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code


@pytest.mark.parametrize("name", ["ghn", "target"])
@pytest.mark.parametrize("source", ["missing.npz", "damaged.npz"])
def test_bad_data_is_one_line_and_exit_code_2(
    name: str,
    source: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cache: Path,
) -> None:
    (tmp_path / "damaged.npz").write_bytes(b"PK\x03\x04 and no more")
    path = tmp_path / source
    out = tmp_path / "out"
    assert exit_of([name, f"--data.source={path}", f"--out={out}"], monkeypatch, cache) == 2
    captured = capsys.readouterr()
    assert len(captured.err.strip().splitlines()) == 1
    assert captured.err.startswith("error: ") and str(path) in captured.err
    assert not out.exists()


def test_a_config_out_of_range_is_named_with_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    assert exit_of(["ghn", "--steps=0", f"--out={tmp_path / 'out'}"], monkeypatch, cache) == 2
    captured = capsys.readouterr()
    assert "TrainConfig.steps=0: must be at least 1" in " ".join((captured.err + captured.out).split())


def test_the_folder_of_another_run_is_one_line_and_exit_code_2(
    config: TrainConfig,
    unbroken: tuple[Path, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cache: Path,
) -> None:
    arguments = command(dataclasses.replace(config, batch=9), unbroken[0])
    assert exit_of(arguments, monkeypatch, cache) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: {unbroken[0]}: belongs to another run (batch was 8, is 9)")


@pytest.mark.usefixtures("quick")
def test_the_step_is_compiled_once(light: TrainConfig) -> None:
    """As the loop calls it: neither batches nor states change in shape or type."""
    splits = load_data(light.data)
    hypernetwork = make_hypernetwork(light, splits)
    optimizer = make_optimizer(light.optimizer, light.steps)
    step = jax.jit(functools.partial(train.step.train_step, hypernetwork.definition, optimizer))
    state = init_state(hypernetwork, optimizer)
    for batch in BatchStream(light, hypernetwork, splits.train).iterate(0, 6):
        state, _ = step(state, batch)
    assert step._cache_size() == 1
