import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from table_cases import floats

from anchor_codes import accounting, tables

VECTORS = hnp.arrays(
  np.float32,
  hnp.array_shapes(min_dims=2, max_dims=2, min_side=1),
  elements=st.floats(-60000, 60000, width=32),
)


@given(VECTORS)
def test_int8_is_off_by_half_a_step_at_most(vectors):
  table = tables.DenseTable.from_dense(vectors, dtype="int8")
  error = np.abs(table.to_dense() - vectors).max(axis=1)
  tiny = np.finfo(np.float32).smallest_subnormal
  assert np.all(error <= 0.5001 * table.scales + 64 * tiny)
  largest = np.abs(vectors).max(axis=1)
  np.testing.assert_allclose(table.scales, largest / 127, rtol=1e-6)


@given(VECTORS)
def test_rounding_twice_is_rounding_once(vectors):
  for dtype in ("float32", "float16"):
    once = tables.DenseTable.from_dense(vectors, dtype=dtype)
    twice = tables.DenseTable.from_dense(once.to_dense(), dtype=dtype)
    np.testing.assert_array_equal(once.rows, twice.rows)
  once = tables.DenseTable.from_dense(vectors, dtype="int8")
  twice = tables.DenseTable.from_dense(once.to_dense(), dtype="int8")
  np.testing.assert_array_equal(once.rows, twice.rows)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_bytes_follow_the_formula(dtype):
  table = tables.DenseTable.from_dense(floats(4, 6), dtype=dtype)
  value_bits = 8 * np.dtype(dtype).itemsize
  row_bits = accounting.scalar_row_bits(6, value_bits=value_bits)
  assert table.rows.dtype == dtype
  assert table.bits_per_row == row_bits
  assert table.nbytes == accounting.table_bytes(4, row_bits=row_bits)
  assert table.num_params == 24


def test_float32_rows_are_exact_and_do_not_compress():
  vectors = floats(4, 6)
  table = tables.DenseTable.from_dense(vectors)
  np.testing.assert_array_equal(table.to_dense(), vectors)
  assert table.compression_ratio == 1


def test_rows_of_zeros_and_tiny_rows_stay_finite():
  tiny = np.finfo(np.float32).smallest_subnormal
  vectors = np.array([[0, 0], [tiny, -tiny], [190 * tiny, -tiny]], np.float32)
  table = tables.DenseTable.from_dense(vectors, dtype="int8")
  dense = table.to_dense()
  np.testing.assert_array_equal(dense[0], 0)
  assert np.abs(dense - vectors).max() <= 64 * tiny
  assert dense[2, 0] > 0


def test_a_looked_up_vector_is_a_copy():
  table = tables.DenseTable.from_dense(floats(4, 6))
  before = table.to_dense()
  table.lookup([0, 1])[:] = 0
  np.testing.assert_array_equal(table.to_dense(), before)


@pytest.mark.parametrize(
  ("value", "dtype"),
  [
    (65520, "float16"),
    (np.inf, "int8"),
    (np.nan, "float32"),
    (-np.inf, "float32"),
    (1e300, "float32"),
  ],
)
def test_values_too_large_for_the_type_are_refused(value, dtype):
  text = f"`vectors` must be finite and at most .* in {dtype}"
  with pytest.raises(ValueError, match=text):
    tables.DenseTable.from_dense(np.array([[1, value]]), dtype=dtype)


def test_unknown_types_are_refused():
  text = "`dtype` must be one of 'float32', 'float16', 'int8', got 'int4'"
  with pytest.raises(ValueError, match=text):
    tables.DenseTable.from_dense(floats(2, 2), dtype="int4")


@pytest.mark.parametrize(
  ("rows", "scales", "text"),
  [
    (np.zeros((2, 3), np.int8), None, "`scales` must be .* got int8 rows"),
    (floats(2, 3), floats(2), "only for them, got float32 rows"),
    (
      np.zeros((2, 3), np.int8),
      floats(3),
      r"`scales` must have shape \(2,\) to fit `rows` \(2, 3\), got \(3,\)",
    ),
    (np.zeros((2, 3), np.int8), np.zeros(2), "float32, got float64"),
    (np.zeros((2, 3)), None, "float32 or float16 or int8, got float64"),
    (np.zeros(3, np.float32), None, r"2 axes.* got shape \(3,\)"),
    (np.zeros((2, 0), np.float32), None, r"none of them empty"),
  ],
)
def test_arrays_that_do_not_fit_are_refused(rows, scales, text):
  with pytest.raises(ValueError, match=text):
    tables.DenseTable(rows, scales=scales)


def test_from_dense_refuses_other_ranks():
  for shape in ((3,), (2, 3, 4)):
    for dtype in ("float32", "int8"):
      with pytest.raises(ValueError, match="`vectors` must have 2 axes"):
        tables.DenseTable.from_dense(floats(*shape), dtype=dtype)
