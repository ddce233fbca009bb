"""Tests of gathering: an id outside the table is never another row."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax.test_util import check_grads

from anchor_codes.ops import indexing

NUM_ROWS = 5
TABLE = jnp.arange(3.0 * NUM_ROWS).reshape(NUM_ROWS, 3)
INTEGERS = [np.uint8, np.int8, np.int16, np.uint32, np.int64, np.uint64]

take_rows = jax.jit(indexing.take_rows, static_argnames="fill_value")
put_rows = jax.jit(indexing.put_rows)
ids_of_four = st.lists(st.integers(-9, 9), min_size=4, max_size=4)


def _reference_take(rows, ids, fill_value=np.nan):
  """One row after the other; what is not there is filled."""
  rows = np.asarray(rows)
  result = np.full((*np.shape(ids), *rows.shape[1:]), fill_value, rows.dtype)
  for position in np.ndindex(np.shape(ids)):
    if 0 <= ids[position] < len(rows):
      result[position] = rows[ids[position]]
  return result


# The ids of a layer.


@pytest.mark.parametrize(
  ("inputs", "expected"),
  [
    (3, 3),
    ([2, 0], [2, 0]),
    ([[1], [4]], [[1], [4]]),
    ((np.uint8(1), 2), [1, 2]),
    (np.array([4, 0], np.uint8), [4, 0]),
    (np.array([[1]], np.int64), [[1]]),
    (jnp.array([3, 3], jnp.int8), [3, 3]),
    ([jnp.array(1), jnp.array(2)], [1, 2]),
    (range(3), [0, 1, 2]),
  ],
)
def test_as_ids_takes_integers_of_any_kind(inputs, expected):
  ids = indexing.as_ids(inputs, num_embeddings=NUM_ROWS)
  assert isinstance(ids, jax.Array)
  assert ids.dtype == jnp.int32
  np.testing.assert_array_equal(ids, expected)


@pytest.mark.parametrize(
  "inputs", [[], [[], []], (), np.zeros((2, 0), np.uint8), jnp.zeros(0, int)]
)
def test_as_ids_of_nothing(inputs):
  ids = indexing.as_ids(inputs, num_embeddings=NUM_ROWS)
  assert ids.shape == np.shape(inputs)
  assert ids.dtype == jnp.int32


@pytest.mark.parametrize(
  ("inputs", "text"),
  [
    ([1.0], "ids must be integers, got float64; cast them on purpose"),
    (2.5, "ids must be integers, got float64"),
    (True, "ids must be integers, got bool"),
    (np.zeros((2, 0)), "ids must be integers, got float64"),
    (jnp.ones(3), "ids must be integers, got float32"),
    (["a"], "ids must be integers, got <U1; a table finds those of words by"),
    ([2**70], "ids must be integers, got object"),
  ],
)
def test_as_ids_refuses_what_is_no_integer(inputs, text):
  with pytest.raises(ValueError, match=text):
    indexing.as_ids(inputs, num_embeddings=NUM_ROWS)


@pytest.mark.parametrize(
  ("inputs", "text"),
  [
    (5, r"id 5 at position \(\) is out of range for a table of 5 rows"),
    ([0, -1], r"id -1 at position \(1,\) .* ids must lie in \[0, 5\)\."),
    ([[0, 1], [9, -3]], r"id 9 at position \(1, 0\)"),
    (np.array([255], np.uint8), r"id 255 at position \(0,\)"),
    (np.array([-128], np.int8), r"id -128 at position \(0,\)"),
    (np.array([2**40]), f"id {2**40} at"),
    (np.array([2**32 + 1]), f"id {2**32 + 1} at"),
    (np.array([2**64 - 1], np.uint64), f"id {2**64 - 1} at"),
    (2**40, f"id {2**40} at"),
    (jnp.array([4, 5]), r"id 5 at position \(1,\)"),
  ],
)
def test_as_ids_names_the_id_outside(inputs, text):
  with pytest.raises(IndexError, match=text):
    indexing.as_ids(inputs, num_embeddings=NUM_ROWS)


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int8, jnp.int32, jnp.uint32])
def test_as_ids_lets_traced_ids_pass(dtype):
  as_ids = jax.jit(functools.partial(indexing.as_ids, num_embeddings=NUM_ROWS))
  ids = as_ids(jnp.array([1, 7], dtype))
  assert ids.dtype == jnp.int32
  assert ids.tolist() == [1, 7]


def test_as_ids_checks_the_type_of_traced_ids():
  as_ids = functools.partial(indexing.as_ids, num_embeddings=NUM_ROWS)
  with pytest.raises(ValueError, match="ids must be integers, got float32"):
    jax.jit(as_ids)(jnp.ones(2))


def test_large_traced_ids_stay_outside():
  @jax.jit
  def lookup(ids):
    ids = indexing.as_ids(ids, num_embeddings=NUM_ROWS)
    return indexing.take_rows(TABLE, ids)

  ids = jnp.array([2**32 - 1, 2**31, 2], jnp.uint32)
  np.testing.assert_array_equal(
    np.isnan(lookup(ids)[:, 0]), [True, True, False]
  )


def test_a_table_of_more_rows_than_an_id_can_name():
  limit = 2**31 - 1
  ids = indexing.as_ids([limit - 1], num_embeddings=limit)
  assert ids.tolist() == [limit - 1]
  text = rf"`num_embeddings` must be at most {limit} .* int32, got {2**33}\."
  for inputs in ([0], np.array([2**32])):
    with pytest.raises(ValueError, match=text):
      indexing.as_ids(inputs, num_embeddings=2**33)


def test_as_ids_stay_where_they_are():
  mesh = jax.make_mesh((4,), ("data",))
  spec = jax.sharding.PartitionSpec("data")
  sharding = jax.sharding.NamedSharding(mesh, spec)
  ids = jax.device_put(jnp.zeros(8, jnp.int32), sharding)
  assert indexing.as_ids(ids, num_embeddings=1).sharding == sharding


# Rows in and out.


@hypothesis.given(ids=ids_of_four)
def test_take_agrees_with_a_loop(ids):
  np.testing.assert_array_equal(
    take_rows(TABLE, jnp.array(ids)), _reference_take(TABLE, np.array(ids))
  )


@pytest.mark.parametrize("shape", [(), (2, 3), (0,), (2, 0, 3)])
@pytest.mark.parametrize("row_shape", [(), (3,), (2, 2)])
def test_take_of_any_shape(shape, row_shape):
  generator = np.random.default_rng(0)
  rows = generator.normal(size=(NUM_ROWS, *row_shape)).astype(np.float32)
  ids = generator.integers(-2, NUM_ROWS + 2, shape)
  result = take_rows(jnp.asarray(rows), jnp.asarray(ids, jnp.int32))
  assert result.shape == (*shape, *row_shape)
  np.testing.assert_array_equal(result, _reference_take(rows, ids))


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("num_rows", [3, 1000])
def test_take_by_ids_of_any_integer_type(num_rows, dtype):
  rows = jnp.arange(1.0 * num_rows)
  ids = np.array([2, 127, 0, np.iinfo(dtype).max, np.iinfo(dtype).min], dtype)
  expected = _reference_take(rows, ids)
  np.testing.assert_array_equal(indexing.take_rows(rows, ids), expected)
  if ids.itemsize < 8:  # JAX has no wider ids.
    result = indexing.take_rows(rows, jnp.asarray(ids))
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_ids_of_64_bits_are_cut_to_no_row(dtype):
  with jax.enable_x64(True):
    ids = jnp.array([2**32 + 3, 2**33, 1, 2**63 - 1], dtype)
    taken = take_rows(TABLE, ids)
    put = put_rows(jnp.zeros(NUM_ROWS), ids, jnp.ones(4))
  expected = _reference_take(TABLE, np.asarray(ids))
  np.testing.assert_array_equal(taken, expected)
  np.testing.assert_array_equal(put, [0, 1, 0, 0, 0])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.int32])
def test_take_keeps_the_type_of_the_rows(dtype):
  result = take_rows(TABLE.astype(dtype), jnp.array([1, 9]))
  assert result.dtype == dtype
  missing = np.asarray(result[1], np.float32)
  expected = np.full(3, 0 if dtype == jnp.int32 else np.nan)
  np.testing.assert_array_equal(missing, expected)


def test_take_fills_with_a_value_of_choice():
  result = take_rows(TABLE, jnp.array([9, 0, -1]), fill_value=7.0)
  np.testing.assert_array_equal(result[:, 0], [7, 0, 7])


@hypothesis.given(ids=st.permutations(range(-2, NUM_ROWS + 2)))
def test_put_agrees_with_a_loop(ids):
  values = np.arange(9.0).reshape(9, 1) + 100
  expected = np.zeros((NUM_ROWS, 1))
  for i, value in zip(ids, values, strict=True):
    if 0 <= i < NUM_ROWS:
      expected[i] = value
  result = put_rows(
    jnp.zeros((NUM_ROWS, 1)), jnp.array(ids), jnp.asarray(values, jnp.float32)
  )
  np.testing.assert_array_equal(result, expected)


@hypothesis.given(ids=st.permutations(range(-2, NUM_ROWS + 2)))
def test_take_returns_what_put_wrote(ids):
  ids, rows = jnp.array(ids), jnp.zeros((NUM_ROWS, 3))
  values = jnp.asarray(
    np.random.default_rng(0).normal(size=(9, 3)), jnp.float32
  )
  written = take_rows(put_rows(rows, ids, values), ids)
  inside = np.asarray((ids >= 0) & (ids < NUM_ROWS))
  np.testing.assert_array_equal(written[inside], values[inside])
  assert np.isnan(written[~inside]).all()
  back = put_rows(TABLE, ids, take_rows(TABLE, ids))
  np.testing.assert_array_equal(back, TABLE)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64])
def test_put_by_ids_of_any_integer_type(dtype):
  ids = np.array([2, 127, np.iinfo(dtype).max], dtype)[[0, 2]]
  rows, values = jnp.zeros(1000), jnp.array([1.0, 2.0])
  expected = np.zeros(1000)
  expected[2] = 1
  if ids[1] < 1000:
    expected[ids[1]] = 2
  np.testing.assert_array_equal(indexing.put_rows(rows, ids, values), expected)


def test_put_casts_to_the_type_of_the_table():
  rows = jnp.zeros((2, 1), jnp.bfloat16)
  result = put_rows(rows, jnp.array([1]), jnp.array([[0.5]]))
  assert result.dtype == jnp.bfloat16
  assert result.tolist() == [[0.0], [0.5]]


def test_gradients_reach_the_rows_that_were_taken():
  ids = jnp.array([[1, 1], [4, 0]])
  check_grads(
    lambda rows: take_rows(jnp.asarray(rows), ids),
    (TABLE,),
    order=1,
    atol=1e-2,
    rtol=1e-2,
  )

  @jax.jit
  @jax.grad
  def gradient(rows):
    return jnp.sum(indexing.take_rows(rows, jnp.array([1, 1, 9, -1, 3])))

  assert gradient(TABLE)[:, 0].tolist() == [0, 2, 0, 1, 0]


# Outside of the table.


@hypothesis.given(ids=ids_of_four)
def test_clip_and_inside_agree(ids):
  clipped, num_clipped = indexing.clip_ids(
    jnp.array(ids), num_embeddings=NUM_ROWS
  )
  inside = indexing.inside_table(jnp.array(ids), num_embeddings=NUM_ROWS)
  assert clipped.tolist() == [min(max(i, 0), NUM_ROWS - 1) for i in ids]
  assert inside.tolist() == [0 <= i < NUM_ROWS for i in ids]
  assert num_clipped == 4 - sum(inside.tolist())


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("num_embeddings", [3, 1000])
def test_clip_and_inside_across_widths(num_embeddings, dtype):
  ids = np.array([2, 127, np.iinfo(dtype).max], dtype)
  expected = [int(i) < num_embeddings for i in ids]
  inside = indexing.inside_table(ids, num_embeddings=num_embeddings)
  assert inside.tolist() == expected
  clipped, num_clipped = indexing.clip_ids(ids, num_embeddings=num_embeddings)
  assert num_clipped == expected.count(False)
  assert clipped.dtype == jnp.int32
  assert clipped.tolist() == [min(int(i), num_embeddings - 1) for i in ids]


def test_large_unsigned_ids_of_unknown_values_are_not_negative():
  ids = jnp.array([1, 2**31 - 1, 2**31, 2**32 - 1], jnp.uint32)
  clip = jax.jit(lambda ids: indexing.clip_ids(ids, num_embeddings=5))
  clipped, num_clipped = clip(ids)
  assert clipped.tolist() == [1, 4, 4, 4]
  assert num_clipped == 3


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_nan_outside(dtype):
  nan_outside = jax.jit(indexing.nan_outside, static_argnames="num_embeddings")
  vectors = jnp.ones((2, 3, 4), dtype)
  ids = jnp.array([[0, -1, 4], [5, 2, 2**31 - 1]])
  result = nan_outside(vectors, ids, num_embeddings=NUM_ROWS)
  assert result.dtype == dtype
  expected = [[False, True, False], [True, False, True]]
  for feature in range(4):
    assert np.isnan(result[..., feature]).tolist() == expected


@pytest.mark.parametrize(
  "function",
  [
    lambda ids: indexing.take_rows(TABLE, ids),
    lambda ids: indexing.put_rows(TABLE, ids, TABLE[:2]),
    lambda ids: indexing.clip_ids(ids, num_embeddings=NUM_ROWS),
    lambda ids: indexing.inside_table(ids, num_embeddings=NUM_ROWS),
    lambda ids: indexing.nan_outside(TABLE[:2], ids, num_embeddings=NUM_ROWS),
  ],
)
@pytest.mark.parametrize("dtype", [jnp.float32, bool])
def test_ids_that_are_not_integers_are_refused(function, dtype):
  text = f"ids must be integers, got {jnp.dtype(dtype)}"
  with pytest.raises(ValueError, match=text):
    function(jnp.ones(2, dtype))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint32])
def test_all_ids_of_a_type_are_inside_of_a_larger_table(dtype):
  largest = np.iinfo(dtype).max
  ids = jnp.array([0, largest], dtype)
  inside = indexing.inside_table(ids, num_embeddings=int(largest) + 1)
  np.testing.assert_array_equal(inside, [True, True])
  inside = indexing.inside_table(ids, num_embeddings=int(largest))
  np.testing.assert_array_equal(inside, [True, False])
