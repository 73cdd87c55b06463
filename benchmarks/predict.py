"""How long do all weights of an unseen model take? CPU ms on one thread, split; memory; how cost grows.

    python benchmarks/predict.py            # some two minutes on an idle core
    python benchmarks/predict.py --quick    # the same keys, fewer repeats and sizes

For ResNet-18 and ResNet-50, in a process of its own each: the first call; then a *new* model of the same depth and
another width, so that no leaf has a shape seen before; then that model again, with the hypernetwork run again. Tracing
(JAX's own part: `jax.make_jaxpr`) is reported apart from the graph, the hypernetwork and emission. Times are CPU time
of the process. PyTorch's peers on one idle thread, graph + forward: ResNet-18 62 (GHN-2) and 75 ms (GHN-3-T), ResNet-50
150 and 183 ms.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from common import finish, in_fresh_process, peak_mb
from models import Chain, resnet18, resnet50

PEERS = {"resnet18": (62, 75), "resnet50": (150, 183)}
MAKERS = {"resnet18": resnet18, "resnet50": resnet50}
IMAGE = (1, 224, 224, 3)
WIDTHS = (60, 68, 62, 66, 64)  # of new models: none has a leaf's shape in common with another


def measure(name: str, repeats: int) -> dict[str, float]:
    """All figures of one model, in this process."""
    import ghn

    hypernetwork = ghn.OpenHypernetwork.create()
    image = jax.ShapeDtypeStruct(IMAGE, jnp.float32)

    def predicted(width: int) -> tuple[float, dict[str, float]]:
        start = time.process_time()
        prediction = ghn.predict(MAKERS[name](width), image, hypernetwork=hypernetwork)
        jax.block_until_ready(prediction.params)
        return time.process_time() - start, prediction.seconds

    first, _ = predicted(56)
    new = [predicted(width)[1] for width in WIDTHS]
    again = [predicted(WIDTHS[-1])[1] for _ in range(repeats)]
    parts = ("trace", "graph", "hypernetwork", "emission")
    row = {f"{part}_ms": 1000 * statistics.median(one[part] for one in new) for part in parts}
    row["emit_ms"] = row.pop("emission_ms")
    row["new_ms"] = 1000 * statistics.median(sum(one.values()) - one["trace"] for one in new)
    row["again_ms"] = 1000 * statistics.median(sum(s.values()) - s["trace"] for s in again)
    row["first_ms"] = 1000 * first
    return {key: round(value, 1) for key, value in row.items()}


def measure_size(blocks: int, width: int) -> dict[str, float]:
    """Cost of one chain, in this process; memory is what prediction added beyond the weights that it returned."""
    import ghn

    hypernetwork = ghn.OpenHypernetwork.create()
    inputs = jax.ShapeDtypeStruct((1, width), jnp.float32)
    ghn.predict(Chain(2, 8), jax.ShapeDtypeStruct((1, 8), jnp.float32), hypernetwork=hypernetwork)
    before = peak_mb()
    prediction = ghn.predict(Chain(blocks, width), inputs, hypernetwork=hypernetwork)
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(prediction.params)) / 1e6
    return {
        "nodes": prediction.graph.nodes,
        "edges": len(prediction.graph.edges),
        "parameters": prediction.graph.parameter_count,
        **{f"{part}_ms": round(1000 * seconds, 1) for part, seconds in prediction.seconds.items()},
        "weights_mb": round(weights, 1),
        "added_mb": round(peak_mb() - before - weights, 1),
    }


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats, smaller sizes")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"  # for the processes that measure
    repeats = 3 if options.quick else 9
    results: dict[str, Any] = {name: in_fresh_process(measure, name, repeats) for name in MAKERS}
    sizes = [(10, 64), (40, 64), (200, 64), (10, 512)]  # 200 blocks: 1,000 nodes
    if not options.quick:
        sizes += [(400, 64), (10, 1024), (10, 2048), (30, 2896)]  # the last: 500 M parameters
    results["scaling"] = [in_fresh_process(measure_size, *size) for size in sizes]
    header = [
        "model",
        "first",
        "JAX's tracing",
        "graph",
        "hypernetwork",
        "emission",
        "new model",
        "again",
        "GHN-2",
        "GHN-3-T",
    ]
    keys = ("first_ms", "trace_ms", "graph_ms", "hypernetwork_ms", "emit_ms", "new_ms", "again_ms")
    rows = [
        [name, *(f"{results[name][key]:.0f}" for key in keys), *(str(value) for value in PEERS[name])]
        for name in MAKERS
    ]
    for row in results["scaling"]:
        cells = (f"{row[key]:.0f}" for key in ("trace_ms", "graph_ms", "hypernetwork_ms", "emission_ms"))
        name = f"{row['nodes']} nodes, {row['parameters'] / 1e6:.1f} M"
        rows.append([name, "", *cells, f"{row['added_mb']:.0f} MB beyond {row['weights_mb']:.0f}", "", "", ""])
    notes = [
        "CPU milliseconds of the process, one thread; new model: a width that was never seen, the median of five (the "
        "first of them asks the system for memory, too), graph + hypernetwork + emission, JAX's tracing apart; again: "
        "the last of them once more, the median of several, nothing memoised.",
        "Peers: PyTorch on one thread of an idle machine, graph + forward; measured elsewhere, not in this run.",
        "Propagation (GatedGNN) is linear in nodes plus edges, virtual edges within 50 steps included; emission "
        "is linear in parameters.",
    ]
    finish("predict", results, header, rows, notes, 0, options.out)
    plot(results["scaling"], options.out / "predict.svg")


def plot(rows: list[dict[str, float]], path: Path) -> None:
    """Emission over parameters, hypernetwork over nodes plus edges."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    for axes, (x, y, label) in zip(
        figure.subplots(1, 2),
        (("size", "hypernetwork_ms", "nodes + edges"), ("parameters", "emission_ms", "parameters")),
        strict=True,
    ):
        points = sorted((row.get(x, row["nodes"] + row["edges"]), row[y]) for row in rows)
        axes.loglog(*zip(*points, strict=True), "o-")
        axes.set_xlabel(label)
        axes.set_ylabel(f"{y.removesuffix('_ms')}, CPU ms")
    figure.savefig(path)


if __name__ == "__main__":
    main()
