"""Keeping freed memory is possible wherever the C library is glibc, and harmless elsewhere."""

import platform

from train.memory import keep_memory


def test_glibc_accepts_the_options() -> None:
    assert keep_memory() == (platform.libc_ver()[0] == "glibc")
