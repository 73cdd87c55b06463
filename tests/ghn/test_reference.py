"""The ghn2 preset reproduces GHN-2: equal weights predict equal parameters, from the graph on.

Held against a small fixture, which a plain NumPy implementation computed (`fixtures/make_ghn2_small.py`), and against
values of GHN-2 itself for a ResNet-18, where they are beside the checkout.
"""

import dataclasses
import runpy
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from architectures.graph import ArchGraph, GraphBuilder, Place
from architectures.layout import LeafGroup
from architectures.ops import Leaf
from ghn import presets
from ghn.features import GraphInputs, graph_inputs
from ghn.hypernetwork import GHN, vocabulary_ids
from ghn.reference import ReferenceKernelDecoder, reference_decoders, reference_scale

FIXTURES = Path(__file__).parent / "fixtures"
ORACLE = Path(__file__).resolve().parents[3] / "shared" / "oracles" / "ghn2_resnet18.npz"
NUMPY = runpy.run_path(str(FIXTURES / "make_ghn2_small.py"))
PRIMITIVES = (
    *("max_pool", "avg_pool", "sep_conv", "dil_conv", "conv", "msa", "cse", "sum", "concat", "input", "bias", "bn"),
    *("ln", "pos_enc", "glob_avg"),
)
OWNERSHIP = dict[str, tuple[int, tuple[int, ...]]]  # of parameters: name -> (node, shape as PyTorch has it)


def resnet18_owners() -> dict[str, int]:
    """Module -> node, in the order of GHN-2's graph: a shortcut's nodes follow those that start at the same time."""
    owners, node = {"conv1": 1, "bn1": 2}, 3
    for layer, block in [(layer, block) for layer in (1, 2, 3, 4) for block in (0, 1)]:
        names = ["conv1", "bn1", "conv2", "bn2"]
        if layer > 1 and block == 0:
            names = ["conv1", "downsample.0", "bn1", "downsample.1", "conv2", "bn2"]
        owners |= {f"layer{layer}.{block}.{name}": node + index for index, name in enumerate(names)}
        node += len(names) + 1  # the sum
    return owners | {"fc.weight": node + 1, "fc.bias": node + 2}  # after the pooling; two nodes


@dataclasses.dataclass(frozen=True)
class Case:
    """What a GHN-2 computed for one network."""

    values: Mapping[str, Any]
    parameters: OWNERSHIP

    @property
    def sd(self) -> dict[str, Any]:
        return {name[3:]: value for name, value in self.values.items() if name.startswith("sd/")}


@pytest.fixture(scope="module")
def small() -> Case:
    return Case(dict(np.load(FIXTURES / "ghn2_small.npz")), NUMPY["PARAMETERS"])


@pytest.fixture(scope="module")
def resnet18() -> Case:
    if not ORACLE.exists():
        pytest.skip(f"the reference values of GHN-2 are not beside the checkout ({ORACLE})")
    values, owners = dict(np.load(ORACLE)), resnet18_owners()
    names = [name.removeprefix("pred/") for name in values if name.startswith("pred/")]
    owned = {n: (owners.get(n, owners.get(n.rpartition(".")[0], -1)), values[f"pred/{n}"].shape) for n in names}
    return Case(values, owned)


@pytest.fixture(params=["small", "resnet18"])
def case(request: pytest.FixtureRequest) -> Case:
    return request.getfixturevalue(request.param)


def leaf_of(name: str, shape: tuple[int, ...]) -> Leaf:
    last, weight = name.startswith("fc."), name.endswith("weight")
    if len(shape) == 4:
        return Leaf("kernel", (*shape[2:], shape[1], shape[0]))
    if len(shape) == 2:
        return Leaf("head_kernel", shape[::-1])
    return Leaf("scale" if weight else "head_bias" if last else "bias", shape)


def layout_of(parameters: OWNERSHIP) -> tuple[dict[str, LeafGroup], dict[str, Place]]:
    """Leaves of one role and shape side by side, and the place of each."""
    slots: dict[Leaf, list[str]] = {}
    for name, (_, shape) in parameters.items():
        slots.setdefault(leaf_of(name, shape), []).append(name)
    layout = {str(leaf): LeafGroup(str(leaf), len(names), (leaf,)) for leaf, names in slots.items()}
    return layout, {n: Place(str(leaf), slot, 0) for leaf, names in slots.items() for slot, n in enumerate(names)}


def graph_of(case: Case, places: dict[str, Place]) -> ArchGraph:
    """GHN-2's graph: a node says of itself the shape of its first tensor."""
    builder = GraphBuilder()
    edges = case.values["edges"].astype(int)
    for node, (primitive, _) in enumerate(case.values["node_feat"]):
        shape = next((shape for owner, shape in case.parameters.values() if owner == node), (1,))
        outputs, inputs, height, _ = (*shape, 1, 1, 1)[:4]
        sources = edges[(edges[:, 1] == node) & (edges[:, 2] == 1), 0].tolist()
        sizes = {"channels_in": inputs, "channels_out": outputs, "kernel": height}
        builder.node(PRIMITIVES[int(primitive)], sources, **sizes)
    for name, (owner, shape) in case.parameters.items():
        builder.parameter((name,), owner, leaf_of(name, shape), places[name])
    return builder.build()


def module_of(case: Case, layout: Mapping[str, LeafGroup], schedule: tuple[int, int]) -> GHN:
    """The preset at the case's size, with the case's weights."""
    sd = case.sd
    sizes = {
        "width": sd["embed.weight"].shape[1],
        "message_width": len(sd["gnn.mlp.fc.0.weight"]),
        "hidden": sd["decoder.conv.0.weight"].shape[1],
        "tile": round(len(sd["decoder.conv.2.weight"]) ** 0.5),
        "kernel_tile": round((len(sd["decoder.fc.0.weight"]) / sd["decoder.conv.0.weight"].shape[1]) ** 0.5),
    }
    space: Any = SimpleNamespace(
        op_names=PRIMITIVES, layout=layout, schedule=schedule, classes=len(sd["bias_class.1.bias"])
    )
    config = dataclasses.replace(presets.ghn2(), **sizes)
    module = nnx.eval_shape(lambda: GHN(config, space, rngs=nnx.Rngs(0)))
    load(module, sd)
    return module


def load(module: Any, sd: dict[str, Any]) -> None:
    """Sets the weights of a preset from GHN-2's state dict, each of them once."""
    left = dict(sd)
    size, tile = module.config.kernel_tile, module.config.tile

    def assign(parameter: Any, value: Any) -> None:
        assert parameter.get_value().shape == value.shape
        parameter.set_value(jnp.asarray(value, jnp.float32))

    def linear(layer: nnx.Linear, name: str) -> None:
        weight = left.pop(f"{name}.weight")
        assign(layer.kernel, weight.reshape(len(weight), -1).T)
        assign(layer.bias, left.pop(f"{name}.bias"))

    def reordered(name: str, old: tuple[int, ...], axes: tuple[int, ...]) -> None:
        """The outputs of a layer, of shape `old`, in another order of axes."""
        for key in (f"{name}.weight", f"{name}.bias"):
            value = left[key].reshape(*old, -1)
            left[key] = value.transpose(*axes, len(old)).reshape(left[key].shape)

    reordered("decoder.fc.0", (module.config.hidden, size, size), (1, 2, 0))
    reordered("decoder.conv.2", (tile, tile), (1, 0))
    assign(module.encoder.embedding, np.pad(left.pop("embed.weight"), ((1, 0), (0, 0))))  # row 0: empty places
    assign(module.encoder.channels, left.pop("shape_enc.embed_channel.weight"))
    assign(module.encoder.kernels, left.pop("shape_enc.embed_spatial.weight"))
    gru = module.propagation.gru
    for layer, side in ((gru.input, "ih"), (gru.state, "hh")):
        assign(layer.kernel, left.pop(f"gnn.gru.weight_{side}").T)
        assign(layer.bias, left.pop(f"gnn.gru.bias_{side}"))
    for name, layers in (("mlp", module.propagation.edge_message), ("mlp_ve", module.propagation.virtual_message)):
        linear(layers[0], f"gnn.{name}.fc.0")
        linear(layers[1], f"gnn.{name}.fc.2")
    assign(module.norm.scale, left.pop("ln.weight"))
    assign(module.norm.bias, left.pop("ln.bias"))
    linear(module.kernel.positions, "decoder.fc.0")
    linear(module.kernel.mix, "decoder.conv.0")
    linear(module.kernel.channels, "decoder.conv.2")
    linear(module.head_kernel.classes, "decoder.class_layer_predictor.1")
    linear(module.scale.vectors.hidden, "decoder_1d.fc.0")
    linear(module.scale.vectors.output, "decoder_1d.fc.2")
    linear(module.head_bias.classes, "bias_class.1")
    assert not left


def run(module: Any, method: Any, *args: Any) -> Any:
    """`method(module, *args)`, compiled with the weights as arguments."""
    definition, parameters = nnx.split(module)
    compiled = jax.jit(lambda parameters, *args: method(nnx.merge(definition, parameters), *args))
    return compiled(parameters, *args)


def inputs_of(graph: ArchGraph, layout: Mapping[str, LeafGroup], schedule: tuple[int, int]) -> GraphInputs:
    return graph_inputs(graph, layout, vocabulary_ids(PRIMITIVES), schedule)


def as_pytorch(leaf: Any) -> Any:
    """A leaf in PyTorch's layout."""
    return np.transpose(leaf, (3, 2, 0, 1) if leaf.ndim == 4 else None)


def test_every_predicted_tensor_is_ghn2s(case: Case) -> None:
    layout, places = layout_of(case.parameters)
    graph = graph_of(case, places)
    lengths = np.zeros_like(graph.distances)
    edges = case.values["edges"].astype(int)
    lengths[edges[:, 0], edges[:, 1]] = edges[:, 2]
    np.testing.assert_array_equal(graph.distances, lengths)
    schedule = int(graph.levels.max()) + 2, int(np.bincount(graph.levels).max()) + 1
    module = module_of(case, layout, schedule)
    weights = run(module, lambda module, inputs: module(inputs), inputs_of(graph, layout, schedule))
    count = 0
    for name, place in places.items():
        expected = case.values[f"pred/{name}"]
        found = as_pytorch(np.asarray(weights[place.group][place.slot]))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5, err_msg=name)
        assert np.abs(expected).max() > 1e-3
        count += expected.size
    assert count == sum(value.size for name, value in case.values.items() if name.startswith("pred/"))


def test_sweeps_give_ghn2s_states(case: Case) -> None:
    _, places = layout_of(case.parameters)
    graph = graph_of(case, places)
    nodes, x = graph.nodes, case.values["x"]
    module = module_of(case, {}, (nodes, 1))  # one node a step: places are nodes
    present = np.ones(nodes, bool)
    states = run(module, lambda module, *args: module.propagation(*args, (nodes, 1), present), x, graph.distances)
    np.testing.assert_allclose(states, case.values["gnn_out"], rtol=0, atol=1e-5)


def test_the_preset_has_ghn2s_parameters_and_no_others(resnet18: Case) -> None:
    """1.6 million: those of shared decoders once; one row of the embedding, for empty places, is our own."""
    module = module_of(resnet18, {}, (1, 1))
    assert module.config == presets.ghn2()
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))
    assert count - module.config.width == sum(value.size for value in resnet18.sd.values())


def test_the_fixture_is_what_its_script_makes(small: Case) -> None:
    made = NUMPY["make"]()
    assert made.keys() == small.values.keys()
    for name, value in made.items():
        np.testing.assert_allclose(small.values[name], value, rtol=0, atol=1e-6, err_msg=name)


def test_the_fixtures_script_computes_what_ghn2_does(resnet18: Case) -> None:
    sd = {name: value.astype(np.float64) for name, value in resnet18.sd.items()}
    edges = resnet18.values["edges"]
    states = NUMPY["gated_sweeps"](sd, resnet18.values["x"], edges)
    np.testing.assert_allclose(states, resnet18.values["gnn_out"], rtol=0, atol=1e-5)
    embedded = NUMPY["embed"](sd, resnet18.values["node_feat"][:, 0], resnet18.parameters)
    some = {name: owned for index, (name, owned) in enumerate(resnet18.parameters.items()) if index % 5 == 0}
    some |= {name: resnet18.parameters[name] for name in ("fc.weight", "fc.bias")}
    for name, value in NUMPY["predict_all"](sd, NUMPY["gated_sweeps"](sd, embedded, edges), some).items():
        np.testing.assert_allclose(value, resnet18.values[f"pred/{name}"], rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(("form", "start"), [("ghn2", {1: 0, 2: 0, 3: 0, 5: 0}), ("ghn3", {1: 3, 2: 2, 3: 2, 5: 1})])
def test_smaller_kernels_are_cut_from_the_whole_tile(form: str, start: dict[int, int]) -> None:
    """At its front in GHN-2, at its centre in GHN-3; nothing else changes, though the weights are cut first."""
    centre = form == "ghn3"
    decoder = ReferenceKernelDecoder(8, 16, tile=6, kernel_tile=6, centre=centre, rngs=nnx.Rngs(0))
    states = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8)), jnp.float32)
    definition, parameters = nnx.split(decoder)
    decode = jax.jit(lambda shape: nnx.merge(definition, parameters)(states, shape), static_argnums=0)
    whole = decode((6, 6, 6, 6))
    for kh, kw, inputs, outputs in [(1, 1, 6, 6), (3, 3, 2, 5), (1, 5, 6, 1), (2, 3, 1, 6)]:
        rows, columns = slice(start[kh], start[kh] + kh), slice(start[kw], start[kw] + kw)
        expected = whole[:, rows, columns, :inputs, :outputs]
        np.testing.assert_allclose(decode((kh, kw, inputs, outputs)), expected, atol=1e-6)


@pytest.mark.parametrize("role", ["kernel", "head_kernel", "scale", "bias", "head_bias"])
def test_larger_tensors_repeat_the_tile(role: Any) -> None:
    config = dataclasses.replace(presets.ghn2(), width=8, hidden=8, tile=4, kernel_tile=3)
    decoder = reference_decoders(config, 4, rngs=nnx.Rngs(0))[role]
    states = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8)), jnp.float32)
    shape = {"kernel": (3, 3, 4, 4), "head_kernel": (4, 4)}.get(role, (4,))
    once, larger = decoder(states, shape), tuple(2 * size + 1 for size in shape)
    index = np.ix_([0, 1], *(np.arange(size) % (size // 2) for size in larger))
    np.testing.assert_array_equal(decoder(states, larger), np.asarray(once)[index])


@pytest.mark.parametrize(
    ("leaf", "beta"),
    [
        (Leaf("kernel", (3, 3, 8, 16)), 2),
        (Leaf("kernel", (3, 3, 1, 16)), 1),  # depthwise
        (Leaf("kernel", (1, 7, 8, 8)), 1),
        (Leaf("kernel", (7, 1, 8, 8)), 2),
        (Leaf("head_kernel", (64, 10)), 2),
        (Leaf("head_kernel", (1, 10)), 2),
    ],
    ids=str,
)
def test_scales(leaf: Leaf, beta: int) -> None:
    np.testing.assert_allclose(reference_scale(leaf), np.sqrt(beta / leaf.fan_in))
