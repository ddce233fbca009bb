"""Tests of Lloyd's algorithm in NumPy, step by step."""

import numpy as np
import pytest

from anchor_codes.compression import clustering, points


def make(size: int, width: int) -> points.Points:
  rng = np.random.default_rng(0)
  vectors = rng.standard_normal((size, width), np.float32)
  return points.Points.of(vectors, rng.integers(0, 4, size).astype(float))


def rows_of(vectors: np.ndarray) -> set[bytes]:
  return {row.tobytes() for row in vectors}


@pytest.mark.parametrize("num_clusters", [1, 5, 20])
def test_different_rows_of_some_weight_are_drawn(num_clusters):
  given = make(60, 3)
  drawn = clustering.draw_centroids(
    np.random.default_rng(0), given, num_clusters=num_clusters
  )
  assert len(rows_of(drawn)) == len(drawn) == num_clusters
  assert rows_of(drawn) <= rows_of(given.vectors[given.weights > 0])


def test_few_rows_of_some_weight_are_all_drawn():
  given = points.Points.of(np.float32([[1], [2], [3]]), np.float64([2, 0, 1]))
  drawn = clustering.draw_centroids(
    np.random.default_rng(0), given, num_clusters=5
  )
  assert drawn.shape == (5, 1)
  assert set(drawn[:, 0].tolist()) == {1, 3}


@pytest.mark.parametrize("num_clusters", [1, 7, 60])
def test_groups_are_of_about_the_same_size(num_clusters):
  vectors = np.eye(60, dtype=np.float32)
  means = clustering.group_centroids(
    np.random.default_rng(0),
    points.Points.of(vectors),
    num_clusters=num_clusters,
  )
  counts = np.count_nonzero(means, axis=1)
  assert counts.sum() == 60
  assert np.ptp(counts) <= 1
  np.testing.assert_allclose(means.sum(axis=1), 1, rtol=1e-6)


def test_groups_without_rows_of_weight_have_one_that_is_drawn():
  given = points.Points.of(np.float32([[1], [2], [3]]), np.float64([2, 0, 1]))
  means = clustering.group_centroids(
    np.random.default_rng(0), given, num_clusters=8
  )
  assert means.shape == (8, 1)
  assert set(means[:, 0].tolist()) == {1, 3}


def test_rows_are_drawn_by_their_weights():
  given = points.Points.of(np.float32([[1], [2]]), np.float64([9, 1]))
  rng = np.random.default_rng(0)
  drawn = [
    clustering.draw_centroids(rng, given, num_clusters=1)[0, 0]
    for _ in range(1000)
  ]
  # Five standard deviations around nine in ten.
  assert abs(np.mean(np.equal(drawn, 1)) - 0.9) < 0.05


@pytest.mark.parametrize("width", [3, 12, 13, 20])
@pytest.mark.parametrize("count", [4, 64, 65])
def test_centroids_move_to_the_weighted_means(width, count):
  given = make(1000, width)
  assignments = np.arange(1000) % count
  moved = clustering.update(
    np.random.default_rng(0),
    given,
    assignments,
    np.zeros((count, width), np.float32),
  )
  assert moved.dtype == np.float32
  for i in range(count):
    members = assignments == i
    mean = np.average(
      given.vectors[members], axis=0, weights=given.weights[members]
    )
    np.testing.assert_allclose(moved[i], mean, rtol=1e-4, atol=1e-5)


def test_centroids_without_points_of_any_weight_move_to_some():
  vectors = np.float32([[1], [2], [3]])
  given = points.Points.of(vectors, np.float64([1, 1, 0]))
  moved = clustering.update(
    np.random.default_rng(0),
    given,
    np.array([0, 0, 2]),
    np.full((3, 1), 9, np.float32),
  )
  assert moved[0] == 1.5
  assert set(moved[1:, 0].tolist()) == {1, 2}


@pytest.mark.parametrize("num_clusters", [2, 9])
def test_steps_never_make_the_error_larger(num_clusters):
  given = make(200, 4)
  errors = []
  for steps in range(5):
    rng = np.random.default_rng(3)
    centroids = clustering.cluster(
      rng,
      given,
      centroids=clustering.draw_centroids(
        rng, given, num_clusters=num_clusters
      ),
      num_iterations=steps,
    )
    nearest = clustering.assign(given.vectors, centroids)
    rest = np.square(given.vectors - centroids[nearest]).sum(axis=1)
    errors.append(given.weights @ rest)
  assert all(np.diff(errors) <= 1e-3)
  assert errors[-1] < 0.9 * errors[0]
