"""The best rows of a table for some queries, in NumPy."""

import operator
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

# At run time the module of the tables imports this one.
if TYPE_CHECKING:
  from anchor_codes.tables.base import Table

_ROWS = 4096  # Scored at a time: they stay in the cache.
_QUERIES = 64  # Scored at a time: their scores do, too.


def top_k(
  table: "Table", queries: Any, k: int
) -> tuple[np.ndarray, np.ndarray]:
  """Finds the rows with the highest inner products with queries, exactly.

  Rows are scored block by block, each against the worst score that is still
  among the best: the full table is never built, nor are all scores kept.

  Args:
    table: A table of any kind.
    queries: Finite floats [..., features].
    k: How many rows to find, 1 to ``table.num_embeddings``.

  Returns:
    Scores float32 [..., k], the highest first, and the ids of the rows int32
    [..., k]. Of equal scores the lower id goes first.

  Raises:
    ValueError: If the queries are not `features` wide or not finite, or `k` is
      out of range.

  >>> from anchor_codes import tables
  >>> table = tables.DenseTable(np.array([[1, 0], [0, 2], [3, 0]], np.float32))
  >>> scores, ids = top_k(table, [1.0, 1.0], 2)
  >>> print(scores, ids)
  [3. 2.] [2 1]
  """
  with np.errstate(over="ignore"):  # The check below says it better.
    queries = np.asarray(queries, np.float32)
  _check(table, queries, k)
  flat = queries.reshape(-1, table.features)
  scores = np.empty((len(flat), k), np.float32)
  ids = np.empty((len(flat), k), np.int32)
  for start in range(0, len(flat), _QUERIES):
    some = slice(start, start + _QUERIES)
    for row, best in enumerate(_search(table, flat[some], k), start):
      scores[row], ids[row] = best
  shape = (*queries.shape[:-1], k)
  return scores.reshape(shape), ids.reshape(shape)


def unit(vectors: np.ndarray) -> np.ndarray:
  """Returns vectors [..., features] of length 1 in float64; zeros stay.

  >>> unit(np.float32([[3e-30, 4e-30], [0, 0]]))
  array([[0.6, 0.8],
         [0. , 0. ]])
  """
  # In float32 the squares of small numbers are 0.
  vectors = vectors.astype(np.float64)
  lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
  return vectors / np.where(lengths > 0, lengths, 1)


def _check(table: "Table", queries: np.ndarray, k: int) -> None:
  if queries.shape[-1:] != (table.features,):
    raise ValueError(
      f"`queries` must be [..., {table.features}], got shape {queries.shape}."
    )
  if not np.isfinite(queries).all():
    raise ValueError("`queries` must be finite, got nan or infinity.")
  if not 1 <= operator.index(k) <= table.num_embeddings:
    raise ValueError(
      f"`k` must be between 1 and the {table.num_embeddings} rows of the "
      f"table, got {k}."
    )


def _search(
  table: "Table", queries: np.ndarray, k: int
) -> list[tuple[np.ndarray, np.ndarray]]:
  """Returns the best scores and ids of each of a few queries."""
  shared = table._score_shared(np.ascontiguousarray(queries.T))
  nothing = np.empty(0, np.float32), np.empty(0, np.int32)
  best = [nothing] * len(queries)
  worst = np.full(len(queries), -np.inf, np.float32)
  for rows in _row_blocks(table.num_embeddings, k):
    scores = table._score_rows(np.arange(rows.start, rows.stop), shared)
    highest = scores.max(axis=0)
    if np.isnan(highest).any():  # Of a damaged row, which is never the best.
      scores = np.where(np.isnan(scores), np.float32(-np.inf), scores)
      highest = scores.max(axis=0)
    # Only a few rows of a later block are good enough for any query.
    for i in np.flatnonzero((highest > worst) | (rows.start == 0)):
      best[i] = _merge(best[i], scores[:, i], rows.start, k)
      worst[i] = best[i][0][-1]
  return best


def _row_blocks(num_embeddings: int, k: int) -> Iterator[slice]:
  """Yields slices of rows; the first holds enough for all the best."""
  start, stop = 0, min(max(_ROWS, k), num_embeddings)
  while start < stop:
    yield slice(start, stop)
    start, stop = stop, min(stop + _ROWS, num_embeddings)


def _merge(
  best: tuple[np.ndarray, np.ndarray], scores: np.ndarray, start: int, k: int
) -> tuple[np.ndarray, np.ndarray]:
  """Merges the scores of a block of rows from `start` on into the best."""
  if len(best[0]):
    # Later ids lose a tie, so that what equals the worst is out.
    good = np.flatnonzero(scores > best[0][-1])
  else:
    good = np.arange(len(scores))
  values = np.concatenate([best[0], scores[good]])
  ids = np.concatenate([best[1], (start + good).astype(np.int32)])
  if len(values) > 4 * k:  # A full sort would take longer than a partition.
    among = np.flatnonzero(values >= np.partition(values, -k)[-k])
    values, ids = values[among], ids[among]
  # Stable: equal scores stay in the order of their ids.
  order = np.argsort(-values, kind="stable")[:k]
  return values[order], ids[order]
