"""Tests of what recipes know of all vectors, against the definitions."""

import numpy as np
import pytest

from anchor_codes.compression import points

V, F = 40, 5


def make(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """Returns vectors far from zero, and weights, of which some are zero."""
  rng = np.random.default_rng(seed)
  vectors = 10 + rng.standard_normal((V, F), np.float32) * np.arange(1, F + 1)
  return vectors.astype(np.float32), rng.integers(0, 4, V).astype(float)


def test_weights_have_the_mean_one():
  vectors, weights = make()
  found = points.Points.of(vectors, 3 * weights).weights
  np.testing.assert_allclose(found, weights / weights.mean())
  for nothing in (None, np.zeros(V)):
    found = points.Points.of(vectors, nothing).weights
    np.testing.assert_array_equal(found, np.ones(V))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("block", [7, V])
def test_mean_and_components_are_those_of_the_covariance(
  weighted, block, monkeypatch
):
  monkeypatch.setattr(points, "_BLOCK", block)
  vectors, weights = make()
  if not weighted:
    weights = np.ones(V)
  found = points.Points.of(vectors, weights)
  mean = np.average(vectors, axis=0, weights=weights)
  np.testing.assert_allclose(found.mean, mean, rtol=1e-5)
  covariance = np.cov(vectors.T, aweights=weights, ddof=0)
  variances, directions = found.components
  assert (np.diff(variances) <= 0).all()
  np.testing.assert_allclose(directions @ directions.T, np.eye(F), atol=1e-5)
  spectrum = directions.T @ (variances[:, None] * directions)
  np.testing.assert_allclose(spectrum, covariance, rtol=1e-4, atol=1e-4)


def test_others_have_the_same_weights():
  vectors, weights = make()
  first = points.Points.of(vectors, weights)
  assert first.features == F
  other = first.replace(vectors[:, :2])
  assert other.features == 2
  assert other.weights is first.weights
  mean = np.average(vectors[:, :2], axis=0, weights=weights)
  np.testing.assert_allclose(other.mean, mean, rtol=1e-5)


@pytest.mark.parametrize("shape", [(3, 4), (3, 2, 5)])
def test_rounding_is_within_half_a_step(shape):
  array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
  rounded, scales = points.round_array(array)
  assert (rounded.dtype, scales.dtype) == (np.int8, np.float32)
  steps = scales.reshape(-1, *[1] * (len(shape) - 1))
  assert np.all(np.abs(rounded * steps - array) <= 0.5001 * steps)
  # No smaller step holds the largest value.
  largest = np.abs(rounded).max(axis=tuple(range(1, len(shape))))
  np.testing.assert_array_equal(largest, 127)
