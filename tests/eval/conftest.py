"""These tests compile many small programs and run each a few times."""

import pytest


@pytest.fixture(autouse=True, scope="package")
def _quickly(compile_quickly: None) -> None:
    """Less optimisation for the whole package."""
