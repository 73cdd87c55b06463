"""Memory for leaves."""

import itertools

import jax
import jax.numpy as jnp

from ghn.anymodel.blocks import ALIGNED, BLOCK, KEPT, LARGE, Pool, empty_arrays

LEAVES = [
    jax.ShapeDtypeStruct(shape, dtype)
    for shape, dtype in [
        ((3, 5), jnp.float32),
        ((), jnp.float32),
        ((7,), jnp.bfloat16),
        ((0, 4), jnp.float32),
        ((LARGE // 4, 1), jnp.float32),
        *[((BLOCK // 20,), jnp.float16)] * 15,  # more than a block
    ]
]


def test_arrays_are_those_asked_for_and_apart() -> None:
    arrays = empty_arrays(LEAVES)
    assert [(a.shape, a.dtype) for a in arrays] == [(leaf.shape, leaf.dtype) for leaf in LEAVES]
    assert all(a.ctypes.data % ALIGNED == 0 and a.flags.c_contiguous and a.flags.writeable for a in arrays)
    spans = sorted((a.ctypes.data, a.ctypes.data + a.nbytes) for a in arrays if a.nbytes)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def test_jax_takes_them_over_without_a_copy() -> None:
    array = empty_arrays(LEAVES)[0]
    taken = jax.device_put(array, may_alias=True)
    assert taken.unsafe_buffer_pointer() == array.ctypes.data


def test_small_arrays_share_a_block_of_their_size() -> None:
    blocks = {id(array.base): array.base for array in empty_arrays(LEAVES[:3])}
    assert [block.nbytes for block in blocks.values()] == [4 * ALIGNED]  # a power of two


def test_a_block_is_used_again_when_the_last_of_its_arrays_is_gone() -> None:
    first, second = empty_arrays(LEAVES[:2])
    place, view = first.ctypes.data, second.reshape(1)
    del first, second
    assert empty_arrays(LEAVES[:2])[0].ctypes.data != place  # a view of the second lives
    del view
    assert empty_arrays(LEAVES[:2])[0].ctypes.data == place


def test_what_jax_took_over_is_not_used_again() -> None:
    (array,) = empty_arrays([jax.ShapeDtypeStruct((ALIGNED,), jnp.float32)])
    array[:] = 1
    place, taken = array.ctypes.data, jax.device_put(array, may_alias=True)
    del array
    (other,) = empty_arrays([jax.ShapeDtypeStruct((ALIGNED,), jnp.float32)])
    other[:] = 2
    assert other.ctypes.data != place and bool((taken == 1).all())


def test_blocks_that_nobody_uses_are_bounded() -> None:
    pool = Pool()
    sizes = [KEPT // 2, KEPT // 2, KEPT // 4]
    blocks = [pool.take(size) for size in sizes]
    places = [block.ctypes.data for block in blocks]
    while blocks:
        pool.give_back(blocks.pop(0))
    assert pool.take(sizes[2]).ctypes.data == places[2] and pool.take(sizes[1]).ctypes.data == places[1]
    assert pool.bytes == 0  # the first, the oldest, was let go
