"""Fixtures for tests of all packages."""

import os
from collections.abc import Iterator
from pathlib import Path

# Tests compile many small programs and run each a few times: most of their time would be XLA's optimisation, and much
# of the rest its emitters of fused loops and the division of small programs among threads. Programs that tests start in
# other processes, notebooks too, read this.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
os.environ["XLA_FLAGS"] = " ".join(
    (
        os.environ.get("XLA_FLAGS", ""),
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_cpu_parallel_codegen_split_count=1",
    )
)

import jax
import pytest

assert jax.config.read("jax_disable_most_optimizations"), "a plugin has imported jax before"

MOST_MEMORY = 2 << 30  # bytes of a worker
SLOWEST = ("test_parallel.py", "test_runs.py", "test_smash.py", "test_demos.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that several workers, each of which takes a file at a time, end together."""
    items.sort(key=lambda item: item.path.name not in SLOWEST)


@pytest.fixture(autouse=True, scope="module")
def _bounded_memory() -> Iterator[None]:
    """Compiled programs are dropped where they have come to fill memory: two workers hold thousands of them."""
    yield
    status = Path("/proc/self/statm")
    if status.exists() and int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > MOST_MEMORY:
        jax.clear_caches()
