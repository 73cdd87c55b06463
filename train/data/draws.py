"""Random draws from raw ``numpy.random.Philox`` words, whose stream numpy keeps fixed between versions, so that a seed
names the same split and the same order of batches everywhere."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

SPLIT_STREAM, SHUFFLE_STREAM = 1, 2  # keep the random words of the splits and of the batches apart


def random_words(count: int, *entropy: int) -> npt.NDArray[np.uint64]:
    """``count`` random 64-bit words, a fixed function of ``entropy`` in every version of numpy."""
    words = np.random.Philox(np.random.SeedSequence(entropy)).random_raw(count)
    return np.asarray(words, np.uint64)


@lru_cache(maxsize=8)
def permutation(n: int, seed: int, epoch: int) -> npt.NDArray[np.int32]:
    """The order of the images in one epoch, int32 [n], read-only (shared between the steps of the epoch)."""
    order = np.argsort(random_words(n, SHUFFLE_STREAM, seed, epoch), kind="stable").astype(np.int32)
    order.flags.writeable = False
    return order
