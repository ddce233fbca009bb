"""Tests of sparse coding: anchors and rows are the best for each other."""

import numpy as np

from anchor_codes import compression
from anchor_codes.compression import points, recipes, sparse_coding


def test_anchors_are_those_of_the_least_weighted_error():
  rng = np.random.default_rng(0)
  vectors = rng.standard_normal((60, 5), np.float32)
  given = points.Points.of(vectors, rng.integers(0, 9, 60).astype(float))
  indices = np.stack([rng.permutation(4)[:2] for _ in range(60)])
  weights = rng.standard_normal((60, 2), np.float32)
  start = np.zeros((4, 5), np.float32)
  found = sparse_coding._update(rng, given, indices, weights, start)
  transform = np.zeros((60, 4))
  np.put_along_axis(transform, indices, weights, axis=1)
  roots = np.sqrt(given.weights)[:, None]
  expected = np.linalg.lstsq(roots * transform, roots * vectors)[0]
  expected /= np.linalg.norm(expected, axis=1, keepdims=True)
  np.testing.assert_allclose(found, expected, atol=1e-4)


def test_anchors_without_rows_start_again_at_rows():
  rng = np.random.default_rng(0)
  vectors = rng.standard_normal((60, 5), np.float32)
  given = points.Points.of(vectors)
  indices, weights = np.zeros((60, 1), np.int64), np.ones((60, 1), np.float32)
  start = np.zeros((3, 5), np.float32)
  found = sparse_coding._update(rng, given, indices, weights, start)
  units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
  for anchor in found[1:]:
    assert np.abs(units @ anchor - 1).min() < 1e-5


def test_rounds_come_near_the_anchors_that_vectors_were_mixed_of(monkeypatch):
  rng = np.random.default_rng(0)
  anchors = rng.standard_normal((6, 12), np.float32)
  transform = np.zeros((500, 6), np.float32)
  for row in transform:
    row[rng.permutation(6)[:2]] = rng.standard_normal(2) + 2
  vectors = transform @ anchors
  errors = []
  for rounds in (0, sparse_coding._NUM_ROUNDS):
    monkeypatch.setattr(sparse_coding, "_NUM_ROUNDS", rounds)
    table = recipes.Anchors(6, 2).fit(
      np.random.default_rng(0), points.Points.of(vectors)
    )
    errors.append(compression.relative_error(table, vectors))
  assert errors[1] < 0.6 * errors[0]
