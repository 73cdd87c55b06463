"""Every proxy against its formula, written out on a network that is written out (`plain.py`)."""

import itertools
import math
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from architectures.spaces import SMASH, NASBench201
from eval.proxies import PROXIES, TracedModel, missing, score, score_model
from eval.proxies.az_nas import PARTS, aggregate

_spec = spec_from_file_location("plain", Path(__file__).parent / "plain.py")
assert _spec is not None and _spec.loader is not None
plain = module_from_spec(_spec)
_spec.loader.exec_module(plain)

SPACE = NASBench201(nodes=3, channels=2, stages=2, cells=1, input_shape=(6, 6, 1), classes=3)
CELL = SPACE.from_string("|nor_conv_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|")
OTHER = SPACE.from_string("|nor_conv_3x3~0|+|skip_connect~0|nor_conv_3x3~1|")
RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((5, 6, 6, 1)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1])
SEED = 3
Tree = dict[str, Any]


@pytest.fixture(scope="module")
def scores() -> dict[str, np.ndarray]:
    return score(SPACE, [CELL, OTHER], IMAGES, LABELS, initialisations=1, seed=SEED)


@pytest.fixture(scope="module")
def weights() -> Tree:
    return plain.random_weights(SPACE, CELL, jax.random.key(SEED))


def kernels(tree: Tree) -> list[np.ndarray]:
    return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree) if leaf.ndim >= 2]


def gradient(weights: Tree, images: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    network = plain.Plain(SPACE, CELL)

    def loss(weights: Tree) -> jax.Array:
        logp = jax.nn.log_softmax(network(weights, images))
        return -sum(logp[row, label] for row, label in enumerate(labels)) / len(labels)

    return kernels(jax.grad(loss)(weights))


def relu_inputs(weights: Tree) -> list[np.ndarray]:
    network = plain.Plain(SPACE, CELL)
    network(weights, IMAGES)
    return [np.asarray(x).reshape(len(IMAGES), -1) for x in network.relus]


def blocks(weights: Tree) -> list[np.ndarray]:
    network = plain.Plain(SPACE, CELL)
    network(weights, IMAGES)
    return [np.asarray(x, np.float64) for x in network.blocks]


def eigen_score(correlation: np.ndarray) -> float:
    return -sum(math.log(value + 1e-5) + 1 / (value + 1e-5) for value in np.linalg.eigvals(correlation).real)


def params(weights: Tree) -> float:
    return sum(leaf.size for leaf in jax.tree.leaves(weights))


def flops(weights: Tree) -> float:
    conv_positions = {"3x3": 9, "1x1": 1}
    total = 36 * 9 * 1 * 2  # stem
    total += 9 * 9 * 2 * 4 + 9 * 9 * 4 * 4 + 9 * 2 * 4  # residual block to 3 x 3 pixels, its shortcut
    for pixels, channels in ((36, 2), (9, 4)):
        total += sum(pixels * conv_positions[op[-3:]] * channels**2 for op in CELL.edges if op.startswith("nor"))
    return 2 * (total + 4 * 3)


def grad_norm(weights: Tree) -> float:
    return sum(np.sqrt((g**2).sum()) for g in gradient(weights, IMAGES, LABELS))


def snip(weights: Tree) -> float:
    pairs = zip(kernels(weights), gradient(weights, IMAGES, LABELS), strict=True)
    return sum(np.abs(w * g).sum() for w, g in pairs)


def synflow(weights: Tree) -> float:
    with jax.enable_x64(True):
        drawn = jax.tree.map(jnp.abs, plain.random_weights(SPACE, CELL, jax.random.key(SEED)))
        network = plain.Plain(SPACE, CELL, normalised=False)
        gradients = jax.grad(lambda w: network(w, jnp.ones((1, 6, 6, 1))).sum())(drawn)
        pairs = zip(kernels(drawn), kernels(gradients), strict=True)
        return math.log(sum((w * g).sum() for w, g in pairs))


def jacov(weights: Tree) -> float:
    network = plain.Plain(SPACE, CELL)
    rows = np.asarray(jax.grad(lambda x: network(weights, x).sum())(jnp.asarray(IMAGES)), np.float64)
    return eigen_score(np.corrcoef(rows.reshape(len(IMAGES), -1)))


def nwot(weights: Tree) -> float:
    kernel = np.zeros((len(IMAGES), len(IMAGES)))
    for x in relu_inputs(weights):
        for i in range(len(IMAGES)):
            for j in range(len(IMAGES)):
                kernel[i, j] += ((x[i] > 0) == (x[j] > 0)).sum()
    return math.log(abs(np.linalg.det(kernel)))


def gradsign(weights: Tree) -> float:
    signs = [[np.sign(g) for g in gradient(weights, IMAGES[i : i + 1], LABELS[i : i + 1])] for i in range(len(IMAGES))]
    return sum(np.abs(sum(own)).sum() for own in zip(*signs, strict=True))


def swap(weights: Tree) -> float:
    return len({tuple(column) for x in relu_inputs(weights) for column in (x > 0).T})


def swap_regularised(weights: Tree) -> float:
    rng = np.random.default_rng(0)
    largest = max(SPACE.cost(SPACE.sample(rng)).parameters for _ in range(256)) / 1000
    return swap(weights) * math.exp(-((params(weights) / 1000 - largest) ** 2) / largest**2)


def entropies(weights: Tree) -> list[float]:
    result = []
    for y in blocks(weights):
        spectrum = np.linalg.eigvalsh(np.cov(y.reshape(-1, y.shape[-1]), rowvar=False))
        share = spectrum / spectrum.sum()
        result.append(-sum(p * math.log(p + 1e-8) for p in share))
    return result


def az_expressivity(weights: Tree) -> float:
    return sum(entropies(weights))


def az_progressivity(weights: Tree) -> float:
    values = entropies(weights)
    return min(later - earlier for earlier, later in itertools.pairwise(values))


def az_trainability(weights: Tree) -> float:
    network, outputs = plain.Plain(SPACE, CELL), blocks(weights)
    key, values = jax.random.fold_in(jax.random.key(SEED), 1), []
    for number in range(1, len(outputs)):
        out = np.asarray(jax.random.rademacher(jax.random.fold_in(key, number), outputs[number].shape, np.float32))
        run = lambda x, number=number: network.run_block(weights, number, x)  # noqa: E731
        into = np.asarray(jax.vjp(run, jnp.asarray(outputs[number - 1], np.float32))[1](out)[0])
        factor, matrix = into.shape[1] // out.shape[1], 0
        for b, i, j in np.ndindex(out.shape[:3]):
            square = into[b, i * factor : (i + 1) * factor, j * factor : (j + 1) * factor].reshape(-1)
            matrix = matrix + np.outer(square, out[b, i, j])
        largest = np.linalg.norm(matrix / math.prod(out.shape[:3]), 2)
        values.append(2 - largest - 1 / (largest + 1e-6))
    return float(np.mean(values))


def hidden_covariance(weights: Tree) -> float:
    return eigen_score(np.corrcoef(blocks(weights)[-1].reshape(len(IMAGES), -1)))


REFERENCES: dict[str, Callable[[Tree], float]] = {
    "params": params,
    "flops": flops,
    "grad_norm": grad_norm,
    "snip": snip,
    "synflow": synflow,
    "jacov": jacov,
    "nwot": nwot,
    "gradsign": gradsign,
    "swap": swap,
    "swap_regularised": swap_regularised,
    "az_expressivity": az_expressivity,
    "az_progressivity": az_progressivity,
    "az_trainability": az_trainability,
    "az_complexity": flops,
    "hidden_covariance": hidden_covariance,
}


def test_every_proxy_has_a_reference() -> None:
    assert list(REFERENCES) == list(PROXIES)


@pytest.mark.parametrize("name", REFERENCES)
def test_equals_its_formula_on_a_plain_network(name: str, scores: dict[str, np.ndarray], weights: Tree) -> None:
    np.testing.assert_allclose(scores[name][0], REFERENCES[name](weights), rtol=2e-3)


def test_a_traced_model_has_the_scores_of_the_same_network_in_a_space(scores: dict[str, np.ndarray]) -> None:
    model = TracedModel(
        init=lambda key: plain.random_weights(SPACE, CELL, key),
        apply=plain.Plain(SPACE, CELL),
        unnormalised=plain.Plain(SPACE, CELL, normalised=False),
    )
    rng = np.random.default_rng(0)
    largest = max(SPACE.cost(SPACE.sample(rng)).parameters for _ in range(256))
    traced = score_model(model, IMAGES, LABELS, initialisations=1, seed=SEED, largest=largest)
    assert list(traced) == list(PROXIES)
    for name, value in traced.items():
        np.testing.assert_allclose(value, scores[name][0], rtol=2e-3, err_msg=name)


def test_az_nas_adds_logarithms_of_ranks(scores: dict[str, np.ndarray]) -> None:
    columns = {"az_expressivity": [3.0, 1.0, 2.0], "az_progressivity": [1.0, 2.0, 3.0]}
    columns |= {"az_trainability": [np.nan, 1.0, 2.0], "az_complexity": [5.0, 5.0, 9.0]}
    ranks = np.array([[3, 1, 2], [1, 2, 3], [1, 2, 3], [1.5, 1.5, 3]])
    np.testing.assert_allclose(aggregate([columns[name] for name in PARTS]), np.log(ranks / 3).sum(0))
    np.testing.assert_allclose(scores["az_nas"], aggregate([scores[name] for name in PARTS]))


def test_initialisations_are_averaged_and_seeds_differ(scores: dict[str, np.ndarray]) -> None:
    both = score(SPACE, [CELL], IMAGES, LABELS, initialisations=2, seed=SEED)
    second = score(SPACE, [CELL], IMAGES, LABELS, initialisations=1, seed=SEED + 1)
    for name in ("grad_norm", "nwot", "synflow", "az_trainability"):
        np.testing.assert_allclose(both[name], (scores[name][:1] + second[name]) / 2, rtol=1e-6)
        assert scores[name][0] != second[name][0]


def test_a_value_that_is_not_finite_is_nan_and_counted() -> None:
    skips = SPACE.from_string("|skip_connect~0|+|none~0|skip_connect~1|")
    columns = score(SPACE, [CELL, skips], IMAGES, LABELS, initialisations=1, seed=SEED)
    assert {name for name, count in missing(columns).items() if count} == {"az_trainability"}
    assert missing(columns)["az_trainability"] == 1


def test_smash_networks_have_all_scores() -> None:
    space = SMASH(
        input_shape=(6, 6, 1),
        classes=3,
        blocks=1,
        banks=(1, 2),
        layers=(1,),
        channels=(2,),
        kernels=(3,),
        dilations=(1,),
    )
    names = ("az_expressivity", "az_trainability", "hidden_covariance", "swap")
    columns = score(space, [space.sample(0), space.sample(1)], IMAGES, LABELS, names, initialisations=1)
    assert sum(missing(columns).values()) == 0


def linear(weights: jax.Array, x: jax.Array) -> jax.Array:
    return x.reshape(len(x), -1) @ weights


def normalised(weights: jax.Array, x: jax.Array) -> jax.Array:
    return linear(weights, x * jax.lax.rsqrt(1 + x.var()))


@pytest.mark.parametrize(
    ("apply", "name", "message"),
    [(linear, "nwot", "ReLU"), (linear, "hidden_covariance", "mark the output"), (normalised, "synflow", "rsqrt")],
)
def test_a_model_that_lacks_what_a_proxy_needs_is_refused(apply: Callable[..., Any], name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_model(TracedModel(lambda key: jnp.ones((36, 3)), apply), IMAGES, LABELS, [name])


def test_relus_in_a_scan_are_seen_at_every_step() -> None:
    def init(key: jax.Array) -> jax.Array:
        return jax.random.normal(key, (3, 36, 36)) / 6

    def scanned(p: jax.Array, x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda h, w: (jax.nn.relu(h @ w), None), x.reshape(len(x), -1), p)[0][:, :3]

    def unrolled(p: jax.Array, x: jax.Array) -> jax.Array:
        h = x.reshape(len(x), -1)
        for w in p:
            h = jnp.maximum(0, h @ w)
        return h[:, :3]

    names = ("nwot", "swap", "flops")
    both = [score_model(TracedModel(init, apply), IMAGES, LABELS, names, 1) for apply in (scanned, unrolled)]
    assert both[0] == pytest.approx(both[1])
    assert both[0]["flops"] == 2 * 3 * 36 * 36


def test_bad_arguments_name_themselves() -> None:
    with pytest.raises(ValueError, match="unknown 'nwott'"):
        score(SPACE, [CELL], IMAGES, LABELS, ["nwott"])
    with pytest.raises(ValueError, match="initialisations=0"):
        score(SPACE, [CELL], IMAGES, LABELS, ["nwot"], initialisations=0)
    with pytest.raises(ValueError, match="5 with 4 labels"):
        score(SPACE, [CELL], IMAGES, LABELS[:4], ["nwot"])
