"""Settings for all tests of this package."""

import pytest


@pytest.fixture(scope="package", autouse=True)
def settings(compile_quickly: None) -> None:
    """Many programs are compiled here, for tiny networks that run a few times each."""
