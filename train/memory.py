"""Memory that is given back to the system at every step has to be asked for, page by page, at the next."""

from __future__ import annotations

import ctypes
import sys

# Parameters of glibc's mallopt (malloc.h) and their values: no block is mapped alone, none is given back, and threads
# share the one arena for which this holds.
M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD, M_ARENA_MAX = -4, -1, -2, -8
OPTIONS = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**28), (M_ARENA_MAX, 1))


def keep_memory() -> bool:
    """Lets the process keep what it has freed; call it before anything large is computed.

    XLA:CPU frees its buffers after every step. Where they are large (the DeepNets executor's), asking for them again
    takes longer than computing: the first resolution without a single unit 27.7 ms of CPU time, and 3.6 with this. With
    an arena for every thread, a training step on DeepNets still asked for 40,000 pages, and took 330 ms instead of 270.

    Returns:
        Whether it was done: only glibc (Linux) can.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    accepted = [mallopt(option, value) == 1 for option, value in OPTIONS]  # every one, whatever the first says
    return all(accepted)
