"""Checkpoints come back equal; whatever does not fit is refused with its path and a way out; nothing good is lost."""

import dataclasses
import gc
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
from safetensors.numpy import save_file as save_safetensors

from architectures.ops import CONV_1X1, NONE, SKIP
from architectures.spaces import SMASH, CellSpace, NASBench201
from ghn import checkpoint
from ghn.api import Hypernetwork, Preprocessing
from ghn.checkpoint import CheckpointError, load, load_training, save_file, save_run, steps_of
from ghn.config import GHNConfig

PREPROCESSING = Preprocessing((0.25,), (0.5,), ("hat", "shoe", "bag"))


@pytest.fixture(scope="module")
def hypernetwork(fresh: Hypernetwork) -> Hypernetwork:
    return dataclasses.replace(fresh, preprocessing=PREPROCESSING, step=12, held_out=(0.25, 3))


@pytest.fixture(scope="module")
def training() -> dict[str, Any]:
    return {"moments": jax.numpy.arange(6.0).reshape(2, 3), "step": jax.numpy.asarray(12, jax.numpy.int32)}


@pytest.fixture(scope="module")
def saved_file(hypernetwork: Hypernetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("file") / "good.safetensors"
    save_file(hypernetwork, path)
    return path


@pytest.fixture(scope="module")
def saved_run(hypernetwork: Hypernetwork, training: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    save_run(run, dataclasses.replace(hypernetwork, step=4), training)
    save_run(run, hypernetwork, training)
    return run


def assert_equal(found: Hypernetwork, expected: Hypernetwork) -> None:
    for field in dataclasses.fields(Hypernetwork):
        if field.name != "parameters":
            assert getattr(found, field.name) == getattr(expected, field.name), field.name
    assert jax.tree.structure(found.parameters) == jax.tree.structure(expected.parameters)
    jax.tree.map(np.testing.assert_array_equal, found.parameters, expected.parameters)


def described(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["description"])


def rewritten(source: Path, target: Path, description: Any) -> Path:
    """The file with another description (None: with none)."""
    text = description if isinstance(description, str) else json.dumps(description)
    save_safetensors(load_file(source), target, None if description is None else {"description": text})
    return target


def test_a_file_comes_back_equal(hypernetwork: Hypernetwork, saved_file: Path) -> None:
    assert_equal(load(saved_file), hypernetwork)
    assert_equal(load(str(saved_file), space=hypernetwork.space), hypernetwork)
    assert [path.name for path in saved_file.parent.iterdir()] == [saved_file.name]


def test_a_file_may_be_named_by_text_and_its_folder_is_made(hypernetwork: Hypernetwork, tmp_path: Path) -> None:
    save_file(hypernetwork, f"{tmp_path}/new/named.safetensors")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["named.safetensors"]


def test_a_file_of_half_precision_comes_back_close(hypernetwork: Hypernetwork, tmp_path: Path) -> None:
    save_file(hypernetwork, tmp_path / "half.safetensors", dtype="float16")
    assert {array.dtype for array in load_file(tmp_path / "half.safetensors").values()} == {np.dtype("float16")}
    found = load(tmp_path / "half.safetensors")
    for a, b in zip(jax.tree.leaves(found.parameters), jax.tree.leaves(hypernetwork.parameters), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", ["int8", "complex64", "half precision"])
def test_types_that_lose_numbers_are_refused(hypernetwork: Hypernetwork, tmp_path: Path, dtype: str) -> None:
    with pytest.raises(ValueError, match=f"dtype='{dtype}': .* use one of float16, float32, float64"):
        save_file(hypernetwork, tmp_path / "new" / "saved.safetensors", dtype=dtype)
    assert not list(tmp_path.iterdir())


def test_a_run_comes_back_equal(hypernetwork: Hypernetwork, saved_run: Path, training: Any) -> None:
    assert steps_of(saved_run) == [4, 12]
    assert_equal(load(saved_run), hypernetwork)
    blank = jax.tree.map(jax.numpy.zeros_like, (hypernetwork.parameters, training))
    parameters, restored = load_training(saved_run, 12, *blank)
    jax.tree.map(np.testing.assert_array_equal, parameters, hypernetwork.parameters)
    jax.tree.map(np.testing.assert_array_equal, restored, training)


def test_runs_of_smashs_network_come_back(tmp_path: Path) -> None:
    space = SMASH(input_shape=(6, 6, 1), classes=3, blocks=1, banks=(1, 2), layers=(1,), kernels=(3,), features=8)
    own = Hypernetwork.create(space, GHNConfig(network="smash", width=4, layers=2))
    save_run(tmp_path, own, {"step": np.zeros(1)})
    assert_equal(load(tmp_path), own)


def test_a_space_of_ones_own_has_to_be_given(tmp_path: Path, config: GHNConfig) -> None:
    own = CellSpace(channels=2, input_shape=(6, 6, 1), classes=3, stages=1, nodes=3, ops=(NONE, SKIP, CONV_1X1))
    hypernetwork = Hypernetwork.create(own, config)
    path = tmp_path / "own.safetensors"
    save_file(hypernetwork, path)
    with pytest.raises(CheckpointError, match=re.escape(str(path)) + r".*'cell'.*space="):
        load(path)
    assert_equal(load(path, space=own), hypernetwork)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(saved_file: Path, tmp_path: Path, share: float) -> None:
    content = saved_file.read_bytes()
    path = tmp_path / "cut.safetensors"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=re.escape(str(path)) + r".*damaged.*copy or train it again"):
        load(path)


def test_another_format_is_refused(saved_file: Path, saved_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", 3)
    for source in (saved_file, saved_run):
        with pytest.raises(CheckpointError, match=re.escape(str(source)) + r".*format 2, this version reads 3.*load"):
            load(source)


def test_another_space_is_refused(saved_file: Path, saved_run: Path, space: NASBench201) -> None:
    other = dataclasses.replace(space, channels=4)
    for source in (saved_file, saved_run):
        expected = re.escape(str(source)) + r".*'channels': 8.*'channels': 4.*use a space with those settings"
        with pytest.raises(CheckpointError, match=expected):
            load(source, space=other)


def test_a_file_without_a_description_is_refused(saved_file: Path, tmp_path: Path) -> None:
    path = rewritten(saved_file, tmp_path / "bare.safetensors", None)
    with pytest.raises(CheckpointError, match=re.escape(str(path)) + ".*no description"):
        load(path)


Change = Callable[[dict[str, Any]], Any]
CHANGES: dict[str, Change] = {
    "unknown space": lambda d: {**d, "space": {**d["space"], "name": "darts"}},
    "unknown space field": lambda d: {**d, "space": {**d["space"], "depth": 3}},
    "other vocabulary": lambda d: {**d, "vocabulary": d["vocabulary"][::-1]},
}
UNCHECKED: dict[str, Change] = {
    "no json": lambda d: "{not json",
    "no object": lambda d: [1, 2],
    "no space": lambda d: {key: value for key, value in d.items() if key != "space"},
    "no vocabulary": lambda d: {key: value for key, value in d.items() if key != "vocabulary"},
    "no step": lambda d: {key: value for key, value in d.items() if key != "step"},
    "unknown config field": lambda d: {**d, "config": {**d["config"], "depth": 3}},
    "unknown config value": lambda d: {**d, "config": {**d["config"], "encoding": "fourier"}},
    "unknown preprocessing": lambda d: {**d, "preprocessing": {"gamma": [1.0]}},
}


@pytest.mark.parametrize("name", [*CHANGES, *UNCHECKED])
def test_a_description_that_does_not_fit_is_refused(saved_file: Path, tmp_path: Path, name: str) -> None:
    change = {**CHANGES, **UNCHECKED}[name]
    path = rewritten(saved_file, tmp_path / "odd.safetensors", change(described(saved_file)))
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        load(path)


def test_tensors_that_do_not_fit_are_named(saved_file: Path, tmp_path: Path) -> None:
    metadata, tensors = {"description": json.dumps(described(saved_file))}, load_file(saved_file)
    name = next(iter(sorted(tensors)))
    path = tmp_path / "odd.safetensors"
    save_safetensors({key: value for key, value in tensors.items() if key != name}, path, metadata)
    with pytest.raises(CheckpointError, match=re.escape(str(path)) + ".*" + re.escape(name)):
        load(path)
    save_safetensors({**tensors, name: tensors[name][..., :-1].copy()}, path, metadata)
    with pytest.raises(CheckpointError, match=re.escape(f"{path}: {name} has shape")):
        load(path)


NEWER = (
    "message_relu",
    "layers",
    "heads",
    "layer_norm",
    "decoder",
    "scaling",
    "centre",
)  # fields that came after the first files


def test_files_older_than_a_field_of_the_configuration_load_with_its_default(
    hypernetwork: Hypernetwork, saved_file: Path, tmp_path: Path
) -> None:
    old = described(saved_file)
    old["config"] = {name: value for name, value in old["config"].items() if name not in NEWER}
    assert len(old["config"]) == len(dataclasses.fields(GHNConfig)) - len(NEWER)
    assert_equal(load(rewritten(saved_file, tmp_path / "old.safetensors", old)), hypernetwork)


def test_the_file_of_the_package_loads() -> None:
    """It was written before those fields were."""
    demo = load("demo")
    assert demo.config == GHNConfig() and demo.step == 6000
    weights = demo(demo.space.graph(demo.space.sample(0)))
    assert all(np.isfinite(array).all() for array in weights.arrays.values())


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"checkpoint 'no-such': no such run folder.*train one with ghn-train"):
        load("no-such")


def test_a_folder_without_checkpoints_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=re.escape(str(tmp_path)) + ".*no finished checkpoint.*ghn-train"):
        load(tmp_path)


def damaged(run: Path, file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # orbax drops tasks that failed too
def test_a_run_damaged_anywhere_is_refused_or_whole(
    hypernetwork: Hypernetwork, saved_run: Path, tmp_path: Path
) -> None:
    """Whichever file of the checkpoint was cut in half: a clear message, or a file that loading does not need."""
    last = saved_run / "checkpoints" / "12"
    files = sorted(path.relative_to(last) for path in last.rglob("*") if path.is_file() and path.stat().st_size)
    refused, wrong = 0, []
    for file in files:
        run = tmp_path / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(saved_run, run)
        damaged(run, run / "checkpoints" / "12" / file)
        try:
            assert_equal(load(run), hypernetwork)
        except CheckpointError as error:
            refused += str(run) in str(error)
        except Exception as error:  # noqa: BLE001 (collected, to name every file at once)
            wrong.append(f"{file}: {type(error).__name__}: {str(error)[:200]}")
    gc.collect()  # what orbax left behind is reported here, where it is expected
    assert not wrong, "\n".join(wrong)
    assert refused >= 2


def test_the_checkpoint_before_a_damaged_one_is_used_once_that_is_deleted(
    hypernetwork: Hypernetwork, saved_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(saved_run, run)
    shutil.rmtree(run / "checkpoints" / "12")
    assert_equal(load(run), dataclasses.replace(hypernetwork, step=4))


def test_a_save_that_fails_leaves_the_file_as_it_was(
    hypernetwork: Hypernetwork, trained: Hypernetwork, saved_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kept.safetensors"
    shutil.copy(saved_file, path)

    def full(tensors: Any, target: Path, metadata: Any) -> None:
        Path(target).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_safetensors", full)
    with pytest.raises(OSError, match="No space left"):
        save_file(trained, path)
    assert_equal(load(path), hypernetwork)
    monkeypatch.undo()
    save_file(trained, path)
    assert_equal(load(path), trained)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
