"""The nearest neighbours of the symbols that a page shows."""

from typing import NamedTuple

import numpy as np

from anchor_codes import tables
from anchor_codes.report.scope import Scope
from anchor_codes.tables import searching

COUNT = 10
"""Neighbours of each symbol."""


class Neighbors(NamedTuple):
  """Rows that are most alike by the cosine.

  Attributes:
    ids: int32 [shown, count], the best first.
    scores: Their cosines, float32 [shown, count].
  """

  ids: np.ndarray
  scores: np.ndarray


def find_neighbors(
  vectors: np.ndarray, scope: Scope, *, count: int = COUNT
) -> Neighbors:
  """Finds the neighbours of the rows that are shown, exactly.

  Args:
    vectors: The rows that are searched, float32 [searched, features].
    scope: Which rows are shown.
    count: How many; all others if there are fewer.

  Returns:
    The neighbours; no row is its own, and one of zeros is like nothing (0).

  >>> vectors = np.float32([[1, 0], [0, 3], [2, 1]])
  >>> find_neighbors(vectors, Scope(3, 1, 3)).ids
  array([[2, 1]], dtype=int32)
  """
  units = searching.unit(vectors).astype(np.float32)
  # A table finds the best block by block, and never keeps all scores.
  scores, ids = tables.DenseTable(units).top_k(
    units[: scope.shown], min(count + 1, len(units))
  )
  # The row itself goes last; where more rows are equal it may not be there.
  itself = ids == np.arange(scope.shown)[:, None]
  order = np.argsort(itself, axis=1, kind="stable")[:, :-1]
  return Neighbors(
    np.take_along_axis(ids, order, axis=1),
    np.take_along_axis(scores, order, axis=1),
  )


def kept_share(before: Neighbors, after: Neighbors) -> float:
  """Returns which part of the neighbours are the same, on average.

  >>> some, others = np.int32([[1, 2]]), np.int32([[2, 3]])
  >>> kept_share(Neighbors(some, some), Neighbors(others, others))
  0.5
  """
  same = before.ids[:, :, None] == after.ids[:, None, :]
  return float(same.any(axis=2).mean()) if same.size else 1.0
