"""The command line: a model's name in, a file of weights out."""

from __future__ import annotations

import io
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from orbax.checkpoint import v1 as ocp
from rich.console import Console
from safetensors.numpy import load_file

import ghn
from eval.predict import PredictConfig, load_model, parse_input, predict
from ghn.anymodel.files import save_open

SOURCE = """
import flax.linen as nn
from flax import nnx


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3))(x))
        return nn.Dense(3)(nn.relu(x).mean((1, 2)))


net = Net()
number = 3


def linear():
    return nnx.Linear(4, 3, rngs=nnx.Rngs(0))


def sized(width, *, depth, bias=True):
    return linear()
"""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "models_of_a_user.py").write_text(SOURCE)
    save_open(ghn.OpenHypernetwork.create(), tmp_path / "open.safetensors")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_weights_go_into_files(models: Path) -> None:
    console = Console(file=io.StringIO())
    config = PredictConfig(input=("1x8x8x3",), checkpoint="open.safetensors", strict=True)
    predict("models_of_a_user:net", config, models / "out" / "weights.safetensors", console)
    weights = load_file(models / "out" / "weights.safetensors")
    expected = ghn.predict(
        load_model("models_of_a_user:net"),
        jax.ShapeDtypeStruct((1, 8, 8, 3), np.float32),
        hypernetwork=ghn.load("open.safetensors"),
    )
    statistics = {"batch_stats/BatchNorm_0/mean", "batch_stats/BatchNorm_0/var"}
    assert set(weights) == {f"params/{row.path}" for row in expected.report.rows} | statistics
    np.testing.assert_array_equal(weights["params/Conv_0/kernel"], expected.params["Conv_0"]["kernel"])
    np.testing.assert_array_equal(weights["batch_stats/BatchNorm_0/var"], np.ones(4))

    config = PredictConfig(input=("2x4",), checkpoint="open.safetensors")
    predict("models_of_a_user:linear", config, models / "folder", console)
    linear, inputs = load_model("models_of_a_user:linear"), np.ones((2, 4), np.float32)
    module = ghn.predict(linear, inputs, hypernetwork=ghn.load("open.safetensors")).model
    assert isinstance(module, nnx.Linear)
    like = jax.tree.map(jax.numpy.zeros_like, nnx.to_pure_dict(nnx.state(module)))
    np.testing.assert_array_equal(ocp.load(models / "folder", like)["kernel"], module.kernel.get_value())


def test_bad_names_and_inputs_say_what_is_wrong(models: Path) -> None:
    for text, message in (
        ("models_of_a_user", "give module:attribute"),
        ("no_such_module:x", "cannot import 'no_such_module'"),
        ("models_of_a_user:x", "has no 'x'"),
        ("models_of_a_user:sized", r"needs arguments \(width, depth\); name a module"),
        ("models_of_a_user:number", "int is neither a Linen nor an NNX module"),
    ):
        with pytest.raises(ValueError, match=message):
            load_model(text)
    assert parse_input("1x128:int32") == jax.ShapeDtypeStruct((1, 128), np.int32)
    for text in ("1xx3", "1x3:floaty", ""):
        with pytest.raises(ValueError, match="write a shape as 1x32x32x3"):
            parse_input(text)
    console = Console(quiet=True)
    config = PredictConfig(input=("1x8x8x3", "1x8x8x3", "3"))
    with pytest.raises(ValueError, match="argument"):
        predict("models_of_a_user:net", config, models / "w.safetensors", console)
    with pytest.raises(ValueError, match=r"models_of_a_user:net' called with --input 1x32 .*broadcast"):
        predict("models_of_a_user:net", PredictConfig(input=("1x32",)), models / "w.safetensors", console)


def test_only_earlier_predictions_are_replaced(models: Path) -> None:
    def run(out: Path) -> None:
        config = PredictConfig(input=("2x4",), checkpoint="open.safetensors")
        predict("models_of_a_user:linear", config, out, Console(quiet=True))

    mine = models / "mine"
    mine.mkdir()
    run(mine)  # an empty folder
    run(mine)
    assert ocp.is_orbax_checkpoint(mine)
    (mine / "thesis.tex").write_text("years of work")
    other = models / "other"
    ocp.save(other, {"step": np.ones(1)})  # somebody's checkpoint
    for out, message in (
        (mine, "mine holds something else than an earlier prediction"),
        (other, "other holds something else"),
        (models, "choose another --out"),
        (models / "w.npz", "ends in .npz; give a .safetensors file"),
        (models / "w.onnx", "ends in .onnx"),
    ):
        with pytest.raises(ValueError, match=message):
            predict("no_such_module:x", PredictConfig(), out, Console(quiet=True))  # before anything is loaded
    assert (mine / "thesis.tex").read_text() == "years of work"
    np.testing.assert_array_equal(ocp.load(other)["step"], np.ones(1))
    (models / "file").write_text("text")
    with pytest.raises(ValueError, match="is a file"):
        run(models / "file")
