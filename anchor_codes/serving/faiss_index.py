"""Makes a faiss index out of product codes."""

import importlib
from typing import Any

import numpy as np

from anchor_codes import tables
from anchor_codes.tables import parts
from anchor_codes.typing import num_code_bits


def to_faiss(table: tables.Table, *, fast_scan: bool = True) -> Any:
  r"""Makes a faiss index that holds the codes of a table, for inner products.

  Codes of the composition 'concat' become an ``IndexPQ`` with the codebooks and
  the codes as they are: it reconstructs the vectors of the table bit for bit.
  With 4 bits for each digit they become an ``IndexPQFastScan``, which is an
  order of magnitude faster, but rounds scores to 8 bits: ask it for several
  times as many rows as needed, and :func:`rerank` them.

  Under a rotation, :math:`e = x P + b` with :math:`P P^\top = I`, queries are
  rotated instead, by an ``IndexPreTransform``. The part of :math:`b` that no x
  can give adds the same to the scores of all rows: it is left out, which
  changes no order.

  Args:
    table: A :class:`~anchor_codes.tables.CodeTable` of 'concat', or a
      :class:`~anchor_codes.tables.ProjectedTable` of one.
    fast_scan: Whether 4-bit codes become an ``IndexPQFastScan``; if not, an
      ``IndexPQ``.

  Returns:
    A faiss index with a row for each one of the table.

  Raises:
    ImportError: If faiss is not installed.
    ValueError: If the table is not like that.

  >>> books = np.arange(64, dtype=np.float32).reshape(2, 16, 2)
  >>> table = tables.CodeTable.from_codes(
  ...     np.array([[0, 1], [15, 2]]), books, composition="concat"
  ... )
  >>> index = to_faiss(table, fast_scan=False)
  >>> print(index.reconstruct(1) == table.lookup(1))
  [ True  True  True  True]
  """
  try:
    faiss: Any = importlib.import_module("faiss")
  except ImportError as error:
    raise ImportError(
      "`to_faiss` needs the package faiss: `pip install faiss-cpu`."
    ) from error
  if isinstance(table, tables.ProjectedTable):
    rotation = parts.to_float(table.projection, table.projection_scales)
    _check_rotation(rotation)
    bias = None if table.bias is None else rotation @ table.bias
    index = _index_codes(faiss, table.inner, bias, fast_scan)
    transform = faiss.LinearTransform(*rotation.shape[::-1], False)
    faiss.copy_array_to_vector(rotation.ravel(), transform.A)
    transform.is_trained = transform.is_orthonormal = True
    return _owning(faiss.IndexPreTransform(transform, index), transform, index)
  return _index_codes(faiss, table, None, fast_scan)


def rerank(
  table: tables.Table, queries: Any, ids: Any, k: int
) -> tuple[np.ndarray, np.ndarray]:
  """Finds the best of some candidates for each query, by exact scores.

  Args:
    table: The table that the candidates are rows of.
    queries: Floats [num_queries, features].
    ids: Candidates [num_queries, num_candidates]; negative ones, which faiss
      returns where it finds too few, are none.
    k: How many to find, at most `num_candidates`.

  Returns:
    Scores float32 [num_queries, k], the highest first, and ids int32; a score
    of ``-inf`` and the id -1 where there are fewer candidates.

  Raises:
    ValueError: If the shapes do not fit or `k` is out of range.
    IndexError: If an id is past the end.

  >>> table = tables.DenseTable(np.float32([[1], [3], [2]]))
  >>> print(rerank(table, [[1.0]], [[0, 2, -1]], 1)[1])
  [[2]]
  """
  queries, ids = np.asarray(queries, np.float32), np.asarray(ids)
  if ids.ndim != 2 or queries.shape != (len(ids), table.features):
    raise ValueError(
      f"`queries` and `ids` must be [num_queries, {table.features}] and "
      f"[num_queries, num_candidates], got shapes {queries.shape} and "
      f"{ids.shape}."
    )
  if not 1 <= k <= ids.shape[1]:
    raise ValueError(
      f"`k` must be between 1 and the {ids.shape[1]} candidates, got {k}."
    )
  # By id, so that of equal scores the lower one goes first.
  ids = np.sort(ids, axis=1)
  missing = ids < 0
  vectors = table.lookup(np.where(missing, 0, ids))
  scores = np.matmul(vectors, queries[:, :, None])[:, :, 0]
  scores[missing] = -np.inf
  order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
  found = np.take_along_axis(np.where(missing, -1, ids), order, axis=1)
  return np.take_along_axis(scores, order, axis=1), found.astype(np.int32)


def _index_codes(
  faiss: Any, table: tables.Table, bias: np.ndarray | None, fast_scan: bool
) -> Any:
  if not isinstance(table, tables.CodeTable) or table.composition != "concat":
    raise ValueError(
      "`table` must be codes of the composition 'concat', with or without a "
      f"projection around them, got {table!r}."
    )
  length, digit_bits = table.code_length, num_code_bits(table.codebook_size)
  width = table.features // length
  if digit_bits < 3 and width == 2:  # As faiss asserts while it searches.
    raise ValueError(
      "`table` must have codebooks of more than 4 entries where these have 2 "
      f"features, got {table!r}."
    )
  metric = faiss.METRIC_INNER_PRODUCT
  index = faiss.IndexPQ(table.features, length, digit_bits, metric)
  faiss.copy_array_to_vector(
    _centroids(table, bias).ravel(), index.pq.centroids
  )
  index.is_trained = True
  # Both pack digits without gaps, the lowest bit of a byte first.
  index.add_sa_codes(np.ascontiguousarray(table.packed))
  if not fast_scan or digit_bits != 4:
    return index
  return faiss.IndexPQFastScan(index)


def _centroids(table: tables.CodeTable, bias: np.ndarray | None) -> np.ndarray:
  """Returns codebooks of 2 ** bits vectors each, with all that is added."""
  books = parts.to_float(table.codebooks, table.scales)
  size = 2 ** num_code_bits(table.codebook_size)
  centroids = np.zeros((table.code_length, size, books.shape[2]), np.float32)
  centroids[:, : table.codebook_size] = books
  for added in (table.bias, bias):
    if added is not None:
      centroids += added.astype(np.float32).reshape(len(centroids), 1, -1)
  return centroids


def _check_rotation(rotation: np.ndarray) -> None:
  error = np.abs(rotation @ rotation.T - np.eye(len(rotation))).max()
  # That of a rotation in float16.
  if not error <= 1e-2:
    raise ValueError(
      "`projection` must have orthonormal rows for faiss, got inner products "
      f"that are off by {error:.3g}."
    )


def _owning(outer: Any, *inner: Any) -> Any:
  """Lets an index own its parts, of which faiss itself keeps pointers only."""
  outer.referenced_objects = [*inner]
  return outer
