"""Tests of the measures of a table against the definitions."""

import numpy as np
import pytest

from anchor_codes import compression, tables
from anchor_codes.compression import quality

V, F = 60, 5


def pair() -> tuple[np.ndarray, np.ndarray]:
  rng = np.random.default_rng(0)
  matrix = rng.standard_normal((V, F), np.float32) + 1
  return matrix, matrix + 0.4 * rng.standard_normal((V, F), np.float32)


def neighbors(vectors: np.ndarray, row: int) -> set[int]:
  units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
  scores = units @ units[row]
  scores[row] = -2
  return set(np.argsort(-scores)[:10].tolist())


@pytest.mark.parametrize("weights", [None, np.arange(V, dtype=float)])
def test_definitions(weights):
  matrix, other = pair()
  table = tables.DenseTable(other)
  mass = np.ones(V) if weights is None else weights
  mean = np.average(matrix, axis=0, weights=mass)
  error = mass @ np.square(matrix - other).sum(axis=1)
  error /= mass @ np.square(matrix - mean).sum(axis=1)
  found = compression.relative_error(table, matrix, weights)
  assert found == pytest.approx(error, rel=1e-5)
  lengths = np.linalg.norm(matrix, axis=1) * np.linalg.norm(other, axis=1)
  cosine = np.average((matrix * other).sum(axis=1) / lengths, weights=mass)
  found = compression.mean_cosine(table, matrix, weights)
  assert found == pytest.approx(cosine, rel=1e-5)
  same = [
    len(neighbors(matrix, i) & neighbors(other, i)) / 10 for i in range(V)
  ]
  found = compression.shared_neighbors(table, matrix, weights)
  assert found == pytest.approx(np.average(same, weights=mass))


def test_equal_tables_are_perfect():
  matrix, _ = pair()
  table = tables.DenseTable(matrix)
  assert compression.relative_error(table, matrix) == 0
  assert compression.mean_cosine(table, matrix) == pytest.approx(1)
  assert compression.shared_neighbors(table, matrix) == 1


def test_large_matrices_are_sampled(monkeypatch):
  monkeypatch.setattr(quality, "_NUM_QUERIES", 7)
  monkeypatch.setattr(quality, "_NUM_CANDIDATES", 30)
  matrix, other = pair()
  value = compression.shared_neighbors(tables.DenseTable(other), matrix)
  assert 0 < value < 1
  rows = np.array([3, 59])
  exact = compression.shared_neighbors(
    tables.DenseTable(matrix), matrix, rows=rows
  )
  assert exact == 1


def test_neighbors_of_many_rows():
  rng = np.random.default_rng(0)
  matrix = rng.standard_normal((600, F), np.float32)
  other = matrix + rng.standard_normal((600, F), np.float32)
  same = [
    len(neighbors(matrix, i) & neighbors(other, i)) / 10 for i in range(600)
  ]
  found = compression.shared_neighbors(tables.DenseTable(other), matrix)
  assert found == pytest.approx(np.mean(same))


@pytest.mark.parametrize(
  ("size", "most"), [(10, 4), (7, 7), (5, 9), (100_001, 1_000), (0, 3)]
)
def test_rows_are_spread_evenly(size, most):
  ids = quality.spread(size, most)
  assert len(ids) == min(size, most)
  # From the first one to the end, in steps that differ by one at most.
  steps = np.diff(ids, prepend=[], append=size)
  assert size == 0 or ids[0] == 0
  assert np.ptp(steps[: len(ids)]) <= 1 if size else not len(ids)


def test_rows_that_are_all_the_same():
  """Without a variance anything that is lost is all that there is."""
  matrix = np.full((9, F), 3, np.float32)
  assert compression.relative_error(tables.DenseTable(matrix), matrix) == 0
  other = tables.DenseTable(matrix + np.float32(1e-3))
  assert compression.relative_error(other, matrix) == 1


@pytest.mark.parametrize("size", [1, 2])
def test_few_rows(size):
  matrix = pair()[0][:size]
  table = tables.DenseTable(matrix)
  for metric in compression.METRICS.values():
    assert np.isfinite(metric(table, matrix))


@pytest.mark.parametrize("power", [-83, -140, 66, 120])
def test_measures_do_not_depend_on_the_scale(power):
  matrix, other = pair()
  for metric in compression.METRICS.values():
    expected = metric(tables.DenseTable(other), matrix)
    scaled = tables.DenseTable(np.ldexp(other, power))
    found = metric(scaled, np.ldexp(matrix, power))
    assert found == pytest.approx(expected, rel=1e-2)  # -140: few bits stay.


@pytest.mark.parametrize("factor", [1e-25, 1e-200])
def test_what_is_lost_is_an_error_at_any_scale(factor):
  matrix = pair()[0].astype(np.float64)
  matrix -= matrix.mean(axis=0)
  table = tables.DenseTable(np.zeros((V, F), np.float32))
  error = compression.relative_error(table, factor * matrix)
  assert error == pytest.approx(1)


def test_few_rows_of_any_weight(monkeypatch):
  monkeypatch.setattr(quality, "_NUM_QUERIES", 7)
  monkeypatch.setattr(quality, "_NUM_CANDIDATES", 30)
  matrix, other = pair()
  table = tables.DenseTable(other)
  weights = np.zeros(V)
  weights[31] = 2  # Not among the rows that are spread evenly.
  found = compression.shared_neighbors(table, matrix, weights)
  assert found == compression.shared_neighbors(
    table, matrix, rows=np.array([31])
  )


@pytest.mark.parametrize("metric", compression.METRICS.values())
def test_without_any_weight_all_rows_count_alike(metric):
  matrix, other = pair()
  table = tables.DenseTable(other)
  assert metric(table, matrix, np.zeros(V)) == metric(table, matrix)
