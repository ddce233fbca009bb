"""Tests of the best rows for queries."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_cases import CASES, V, floats

from anchor_codes import serving, tables
from anchor_codes.tables import products, searching


def reference(scores, k):
  """All scores in order; a stable sort puts the lower id first."""
  ids = np.argsort(-scores, axis=-1, kind="stable")[..., :k]
  return np.take_along_axis(scores, ids, axis=-1), ids


@pytest.mark.parametrize("name", CASES)
def test_the_best_are_those_of_all_scores(name):
  table = CASES[name]().table
  queries = floats(2, 3, table.features, seed=3)
  for k in (1, 4, V):
    scores, ids = table.top_k(queries, k)
    assert (scores.dtype, ids.dtype) == (np.float32, np.int32)
    assert scores.shape == ids.shape == (2, 3, k)
    expected, _ = reference(table.attend(queries), k)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)
    rows = table.lookup(ids)
    products_ = np.einsum("abkf,abf->abk", rows, queries)
    np.testing.assert_allclose(scores, products_, rtol=1e-4, atol=1e-4)


@given(
  st.integers(1, 40), st.integers(1, 6), st.integers(1, 7), st.integers(0, 99)
)
def test_ties_and_blocks(size, rows, num_queries, seed):
  rng = np.random.default_rng(seed)
  # Few different scores, all of them exact: many ties.
  vectors = rng.integers(-1, 2, (size, 2)).astype(np.float32)
  queries = rng.integers(-1, 2, (num_queries, 2)).astype(np.float32)
  table = tables.DenseTable(vectors)
  for k in {1, (size + 1) // 2, size}:
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(searching, "_ROWS", rows)
      patch.setattr(searching, "_QUERIES", 3)
      scores, ids = searching.top_k(table, queries, k)
    expected, expected_ids = reference(queries @ vectors.T, k)
    np.testing.assert_array_equal(scores, expected)
    np.testing.assert_array_equal(ids, expected_ids)


@pytest.mark.parametrize("step", [1, -1])
def test_sorted_tables_are_searched_alike(step):
  vectors = np.arange(20_000, dtype=np.float32)[::step, None]
  table = tables.DenseTable(vectors)
  scores, ids = table.top_k([[1.0], [-1.0]], 300)
  expected, expected_ids = reference(np.array([[1.0], [-1.0]]) @ vectors.T, 300)
  np.testing.assert_array_equal(scores, expected)
  np.testing.assert_array_equal(ids, expected_ids)


def test_one_query_has_no_other_axes():
  table = tables.DenseTable(np.eye(3, dtype=np.float32))
  scores, ids = table.top_k([0, 2, 1], 2)
  assert (scores.tolist(), ids.tolist()) == ([2, 1], [1, 2])
  assert table.top_k(np.zeros((0, 3)), 2)[0].shape == (0, 2)


@pytest.mark.parametrize(
  ("queries", "k", "text"),
  [
    (np.zeros(2), 1, r"`queries` must be \[..., 3\], got shape \(2,\)"),
    (np.full(3, np.nan), 1, "`queries` must be finite"),
    (np.full(3, np.inf), 1, "`queries` must be finite"),
    (np.full(3, 1e300), 1, "`queries` must be finite"),
    (
      np.zeros(3),
      0,
      "`k` must be between 1 and the 3 rows of the table, got 0",
    ),
    (np.zeros(3), 4, "got 4"),
  ],
)
def test_bad_arguments_are_named(queries, k, text):
  table = tables.DenseTable(np.eye(3, dtype=np.float32))
  with pytest.raises(ValueError, match=text):
    table.top_k(queries, k)


def test_the_full_table_is_never_there():
  num_rows, books = 50_000, floats(4, 256, 8)
  codes = np.random.default_rng(0).integers(0, 256, (num_rows, 4))
  table = tables.CodeTable.from_codes(codes, books, composition="concat")
  queries = floats(64, 32)
  tracemalloc.start()
  table.top_k(queries, 10)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  # Neither the vectors nor the scores, 6.4 and 12.8 MB.
  assert peak < 5e6


@pytest.mark.parametrize("size", [0, 1, 7, 8, 100, 700])
@pytest.mark.parametrize(("width", "number"), [(128, 64), (3, 1), (2000, 64)])
def test_products_of_blocks_are_products(size, width, number):
  rows, columns = floats(size, width), floats(width, number, seed=1)
  product = products.product(rows, columns)
  assert product.shape == (size, number)
  np.testing.assert_allclose(product, rows @ columns, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("damaged", [0, 5000])
def test_a_row_of_nan_hides_no_other(damaged):
  vectors = floats(9000, 3)
  vectors[0], vectors[8000] = 40, 50
  vectors[damaged] = np.nan
  table = tables.DenseTable(vectors)
  for found in (table, serving.to_jax(table)):
    scores, ids = found.top_k(np.ones(3, np.float32), 2)
    assert np.isfinite(scores).all()
    assert ids[0] == 8000
    assert damaged not in ids


def test_rows_of_nan_are_found_if_there_are_no_others():
  table = tables.DenseTable(np.full((3, 1), np.nan, np.float32))
  scores, ids = table.top_k([1.0], 2)
  np.testing.assert_array_equal(ids, [0, 1])
  np.testing.assert_array_equal(scores, -np.inf)


def test_rows_of_nan_come_last():
  table = tables.DenseTable(np.float32([[np.nan], [1], [2]]))
  scores, ids = table.top_k([1.0], 3)
  np.testing.assert_array_equal(ids, [2, 1, 0])
  np.testing.assert_array_equal(scores, [2, 1, -np.inf])
