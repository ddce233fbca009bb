import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from table_cases import floats

from anchor_codes import accounting, tables
from anchor_codes.tables import rounding

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


@pytest.mark.parametrize(
  ("dtype", "value_bits"),
  [("float32", 32), ("float16", 16), ("int8", 8), ("int4", 4), ("int2", 2)],
)
@pytest.mark.parametrize("scale_dtype", ["float32", "float16"])
def test_bytes_follow_the_formula(dtype, value_bits, scale_dtype):
  table = tables.DenseTable.from_dense(
    floats(4, 6), dtype=dtype, scale_dtype=scale_dtype
  )
  row_bits = accounting.scalar_row_bits(
    6,
    value_bits=value_bits,
    scale_bits=8 * np.dtype(scale_dtype).itemsize,
  )
  packed = table.dtype is not None
  assert packed == (value_bits < 8)
  assert table.rows.dtype == ("uint8" if packed else dtype)
  assert table.metadata.get("dtype") == (dtype if packed else None)
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


@pytest.mark.parametrize(("dtype", "limit"), [("int4", 0.0116), ("int2", 0.12)])
def test_normal_rows_are_as_near_as_uniform_levels_can_be(dtype, limit):
  # The limits are those of the best uniform quantisers of a normal variable
  # (Max, "Quantizing for Minimum Distortion", 1960).
  vectors = floats(200, 100)
  table = tables.DenseTable.from_dense(vectors, dtype=dtype)
  error = np.square(table.to_dense() - vectors).sum()
  assert error < limit * np.square(vectors).sum()


@given(VECTORS, st.sampled_from([("int4", 16), ("int2", 4)]))
def test_packed_rows_are_no_worse_than_with_the_largest_scale(vectors, kind):
  dtype, num_levels = kind
  table = tables.DenseTable.from_dense(vectors, dtype=dtype)
  assert np.all(table.scales >= 0)
  middle = (num_levels - 1) / 2
  largest = np.abs(vectors).max(axis=1, keepdims=True) / middle
  steps = vectors / np.where(largest > 0, largest, 1)
  levels = (np.floor(steps) + num_levels // 2).clip(0, num_levels - 1)
  naive = np.square(vectors - largest * (levels - middle)).sum(axis=1)
  size = np.square(vectors.astype(float)).sum(axis=1)
  error = np.square(table.to_dense() - vectors).sum(axis=1)
  assert np.all(error <= naive + 1e-4 * size + 1e-30)


@pytest.mark.parametrize(("dtype", "num_levels"), [("int4", 16), ("int2", 4)])
def test_no_scale_that_is_tried_is_better(dtype, num_levels):
  vectors = floats(300, 5)
  table = tables.DenseTable.from_dense(vectors, dtype=dtype)
  found = np.square(table.to_dense() - vectors).sum(axis=1)
  middle = (num_levels - 1) / 2
  least = np.sqrt(np.square(vectors).mean(axis=1)) / num_levels
  most = np.abs(vectors).max(axis=1) / middle
  for share in np.linspace(0, 1, 12):
    scales = (1 - share) * least + share * most
    levels = np.floor(vectors / scales[:, None]) + num_levels // 2
    levels = levels.clip(0, num_levels - 1) - middle
    best = (vectors * levels).sum(axis=1) / np.square(levels).sum(axis=1)
    error = np.square(vectors - best[:, None] * levels).sum(axis=1)
    assert np.all(found <= error + 1e-4 * np.square(vectors).sum(axis=1))


@pytest.mark.parametrize(("dtype", "limit"), [("int4", 0.02), ("int2", 0.3)])
def test_packed_rows_of_tiny_numbers_are_no_zeros(dtype, limit):
  # Their squares are zero in float32.
  vectors = floats(50, 20) * np.float32(1e-25)
  table = tables.DenseTable.from_dense(vectors, dtype=dtype)
  error = np.square((table.to_dense() - vectors).astype(float)).sum()
  assert error < limit * np.square(vectors.astype(float)).sum()


@pytest.mark.parametrize("dtype", ["int8", "int4", "int2"])
def test_rows_are_rounded_alike_in_blocks(dtype, monkeypatch):
  vectors = floats(9, 5)
  whole = tables.DenseTable.from_dense(vectors, dtype=dtype)
  monkeypatch.setattr(rounding, "_BLOCK", 4)
  parts = tables.DenseTable.from_dense(vectors, dtype=dtype)
  np.testing.assert_array_equal(parts.rows, whole.rows)
  np.testing.assert_array_equal(parts.scales, whole.scales)


@pytest.mark.parametrize("dtype", ["int4", "int2"])
def test_packed_rows_of_zeros_are_exact(dtype):
  vectors = np.zeros((3, 5), np.float32)
  vectors[1] = 2
  table = tables.DenseTable.from_dense(vectors, dtype=dtype)
  np.testing.assert_allclose(table.to_dense(), vectors, atol=1e-6)


@pytest.mark.parametrize("dtype", ["int8", "int4", "int2"])
def test_scales_too_large_for_float16_are_refused(dtype):
  vectors = np.full((2, 3), 1e9, np.float32)
  with pytest.raises(ValueError, match=r"`scales` must lie within 65504"):
    tables.DenseTable.from_dense(vectors, dtype=dtype, scale_dtype="float16")


@pytest.mark.parametrize(
  ("rows", "options", "text"),
  [
    (np.zeros((2, 3), np.uint8), {}, "float16 or int8, got uint8"),
    (np.zeros((2, 3), np.uint8), {"dtype": "int8"}, "must be one of 'int4'"),
    (
      np.zeros((2, 3), np.uint8),
      {"dtype": "int4"},
      "`features` must be at least 1, got 0",
    ),
    (
      np.zeros((2, 3), np.uint8),
      {"dtype": "int4", "features": 7},
      r"`rows` must have shape \(2, 4\) to fit 7 features of int4",
    ),
    (
      np.zeros((2, 3), np.uint8),
      {"dtype": "int4", "features": 6},
      "`scales` must be given for rows of integers",
    ),
    (
      np.zeros((2, 3), np.int8),
      {"dtype": "int4", "features": 6},
      "`rows` must be uint8, got int8",
    ),
    (
      np.zeros((2, 3), np.float32),
      {"features": 4},
      r"`rows` must have shape \(2, 4\) to fit 4 features",
    ),
  ],
)
def test_packed_rows_that_do_not_fit(rows, options, text):
  with pytest.raises(ValueError, match=text):
    tables.DenseTable(rows, **options)


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
  text = "`dtype` must be one of 'float32', .*, 'int4', 'int2', got 'int3'"
  with pytest.raises(ValueError, match=text):
    tables.DenseTable.from_dense(floats(2, 2), dtype="int3")


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
    (np.zeros((2, 3), np.int8), np.zeros(2), "float32 or float16, got float64"),
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


def test_words_may_come_from_any_iterable():
  table = tables.DenseTable(np.eye(3, dtype=np.float32), vocabulary=list("abc"))
  found = table.lookup_words(word for word in "ca")
  np.testing.assert_array_equal(found, np.eye(3)[[2, 0]])
