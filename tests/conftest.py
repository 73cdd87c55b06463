"""Fixtures for tests of all packages."""

from collections.abc import Iterator

import jax
import pytest

SLOWEST = ("test_parallel.py", "test_loop.py", "test_smash.py", "test_demos.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that several workers, each of which takes a file at a time, end together."""
    items.sort(key=lambda item: item.path.name not in SLOWEST)


@pytest.fixture(scope="package")
def compile_quickly() -> Iterator[None]:
    """For packages that compile many small programs and run each a few times: most of their time is XLA's
    optimisation."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
    jax.clear_caches()  # programs compiled so round differently; bitwise comparisons elsewhere must not meet them
