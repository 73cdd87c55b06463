"""What does a training step cost each device, and what do the devices exchange, when more of them do more work?

    python benchmarks/scaling.py [--quick] [--out benchmarks/results]

Weak scaling over 1, 2, 4 and 8 virtual CPU devices: every device has the demo's number of architectures and images (the
defaults of `TrainConfig`), so both grow with the devices. Counted from the compiled programs, nothing is timed (virtual
devices share the cores): operations and bytes accessed of one device, collectives of one step and the bytes of their
results. Expected on two CPU cores: about 4 minutes.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from pathlib import Path
from typing import Any

import common
import jax
import tyro

from train.batches import BatchStream
from train.config import DevicesConfig, SpaceConfig, TrainConfig
from train.data import load
from train.loop import make_hypernetwork
from train.optimizer import make_optimizer
from train.parallel import make_mesh, replicate, shard, train_step
from train.step import init_state

MESHES = ((1, 1), (1, 2), (2, 2), (4, 2))
BYTES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "pred": 1, "u8": 1, "s8": 1, "f64": 8, "s64": 8}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Config:
    """What is counted."""

    quick: bool = False  # fewer channels, compiled without optimisations
    out: Path = Path("benchmarks/results")  # folder for the results
    seed: int = 0  # of hypernetwork and batch


def count(architectures: int, batch: int, config: Config) -> dict[str, Any]:
    """All figures for one mesh; to be called in a fresh process, before JAX has looked for devices."""
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={architectures * batch}"
    jax.config.update("jax_platforms", "cpu")
    run = TrainConfig(
        space=SpaceConfig(channels=4 if config.quick else 8),
        meta_batch=architectures,
        batch=TrainConfig().batch * batch,
        devices=DevicesConfig(architectures, batch),
        seed=config.seed,
    )
    splits = load(run.data)
    hypernetwork, optimizer = make_hypernetwork(run, splits), make_optimizer(run.optimizer, run.steps)
    mesh = make_mesh(architectures, batch)
    step = jax.jit(functools.partial(train_step, mesh, hypernetwork.definition, optimizer))
    arguments = (
        replicate(mesh, init_state(hypernetwork, optimizer)),
        shard(mesh, BatchStream(run, hypernetwork, splits.train)[0]),
    )
    compiled = step.lower(*arguments).compile({"xla_backend_optimization_level": 0} if config.quick else None)
    cost = compiled.cost_analysis()
    return {
        "devices": architectures * batch,
        "architectures": architectures,
        "batch": batch,
        "flops_per_device": cost["flops"],
        "bytes_accessed_per_device": cost["bytes accessed"],
        "hypernetwork_bytes": 4 * hypernetwork.parameter_count,
        **collectives(compiled.as_text()),
    }


def collectives(program: str) -> dict[str, Any]:
    """Kind of collective -> how many the text of a compiled program has, and the bytes of their results."""
    found: dict[str, Any] = {}
    for kind in COLLECTIVES:
        shapes = re.findall(rf"= (\(?[a-z0-9]+\[.*?) {kind}(?:-start)?\(", program)
        found[kind] = {"count": len(shapes), "bytes": sum(_bytes(shape) for shape in shapes)}
    return found


def _bytes(shape: str) -> int:
    """Of "f32[2,16]{1,0}" or a tuple of such."""
    total = 0
    for kind, sizes in re.findall(r"([a-z]+\d*)\[([\d,]*)\]", shape):
        size = BYTES[kind]
        for axis in sizes.split(","):
            size *= int(axis or 1)
        total += size
    return total


def main(config: Config) -> None:
    """Runs the benchmark."""
    with common.progress() as progress:
        meshes = progress.track(MESHES, description="meshes")
        counted = [common.in_fresh_process(count, *mesh, config) for mesh in meshes]
    one = counted[0]
    for values in counted:
        values["work_efficiency"] = round(one["flops_per_device"] / values["flops_per_device"], 4)
    rows = [
        (
            f"{v['devices']} ({v['architectures']} x {v['batch']})",
            f"{v['flops_per_device'] / 1e6:,.1f}",
            f"{v['work_efficiency']:.3f}",
            *(f"{v[kind]['count']} / {v[kind]['bytes'] / 1e3:,.1f}" for kind in COLLECTIVES[:3]),
            f"{sum(v[kind]['count'] for kind in COLLECTIVES[3:])}",
        )
        for v in counted
    ]
    header = (
        *("devices (architectures x images)", "Mflop a device", "of one device's"),
        *("all-reduce: count / kB", "all-gather", "reduce-scatter", "others"),
    )
    notes = [
        f"The hypernetwork has {one['hypernetwork_bytes'] / 1e3:,.1f} kB of parameters: the all-reduce is their "
        "gradient, loss and accuracy. The others exchange moments of batch normalisation along the axis of images.",
        "Collectives are counted in the program's text: of the ops of a switch only the chosen one's are executed, so "
        "the counts of the smaller ones are upper bounds. Operations are XLA's own estimate for one device.",
        "Nothing is timed: virtual devices share the cores.",
    ]
    results = {f"d{values['devices']}": values for values in counted}
    common.finish("scaling", results, header, rows, notes, config.seed, config.out)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
