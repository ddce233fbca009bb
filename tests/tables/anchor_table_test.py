import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_cases import floats, integers

from anchor_codes import accounting, tables
from anchor_codes.tables import anchor_rows


def make(num_anchors=5, num_nonzeros=3, *, rows=4, dtype=np.float32):
  return tables.AnchorTable(
    floats(num_anchors, 6, dtype=dtype),
    weights=floats(rows, num_nonzeros, dtype=dtype),
    indices=integers(num_anchors, rows, num_nonzeros),
  )


@pytest.mark.parametrize(
  ("num_anchors", "dtype"),
  [
    (1, "uint8"),
    (256, "uint8"),
    (257, "uint16"),
    (65536, "uint16"),
    (65537, "uint32"),
  ],
)
def test_indices_take_the_smallest_type(num_anchors, dtype):
  weights = np.ones((1, 1), np.float32)
  anchors = np.arange(num_anchors, dtype=np.float32)[:, None]
  indices = np.array([[num_anchors - 1]])
  table = tables.AnchorTable(anchors, weights=weights, indices=indices)
  assert table.indices.dtype == dtype
  assert table.lookup(0) == num_anchors - 1


@given(
  num_anchors=st.integers(1, 300),
  num_nonzeros=st.integers(1, 9),
  rows=st.integers(1, 20),
  dtype=st.sampled_from([np.float32, np.float16]),
)
def test_bytes_follow_the_formula(num_anchors, num_nonzeros, rows, dtype):
  table = make(num_anchors, num_nonzeros, rows=rows, dtype=dtype)
  row_bits = accounting.anchor_row_bits(
    num_anchors, num_nonzeros, weight_bits=8 * np.dtype(dtype).itemsize
  )
  assert table.bits_per_row == row_bits
  assert table.nbytes == accounting.table_bytes(
    rows, row_bits=row_bits, shared_bytes=table.anchors.nbytes
  )


def test_dense_rows_have_no_indices():
  table = tables.AnchorTable(floats(5, 6), weights=floats(4, 5))
  assert table.indices is None
  assert "indices" not in table.tensors
  assert table.bits_per_row == accounting.anchor_row_bits(5, None)


def test_sparse_rows_are_dense_rows_with_zeros():
  sparse = make()
  weights = np.zeros((4, 5), np.float32)
  for row, index in np.ndindex(4, 3):
    weights[row, sparse.indices[row, index]] += sparse.weights[row, index]
  dense = tables.AnchorTable(sparse.anchors, weights=weights)
  np.testing.assert_allclose(sparse.to_dense(), dense.to_dense(), rtol=1e-5)


def test_zero_weights_are_no_parameters():
  weights = np.array([[0, 1], [0, 0], [2, 3]], np.float32)
  table = tables.AnchorTable(
    floats(5, 6), weights=weights, indices=np.zeros((3, 2), int)
  )
  assert table.num_params == 3 + 5 * 6
  assert table.num_anchors == 5
  np.testing.assert_array_equal(table.lookup(1), np.zeros(6))


def test_float16_is_kept_and_summed_in_float32():
  anchors = np.full((1, 1), 2048, np.float16)
  weights = np.ones((1, 3), np.float16)
  indices = np.zeros((1, 3), int)
  table = tables.AnchorTable(anchors, weights=weights, indices=indices)
  assert {a.dtype.name for a in table.tensors.values()} == {"float16", "uint8"}
  assert table.lookup(0) == 3 * 2048
  tiny = tables.AnchorTable(
    np.array([[2048], [1]], np.float16),
    weights=np.ones((1, 2), np.float16),
    indices=np.array([[0, 1]]),
  )
  assert tiny.lookup(0) == 2049  # float16 has no such number.


@pytest.mark.parametrize(
  ("name", "array", "text"),
  [
    ("anchors", np.zeros((5, 6)), "be float32 or float16 or int8, got float64"),
    (
      "anchors",
      np.zeros((5, 6), int),
      "be float32 or float16 or int8, got int64",
    ),
    ("anchors", np.zeros(5, np.float32), r"2 axes.* got shape \(5,\)"),
    ("anchors", np.zeros((0, 6), np.float32), r"got shape \(0, 6\)"),
    ("weights", np.zeros((4, 3)), "be float32 or float16 or int8, got float64"),
    (
      "weights",
      np.zeros((4, 2), np.float32),
      r"shape \(4, 3\) to fit `indices` \(4, 3\), got \(4, 2\)",
    ),
    ("weights", np.zeros((0, 3), np.float32), r"got shape \(0, 3\)"),
    ("indices", np.zeros((4, 3), np.float32), "integers, got float32"),
    ("indices", np.zeros((4, 3), bool), "integers, got bool"),
    ("indices", np.zeros(4, int), r"2 axes.* got shape \(4,\)"),
    ("indices", np.full((4, 3), 5), r"lie in \[0, 5\).*, got 5"),
    ("indices", np.full((4, 3), -1), r"lie in \[0, 5\).*, got -1"),
    ("indices", np.full((4, 3), 256), r"lie in \[0, 5\).*, got 256"),
  ],
)
def test_arrays_that_do_not_fit_are_refused(name, array, text):
  arrays = {
    "anchors": floats(5, 6),
    "weights": floats(4, 3),
    "indices": np.zeros((4, 3), int),
    name: array,
  }
  with pytest.raises(ValueError, match=f"`{name}` must .*{text}"):
    tables.AnchorTable(arrays.pop("anchors"), **arrays)


def test_dense_rows_must_be_as_wide_as_there_are_anchors():
  text = r"`weights` must have shape \(4, 5\) to fit `anchors` \(5, 6\), got "
  with pytest.raises(ValueError, match=text):
    tables.AnchorTable(floats(5, 6), weights=floats(4, 3))


INT8 = np.ones((4, 3), np.int8)


@pytest.mark.parametrize(
  ("arrays", "text"),
  [
    (
      {"anchors": INT8},
      "`anchor_scales` must be given for anchors of integers",
    ),
    ({"weights": INT8[:, :2]}, "`weight_scales` must be given for weights"),
    ({"anchor_scales": floats(4)}, "only for them, got float32 anchors"),
    ({"weight_scales": floats(4)}, "only for them, got float32 weights"),
    (
      {"anchors": INT8, "anchor_scales": floats(3)},
      r"`anchor_scales` must have shape \(4,\) to fit `anchors` \(4, 3\)",
    ),
    (
      {"weights": INT8[:, :2], "weight_scales": floats(2)},
      r"`weight_scales` must have shape \(4,\) to fit `weights` \(4, 2\)",
    ),
    (
      {"anchors": INT8, "anchor_scales": floats(4, dtype=np.float16)},
      "`anchor_scales` must be float32, got float16",
    ),
  ],
)
def test_integers_and_their_scales_that_do_not_fit(arrays, text):
  given = {"anchors": floats(4, 3), "weights": floats(4, 2), **arrays}
  with pytest.raises(ValueError, match=text):
    tables.AnchorTable(indices=integers(4, 4, 2), **given)


def test_masked_integers_have_a_scale_for_each_row():
  masks = np.uint8([[0b101], [0], [0b010]])
  table = tables.AnchorTable(
    np.eye(3, dtype=np.float32),
    weights=np.int8([7, 8, 9]),
    masks=masks,
    weight_scales=np.float16([2, 1, 0.5]),
  )
  expected = [[14, 0, 16], [0, 0, 0], [0, 4.5, 0]]
  np.testing.assert_array_equal(table.to_dense(), expected)
  np.testing.assert_array_equal(table.to_transform(), expected)
  assert table.num_params == 12


@pytest.mark.parametrize("cached", [1, 40])
@pytest.mark.parametrize("size", [1, 5, 7])
def test_slots_are_mixed_block_by_block(cached, size, monkeypatch):
  table, ids = make(rows=9), integers(9, size)
  dense = table.to_transform() @ table.anchors
  # Of 18 numbers for each row: one row at a time, or two.
  monkeypatch.setattr(anchor_rows, "_CACHED", cached)
  np.testing.assert_allclose(
    table.lookup(ids), dense[ids], rtol=1e-5, atol=1e-6
  )
  query = floats(6, seed=3)
  np.testing.assert_allclose(
    table.attend(query), dense @ query, rtol=1e-4, atol=1e-5
  )
