"""How well a table stands for a matrix."""

from collections.abc import Callable, Mapping

import numpy as np

from anchor_codes import tables
from anchor_codes.compression.points import blocks
from anchor_codes.tables.searching import unit

NUM_NEIGHBORS = 10
_NUM_QUERIES = 1_000
_NUM_CANDIDATES = 50_000

Metric = Callable[[tables.Table, np.ndarray], float]
"""Of a table and the float32 matrix of the same rows; more is better."""


def relative_error(
  table: tables.Table, matrix: np.ndarray, weights: np.ndarray | None = None
) -> float:
  r"""Computes the squared error as a share of the variance.

  Definition: :math:`\sum_i w_i \|x_i - e_i\|^2 / \sum_i w_i \|x_i - \bar
  x\|^2` with the weighted mean :math:`\bar x`.

  Args:
    table: What stands for the matrix.
    matrix: Floats [num_embeddings, features].
    weights: Of the rows; None or zeros for all alike.

  Returns:
    0 for equal tables, 1 for the mean in all rows.

  >>> matrix = np.float32([[0], [2]])
  >>> relative_error(tables.DenseTable(matrix + 1), matrix)
  1.0
  """
  weights = masses(weights, len(matrix))
  mean, largest = np.zeros(matrix.shape[1]), 0.0
  for block in blocks(len(matrix)):
    rows = _double(matrix[block])
    mean += weights[block] @ rows
    largest = max(largest, float(np.abs(rows).max()))
  mean /= weights.sum()
  # By a power of two, which is exact: no square is lost, however small.
  exponent = -int(np.frexp(largest)[1])
  error = variance = 0.0
  for block in blocks(len(matrix)):
    rows = _double(matrix[block])
    found = table.lookup(np.arange(block.start, block.stop))
    rests = np.ldexp(rows - found, exponent)
    error += weights[block] @ np.square(rests).sum(axis=1)
    rests = np.ldexp(rows - mean, exponent)
    variance += weights[block] @ np.square(rests).sum(axis=1)
  return float(error / variance) if variance > 0 else float(error > 0)


def mean_cosine(
  table: tables.Table, matrix: np.ndarray, weights: np.ndarray | None = None
) -> float:
  """Computes the weighted mean cosine between rows; 0 for a row of zeros.

  >>> matrix = np.float32([[3, 0], [0, 4]])
  >>> table = tables.DenseTable(matrix * np.float32([[1], [-2]]))
  >>> mean_cosine(table, matrix)
  0.0
  """
  weights = masses(weights, len(matrix))
  total = 0.0
  for block in blocks(len(matrix)):
    rows = unit(matrix[block])
    found = unit(table.lookup(np.arange(block.start, block.stop)))
    total += weights[block] @ np.einsum("nd,nd->n", rows, found)
  return float(total / weights.sum())


def shared_neighbors(
  table: tables.Table,
  matrix: np.ndarray,
  weights: np.ndarray | None = None,
  *,
  rows: np.ndarray | None = None,
) -> float:
  """Computes how many of the nearest neighbours stay.

  The mean share of the 10 rows of the largest cosine with a row, itself left
  out, that are the same in the matrix and in the table. Of large matrices
  1,000 rows are asked for, among 50,000; rows without weight are not asked for.

  Args:
    table: What stands for the matrix.
    matrix: Floats [num_embeddings, features].
    weights: Of the rows that are asked for; None or zeros for all alike.
    rows: The rows that are asked for, evenly spread ones by default.

  Returns:
    From 0 to 1.

  >>> matrix = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
  >>> shared_neighbors(tables.DenseTable(matrix), matrix)
  1.0
  """
  weights = None if weights is None else masses(weights, len(matrix))
  candidates = spread(len(matrix), _NUM_CANDIDATES)
  if rows is None:
    asked = candidates if weights is None else np.flatnonzero(weights)
    rows = asked[spread(len(asked), _NUM_QUERIES)]
  candidates = np.union1d(candidates, rows)
  exact = _neighbors(_units(matrix[candidates]), candidates, rows)
  found = _neighbors(_units(table.lookup(candidates)), candidates, rows)
  if not exact.shape[1]:
    return 1.0  # Of a single row; it has no neighbours to lose.
  shares = (exact[:, :, None] == found[:, None, :]).any(axis=2).mean(axis=1)
  mass = masses(None if weights is None else weights[rows], len(rows))
  return float(np.average(shares, weights=mass))


METRICS: Mapping[str, Callable[..., float]] = {
  "error": relative_error,
  "cosine": mean_cosine,
  "neighbors": shared_neighbors,
}
"""How a table is judged, by name; of 'error' less is better."""


def measure(
  table: tables.Table, matrix: np.ndarray, weights: np.ndarray | None = None
) -> dict[str, float]:
  """Returns all of :data:`METRICS` by name."""
  return {n: metric(table, matrix, weights) for n, metric in METRICS.items()}


def masses(weights: np.ndarray | None, size: int) -> np.ndarray:
  """Returns weights of `size` rows; ones if there are none, or none counts."""
  if weights is None or not np.any(weights):
    return np.ones(size)
  return np.asarray(weights, np.float64)


def spread(size: int, most: int) -> np.ndarray:
  """Returns at most `most` of the first `size` ids, evenly spread."""
  count = min(size, most)
  return np.arange(count) * size // max(count, 1)


def _neighbors(
  units: np.ndarray, candidates: np.ndarray, rows: np.ndarray
) -> np.ndarray:
  """Returns the places of the neighbours of some rows among candidates."""
  places = np.searchsorted(candidates, rows)
  count = min(NUM_NEIGHBORS, len(candidates) - 1)
  found = np.empty((len(rows), count), np.int64)
  for start in range(0, len(rows), 256):
    part = places[start : start + 256]
    scores = units[part] @ units.T
    scores[np.arange(len(part)), part] = -np.inf
    best = (
      scores.argpartition(-count, axis=1)[:, -count:]
      if count
      else scores[:, :0]
    )
    found[start : start + 256] = best
  return found


def _units(vectors: np.ndarray) -> np.ndarray:
  """Returns vectors of length 1 in float32, of many rows block by block."""
  units = np.empty(vectors.shape, np.float32)
  for block in blocks(len(vectors)):
    units[block] = unit(vectors[block])
  return units


def _double(rows: np.ndarray) -> np.ndarray:
  return np.asarray(rows).astype(np.float64)
