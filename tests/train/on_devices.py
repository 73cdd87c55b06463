"""What tests of several devices run in processes of their own: the number of devices is fixed before JAX starts.

    python on_devices.py eight FOLDER                     # eight virtual devices
    python on_devices.py together FOLDER PORT PROCESS     # one of two processes with two devices each

Prints its findings as one JSON line.
"""

import dataclasses
import functools
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

STEPS = 20


def start(devices: int) -> None:
    """Before JAX is imported."""
    more = f"--xla_force_host_platform_device_count={devices}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {more}"
    os.environ["JAX_PLATFORMS"] = "cpu"


def run_config(folder: Path, architectures: int, batch: int, whole: bool = False) -> Any:
    """A run of a tiny space: with smaller cells and without messages, unless `whole`, so that it compiles sooner."""
    from architectures.spaces import NASBench201
    from ghn.config import GHNConfig
    from train.config import DevicesConfig, OptimizerConfig, SpaceConfig, TrainConfig
    from train.data import AugmentConfig, DataConfig

    @dataclasses.dataclass(frozen=True)
    class OneStage(SpaceConfig):
        def build(self, input_shape: tuple[int, int, int], classes: int) -> NASBench201:
            nodes = 4 if whole else 3
            return NASBench201(channels=4, cells=1, input_shape=input_shape, classes=classes, stages=1, nodes=nodes)

    return TrainConfig(
        space=OneStage(),
        data=DataConfig(source=str(folder / "tiny.npz"), image_size=8, score_images=60),
        augment=AugmentConfig(crop=1, flip=True),
        ghn=GHNConfig(width=8, message_width=4, hidden=8, tile=8, propagation="gatedgnn" if whole else "none"),
        optimizer=OptimizerConfig(name="sgd", learning_rate=0.1, warmup=2),  # Adam would blow up rounding
        devices=DevicesConfig(architectures, batch),
        steps=STEPS,
        batch=8,
        meta_batch=8,
        log_every=1,
        checkpoint_every=STEPS // 2,
    )


def smash_config(folder: Path) -> Any:
    """The same run with tiny memory-bank networks."""
    from architectures.spaces import SMASH
    from train.config import SpaceConfig

    @dataclasses.dataclass(frozen=True)
    class OneBlock(SpaceConfig):
        def build(self, input_shape: tuple[int, int, int], classes: int) -> SMASH:
            return SMASH(
                input_shape,
                classes,
                channels=(2, 4),
                banks=(1, 2),
                layers=(1, 2),
                kernels=(3,),
                dilations=(1,),
                blocks=1,
            )

    return dataclasses.replace(run_config(folder, 2, 2), space=OneBlock())


def hard_config(folder: Path) -> Any:
    """The same run with tiny MLPs, trained on the hardest only."""
    from train.config import SpaceConfig

    space = SpaceConfig(name="mlp", widths=(2, 4, 6, 8), depths=(3,))
    return dataclasses.replace(run_config(folder, 2, 2), space=space, sampling="hard")


def path_config(folder: Path) -> Any:
    """The same run with tiny MLPs, trained along paths of one step."""
    return dataclasses.replace(hard_config(folder), sampling="uniform", ahead=1)


def gradients(config: Any, encoded: str, exported: bool, objective: Any = None) -> dict[str, Any]:
    """Gradients of one step over 2 x 2 devices and on one, and what the devices exchange.

    `encoded` names the part of encodings that says what a device's switches do.
    """
    import jax
    import numpy as np
    import optax
    from flax import nnx
    from jax import export

    from train import parallel, step
    from train.batches import BatchStream
    from train.data import load
    from train.loop import make_hypernetwork

    splits = load(config.data)
    hypernetwork = make_hypernetwork(config, splits)
    batch = BatchStream(config, hypernetwork, splits.train)[0]
    keep = optax.GradientTransformation(  # leaves the gradients in its state
        lambda parameters: jax.tree.map(np.zeros_like, parameters), lambda gradients, *_: (gradients, gradients)
    )
    state = step.init_state(hypernetwork, keep)
    mesh = parallel.make_mesh(2, 2)
    sharded = jax.jit(functools.partial(parallel.train_step, mesh, hypernetwork.definition, keep, objective=objective))
    arguments = parallel.replicate(mesh, state), parallel.shard(mesh, batch)
    compiled = sharded.lower(*arguments).compile()
    alone = functools.partial(step.train_step, hypernetwork.definition, keep, objective=objective)
    one = jax.jit(alone)(state, batch)
    many = compiled(*arguments)

    def flat(result: Any) -> Any:
        leaves = [leaf.get_value() for _, leaf in nnx.to_flat_state(result[0].optimizer_state)]
        return np.concatenate([np.ravel(leaf) for leaf in leaves])

    ops = np.asarray(batch.encodings[encoded])
    return {
        "difference": float(np.abs(flat(one) - flat(many)).max()),
        "largest": float(np.abs(flat(one)).max()),
        "losses": [float(result[1]["loss"]) for result in (one, many)],
        "parameters": int(flat(one).size),
        "differing_ops": int((ops[: len(ops) // 2] != ops[len(ops) // 2 :]).any(0).sum()),
        "activation": 8 // 2 * 8 * 8 * 4,  # images a device, height, width, channels
        "collectives": collectives(compiled.as_text()),
        "exported": list(export.export(sharded, platforms=["cuda", "tpu"])(*arguments).platforms) if exported else [],
    }


def collectives(program: str) -> list[tuple[str, int]]:
    """(name, elements of the result) of every collective in the text of a compiled program."""
    names = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
    found = re.findall(rf"= (\(?[a-z0-9]+\[.*?) ({names})(?:-start)?\(", program)
    shapes = [(name, re.findall(r"\[([\d,]*)\]", shape)) for shape, name in found]
    return [(name, sum(product(sizes) for sizes in parts)) for name, parts in shapes]


def product(sizes: str) -> int:
    """Elements of an array whose shape is written as "2,3"."""
    return functools.reduce(lambda a, b: a * b, (int(size) for size in sizes.split(",") if size), 1)


def eight(folder: Path) -> dict[str, Any]:
    """Everything on eight devices; runs into folder/one and folder/eight, and on from its middle into folder/two."""
    from train import loop, objectives, parallel

    parallel.donated = lambda: (0,)  # as on accelerators
    for name, devices in (("one", (1, 1)), ("eight", (4, 2))):
        loop.train(run_config(folder, *devices), folder / name, show=False)
    shutil.copytree(folder / "eight", folder / "two")
    shutil.rmtree(folder / "two" / "checkpoints" / str(STEPS))
    trained = loop.train(run_config(folder, 2, 1), folder / "two", show=False)
    return {
        "gradients": gradients(run_config(folder, 2, 2, whole=True), "op", exported=True),
        "smash": gradients(smash_config(folder), "outer", exported=False),
        "hard": gradients(hard_config(folder), "width", exported=False, objective=objectives.hardest_loss),
        "path": gradients(
            path := path_config(folder), "width", exported=False, objective=objectives.objective_of(path)
        ),
        "mesh": [device.id for device in parallel.make_mesh(4, 2).devices[0]],
        "devices_of_result": sorted({len(leaf.devices()) for leaf in _leaves(trained.parameters)}),
    }


def _leaves(tree: Any) -> list[Any]:
    import jax

    return jax.tree.leaves(tree)


def together(folder: Path, port: str, process: str) -> dict[str, Any]:
    """A run of 2 x 2 devices by two processes into folder/together."""
    os.environ |= {
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": process,
    }
    from train import loop, parallel

    parallel.join_processes()
    written = []
    original = loop.MetricsWriter.write
    loop.MetricsWriter.write = lambda self, step, values: (written.append(step), original(self, step, values))[1]  # type: ignore[method-assign]
    messages = []
    for devices in ((1, 1), (2, 4)):
        try:
            parallel.make_mesh(*devices)
        except ValueError as error:
            messages.append(str(error))
    loop.train(run_config(folder, 2, 2), folder / "together", show=False)
    return {"written": written, "messages": messages}


if __name__ == "__main__":
    command, where, *others = sys.argv[1:]
    start(8 if command == "eight" else 2)
    print(json.dumps(eight(Path(where)) if command == "eight" else together(Path(where), *others)))  # noqa: T201
