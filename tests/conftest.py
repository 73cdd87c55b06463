"""Fixtures for tests of all packages."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(scope="package")
def compile_quickly() -> Iterator[None]:
    """For packages that compile many small programs and run each a few times: most of their time is XLA's
    optimisation."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
    jax.clear_caches()  # programs compiled so round differently; bitwise comparisons elsewhere must not meet them
