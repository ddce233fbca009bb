"""Integers of 64 bits on the way to the devices: never cut down to others."""

import jax
import numpy as np
import pytest

from anchor_codes import training


def make_chunk():
  return training.compile_chunk(
    lambda state, batch: (state, batch.sum()), training.data_mesh()
  )


@pytest.mark.parametrize(
  "value", [np.int64(2**32 + 3), np.int64(-(2**31) - 1), np.uint64(2**63)]
)
def test_refuses_integers_that_jax_would_cut(value):
  chunk, batch = make_chunk(), np.zeros((2, 4), value.dtype)
  assert chunk.put_batches(batch).dtype.itemsize == 4
  batch[1, 2] = value
  with pytest.raises(
    ValueError, match=rf"a batch must .* u?int32 can hold, got {value} in an ar"
  ):
    chunk.put_batches(batch)


@pytest.mark.parametrize(
  "counts", [np.array([7, 2**32 + 3]), np.uint64(2**63), np.int64(-(2**40))]
)
def test_refuses_states_that_jax_would_cut(counts):
  chunk, state = make_chunk(), {"counts": counts, "seen": np.int64(7)}
  with pytest.raises(ValueError, match=r"a state must .* u?int32 can hold"):
    chunk.put_state(state)
  assert chunk.put_state(state | {"counts": 0 * counts})["seen"] == 7


def test_takes_wide_integers_where_jax_has_them():
  # Of a shape of its own: JAX keeps how it put arrays without 64 bits.
  chunk, batch = make_chunk(), np.full((3, 4), 2**32 + 3)
  with jax.enable_x64(True):
    np.testing.assert_array_equal(chunk.put_batches(batch), batch)
    np.testing.assert_array_equal(chunk.put_state(batch[0]), batch[0])
