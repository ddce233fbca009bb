"""Tests of indices of faiss made out of codes."""

import sys

import faiss
import numpy as np
import pytest
from serving_cases import codes, dense, floats, integers, projected, rotated

from anchor_codes import serving, tables


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
  number = faiss.omp_get_max_threads()
  faiss.omp_set_num_threads(1)
  yield
  faiss.omp_set_num_threads(number)


def large(codebook_size=256, *, bias=False, positions=8, num=2000):
  books = floats(positions, codebook_size, 3, seed=1)
  digits = integers(codebook_size, num, 8)
  return tables.CodeTable.from_codes(
    digits,
    books,
    composition="concat",
    bias=floats(24, seed=2) if bias else None,
  )


@pytest.mark.parametrize("codebook_size", [2, 5, 16, 100, 256, 512])
@pytest.mark.parametrize("bias", [False, True])
def test_vectors_are_reconstructed_bit_for_bit(codebook_size, bias):
  table = large(codebook_size, bias=bias)
  index = serving.to_faiss(table, fast_scan=False)
  assert index.ntotal == table.num_embeddings
  assert index.metric_type == faiss.METRIC_INNER_PRODUCT
  np.testing.assert_array_equal(
    index.reconstruct_n(0, table.num_embeddings), table.to_dense()
  )


@pytest.mark.parametrize("make", [large, lambda: large(positions=1, bias=True)])
def test_the_search_is_that_of_the_table(make):
  table = make()
  queries = floats(5, table.features, seed=3)
  scores, ids = serving.to_faiss(table).search(queries, 10)
  expected, expected_ids = table.top_k(queries, 10)
  np.testing.assert_array_equal(ids, expected_ids)
  np.testing.assert_allclose(scores, expected, rtol=1e-4)


def test_int8_codebooks_become_floats():
  table = codes("concat", is_int8=True)
  index = serving.to_faiss(table, fast_scan=False)
  np.testing.assert_array_equal(
    index.reconstruct_n(0, table.num_embeddings), table.to_dense()
  )


def test_rotations_go_to_the_queries():
  table = rotated()
  index = serving.to_faiss(table, fast_scan=False)
  queries = floats(4, table.features, seed=3)
  scores, ids = index.search(queries, 5)
  expected, expected_ids = table.top_k(queries, 5)
  np.testing.assert_array_equal(ids, expected_ids)
  np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(
    index.reconstruct_n(0, table.num_embeddings),
    table.to_dense(),
    rtol=1e-4,
    atol=1e-5,
  )


def test_what_lies_outside_of_the_components_changes_no_order():
  basis = np.linalg.qr(floats(30, 24))[0].T
  bias = floats(30, seed=5)
  table = tables.ProjectedTable(large(), projection=basis, bias=bias)
  queries = floats(4, 30, seed=3)
  scores, ids = serving.to_faiss(table).search(queries, 5)
  expected, expected_ids = table.top_k(queries, 5)
  np.testing.assert_array_equal(ids, expected_ids)
  left_out = queries @ (bias - basis.T @ (basis @ bias))
  np.testing.assert_allclose(
    scores + left_out[:, None], expected, rtol=1e-4, atol=1e-4
  )


def test_four_bits_are_scanned_fast_and_ranked_again():
  table = large(16, num=5000)
  index = serving.to_faiss(table)
  assert isinstance(index, faiss.IndexPQFastScan)
  queries = floats(20, table.features, seed=3)
  _, expected = table.top_k(queries, 10)
  candidates = index.search(queries, 100)[1]
  scores, ids = serving.rerank(table, queries, candidates, 10)
  hits = [len({*a} & {*b}) for a, b in zip(ids, expected, strict=True)]
  assert np.mean(hits) >= 9.5
  exact = np.einsum("qkf,qf->qk", table.lookup(ids), queries)
  np.testing.assert_allclose(scores, exact, rtol=1e-4)


@pytest.mark.parametrize("codebook_size", [5, 100])
def test_codes_of_other_widths_are_not_scanned_fast(codebook_size):
  index = serving.to_faiss(large(codebook_size))
  assert type(index) is faiss.IndexPQ


def test_many_equal_candidates_go_by_id_and_none_is_minus_one():
  table = tables.DenseTable(np.float32(np.arange(100) % 3)[:, None])
  ids = np.random.default_rng(0).permutation(np.arange(-7, 100))[None]
  scores, found = serving.rerank(table, np.ones((1, 1)), ids, ids.shape[1])
  rows = np.arange(100)
  expected = np.concatenate([rows[rows % 3 == r] for r in (2, 1, 0)])
  np.testing.assert_array_equal(found[0], [*expected, *[-1] * 7])
  assert np.isneginf(scores[0, 100:]).all()


def test_candidates_are_ranked_by_score_then_id():
  table = tables.DenseTable(np.float32([[1], [3], [1], [2]]))
  scores, ids = serving.rerank(
    table, [[1.0], [-1.0]], [[2, 0, 3], [1, -1, -1]], 3
  )
  assert ids.tolist() == [[3, 0, 2], [1, -1, -1]]
  assert scores.tolist() == [[2, 1, 1], [-3, -np.inf, -np.inf]]
  for k in (0, 4):
    with pytest.raises(ValueError, match="`k` must be between 1 and the 3"):
      serving.rerank(table, [[1.0]], [[0, 1, 2]], k)
  with pytest.raises(ValueError, match="`queries` and `ids` must be"):
    serving.rerank(table, [1.0], [[0]], 1)
  with pytest.raises(IndexError, match="id 4"):
    serving.rerank(table, [[1.0]], [[4]], 1)


@pytest.mark.parametrize(
  ("table", "text"),
  [
    (dense("int8"), "must be codes of the composition 'concat'"),
    (codes("sum"), "must be codes of the composition 'concat'"),
    (
      tables.ProjectedTable(
        codes("concat"), projection=2 * np.eye(6, dtype="f4")
      ),
      "must have orthonormal rows for faiss, got inner products that are off",
    ),
    (projected(), "must have orthonormal rows"),
  ],
)
def test_other_tables_are_refused(table, text):
  with pytest.raises(ValueError, match=text):
    serving.to_faiss(table)


def test_missing_faiss_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "faiss", None)
  with pytest.raises(ImportError, match="pip install faiss-cpu"):
    serving.to_faiss(large())


def test_codebooks_that_faiss_cannot_search_are_refused():
  table = tables.CodeTable.from_codes(
    integers(4, 50, 4), floats(4, 4, 2), composition="concat"
  )
  with pytest.raises(ValueError, match="codebooks of more than 4 entries"):
    serving.to_faiss(table)
