"""Tests of clustering."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from anchor_codes.ops import clustering, codes

KEY = jax.random.key(0)


def _normal(seed, *shape):
  return jnp.asarray(reference.normal(seed, *shape))


def _blobs(num_clusters, size, features):
  """Points around centres that are far apart, and the centres."""
  rng = np.random.default_rng(0)
  centres = 100 * np.eye(num_clusters, features) + 7
  noise = rng.normal(size=(size, num_clusters, features))
  points = (centres + noise).reshape(-1, features)
  return jnp.asarray(points, jnp.float32), centres


# --- kmeans ---


def test_blobs_are_found():
  points, centres = _blobs(5, 200, 6)
  clusters = clustering.kmeans(KEY, points, num_clusters=5)
  order = np.argsort([np.argmax(c - 7) for c in np.asarray(clusters.centroids)])
  np.testing.assert_allclose(clusters.centroids[order], centres, atol=0.5)
  labels = np.asarray(clusters.assignments).reshape(200, 5)
  np.testing.assert_array_equal(labels, np.broadcast_to(order, (200, 5)))
  np.testing.assert_allclose(clusters.distortion, 6, rtol=0.1)


def test_the_result_is_consistent():
  points = _normal(0, 300, 4)
  clusters = clustering.kmeans(KEY, points, num_clusters=7)
  distances = reference.squared_distances(
    points, np.asarray(clusters.centroids)
  )
  np.testing.assert_array_equal(
    clusters.assignments, np.argmin(distances, axis=1)
  )
  np.testing.assert_allclose(
    clusters.distortion, distances.min(axis=1).mean(), rtol=1e-5
  )
  assert clusters.assignments.dtype == jnp.int32


def test_a_fixed_point_is_a_mean_of_its_points():
  points = _normal(0, 300, 4)
  clusters = clustering.kmeans(KEY, points, num_clusters=7, num_iterations=200)
  for k in range(7):
    members = np.asarray(points)[np.asarray(clusters.assignments) == k]
    np.testing.assert_allclose(
      clusters.centroids[k], members.mean(axis=0), atol=1e-5
    )


def test_iterations_do_not_hurt():
  points = _normal(0, 300, 4)
  distortions = [
    float(
      clustering.kmeans(
        KEY, points, num_clusters=7, num_iterations=n
      ).distortion
    )
    for n in (0, 1, 5, 25)
  ]
  assert distortions == sorted(distortions, reverse=True)
  assert distortions[-1] < 0.9 * distortions[0]


def test_the_start_consists_of_different_points():
  points = _normal(0, 50, 3)
  start = clustering.kmeans(KEY, points, num_clusters=50, num_iterations=0)
  distances = reference.squared_distances(points, np.asarray(start.centroids))
  assert (distances.min(axis=0) < 1e-10).all()
  assert len(set(np.argmin(distances, axis=0).tolist())) == 50


def test_one_cluster_is_the_mean():
  points = _normal(0, 64, 3)
  clusters = clustering.kmeans(KEY, points, num_clusters=1)
  np.testing.assert_allclose(
    clusters.centroids, jnp.mean(points, axis=0, keepdims=True), atol=1e-6
  )


def test_as_many_clusters_as_different_points_are_exact():
  distinct = _normal(0, 9, 4)
  points = distinct[jax.random.randint(KEY, (500,), 0, 9)]
  for seed in range(5):
    clusters = clustering.kmeans(
      jax.random.key(seed), points, num_clusters=9, num_iterations=5
    )
    assert clusters.distortion < 1e-10


def test_more_clusters_than_different_points_are_finite():
  points = jnp.ones((8, 2)).at[4:].set(3.0)
  clusters = clustering.kmeans(KEY, points, num_clusters=5)
  chex.assert_tree_all_finite(clusters)
  assert clusters.distortion < 1e-12


def test_a_large_offset_costs_little_precision():
  points, _ = _blobs(4, 50, 4)
  moved = clustering.kmeans(KEY, points / 100 + 1000, num_clusters=4)
  np.testing.assert_allclose(moved.distortion, 4e-4, rtol=0.2)


def test_empty_clusters_start_again_at_far_points():
  points = jnp.array([[0.0], [0.1], [50.0], [90.0]])
  # All points are nearest to centroid 0; 1 and 2 are empty.
  centroids = jnp.array([[10.0], [-1e6], [-2e6]])
  nearest, distances = clustering._assign(points, centroids)
  np.testing.assert_array_equal(nearest, 0)
  updated = clustering._update(points, jnp.ones(4), nearest, distances, 3)
  np.testing.assert_allclose(updated, [[35.025], [90.0], [50.0]])


def test_weights_are_multiplicities():
  points = _normal(0, 40, 3)
  counts = jax.random.randint(KEY, (40,), 0, 4)
  repeated = jnp.repeat(points, counts, axis=0, total_repeat_length=60)
  repeated = repeated[: int(jnp.sum(counts))]
  clusters = clustering.kmeans(
    KEY, points, num_clusters=5, weights=counts.astype(jnp.float32)
  )
  distances = reference.squared_distances(
    repeated, np.asarray(clusters.centroids)
  )
  np.testing.assert_allclose(
    clusters.distortion, distances.min(axis=1).mean(), rtol=1e-5
  )
  again = clustering.kmeans(
    KEY, points, num_clusters=5, weights=7 * counts.astype(jnp.float32)
  )
  chex.assert_trees_all_close(again, clusters, rtol=1e-4)


def test_points_without_weight_have_no_influence():
  points, _ = _blobs(3, 50, 3)
  far = jnp.full((10, 3), 1e4)
  weights = jnp.concatenate([jnp.ones(150), jnp.zeros(10)])
  clusters = clustering.kmeans(
    KEY, jnp.concatenate([points, far]), num_clusters=3, weights=weights
  )
  np.testing.assert_allclose(clusters.distortion, 3, rtol=0.2)


def test_the_key_alone_decides():
  points = _normal(0, 200, 3)
  first, again, other = (
    clustering.kmeans(
      jax.random.key(seed), points, num_clusters=9, num_iterations=2
    )
    for seed in (0, 0, 1)
  )
  chex.assert_trees_all_equal(first, again)
  assert bool(jnp.any(first.centroids != other.centroids))


def test_blocks_do_not_matter(monkeypatch):
  points = _normal(0, 333, 3)
  whole = clustering.kmeans(KEY, points, num_clusters=9)
  monkeypatch.setattr(clustering, "_BLOCK_ENTRIES", 450)
  clustering._kmeans.clear_cache()
  blocked = clustering.kmeans(KEY, points, num_clusters=9)
  clustering._kmeans.clear_cache()
  chex.assert_trees_all_close(whole, blocked, rtol=1e-5, atol=1e-5)


def test_distances_are_never_all_in_memory():
  points = jax.ShapeDtypeStruct((100_000, 4), jnp.float32)
  weights = jax.ShapeDtypeStruct((100_000,), jnp.float32)
  compiled = clustering._kmeans.lower(KEY, points, weights, 256, 3).compile()
  all_distances = 100_000 * 256 * 4
  assert compiled.memory_analysis().temp_size_in_bytes < all_distances / 4


def test_bfloat16_points_have_float32_centroids():
  points = _normal(0, 50, 3).astype(jnp.bfloat16)
  clusters = clustering.kmeans(KEY, points, num_clusters=4)
  assert clusters.centroids.dtype == jnp.float32


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"num_clusters": 0}, "`num_clusters` must be at least 1, got 0"),
    ({"num_clusters": 11}, "`num_clusters` must be at most .* 11 and 10"),
    ({"num_clusters": 2.0}, "`num_clusters` must be an integer"),
    (
      {"num_clusters": 2, "num_iterations": -1},
      "`num_iterations` must be at least 0, got -1",
    ),
  ],
)
def test_options_are_checked(options, message):
  with pytest.raises(ValueError, match=message):
    clustering.kmeans(KEY, jnp.ones((10, 2)), **options)


def test_wrong_shapes_are_refused():
  with pytest.raises(AssertionError, match="rank"):
    clustering.kmeans(KEY, jnp.ones(10), num_clusters=2)
  with pytest.raises(AssertionError, match="shape"):
    clustering.kmeans(
      KEY, jnp.ones((10, 2)), num_clusters=2, weights=jnp.ones(9)
    )


# --- product_kmeans and residual_kmeans ---


def _error(points, codebooks, digits, composition):
  decoded = codes.decode_codes(digits, codebooks, composition)
  return float(jnp.mean(jnp.square(points - decoded)))


@pytest.mark.parametrize(
  ("codebook_size", "expected"),
  # Lloyd (1982), Max (1960): optimal quantisers of a normal variable.
  [(2, 0.36338), (8, 0.03455), (32, 0.00251)],
)
def test_scalar_quantisers_of_normal_entries_are_optimal(
  codebook_size, expected
):
  points = _normal(0, 20_000, 2)
  codebooks, digits = clustering.product_kmeans(
    KEY, points, code_length=2, codebook_size=codebook_size, num_iterations=100
  )
  error = _error(points, codebooks, digits, "concat")
  np.testing.assert_allclose(error, expected, rtol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("codebook_size", "expected"), [(4, 0.11748), (16, 0.00950), (32, 0.00251)]
)
def test_scalar_quantisers_of_many_normal_entries(codebook_size, expected):
  points = _normal(1, 100_000, 4)
  codebooks, digits = clustering.product_kmeans(
    KEY, points, code_length=4, codebook_size=codebook_size, num_iterations=200
  )
  error = _error(points, codebooks, digits, "concat")
  np.testing.assert_allclose(error, expected, rtol=0.02)


def test_a_table_made_of_codes_is_quantised_exactly():
  codebooks = _normal(0, 4, 8, 3)
  digits = jax.random.randint(KEY, (1000, 4), 0, 8)
  table = codes.decode_codes(digits, codebooks, "concat")
  found, again = clustering.product_kmeans(
    KEY, table, code_length=4, codebook_size=8
  )
  assert _error(table, found, again, "concat") < 1e-10
  assert again.dtype == jnp.uint8


def test_parts_are_clustered_as_by_kmeans():
  points = _normal(0, 100, 6)
  codebooks, digits = clustering.product_kmeans(
    KEY, points, code_length=3, codebook_size=5
  )
  keys = jax.random.split(KEY, 3)
  for j in range(3):
    part = clustering.kmeans(
      keys[j], points[:, 2 * j : 2 * j + 2], num_clusters=5
    )
    np.testing.assert_allclose(codebooks[j], part.centroids, atol=1e-5)
    np.testing.assert_array_equal(digits[:, j], part.assignments)


def test_each_residual_stage_helps():
  points = _normal(0, 500, 4)
  codebooks, digits = clustering.residual_kmeans(
    KEY, points, code_length=4, codebook_size=16
  )
  assert codebooks.shape == (4, 16, 4)
  errors = [
    _error(points, codebooks[:n], digits[:, :n], "sum") for n in (1, 2, 3, 4)
  ]
  for before, after in itertools.pairwise(errors):
    assert after < 0.6 * before


def test_residuals_beat_parts_of_related_features():
  points = _normal(0, 1000, 1) @ _normal(1, 1, 8) + 0.1 * _normal(2, 1000, 8)
  options = {"code_length": 4, "codebook_size": 8}
  product, residual = (
    _error(points, *quantise(KEY, points, **options), composition)
    for quantise, composition in (
      (clustering.product_kmeans, "concat"),
      (clustering.residual_kmeans, "sum"),
    )
  )
  assert residual < product


@pytest.mark.parametrize("codebook_size", [257, 300])
def test_large_codebooks_have_wide_codes(codebook_size):
  _, digits = clustering.product_kmeans(
    KEY,
    _normal(0, 320, 2),
    code_length=1,
    codebook_size=codebook_size,
    num_iterations=2,
  )
  assert digits.dtype == jnp.uint16


def test_weights_reach_every_part():
  points, _ = _blobs(3, 50, 4)
  far = jnp.full((10, 4), 1e4)
  weights = jnp.concatenate([jnp.ones(150), jnp.zeros(10)])
  for quantise in (clustering.product_kmeans, clustering.residual_kmeans):
    codebooks, _ = quantise(
      KEY,
      jnp.concatenate([points, far]),
      code_length=2,
      codebook_size=4,
      weights=weights,
    )
    assert float(jnp.max(codebooks)) < 200


@pytest.mark.parametrize(
  ("quantise", "options", "message"),
  [
    (clustering.product_kmeans, {"code_length": 3}, "`features` must be div"),
    (clustering.product_kmeans, {"code_length": 0}, "`code_length` must be"),
    (clustering.residual_kmeans, {"code_length": 0}, "`code_length` must be"),
    (clustering.product_kmeans, {"codebook_size": 1}, "`codebook_size` must"),
    (clustering.residual_kmeans, {"codebook_size": 99}, "number of points"),
  ],
)
def test_options_of_quantisers_are_checked(quantise, options, message):
  options = {"code_length": 2, "codebook_size": 4} | options
  with pytest.raises(ValueError, match=message):
    quantise(KEY, jnp.ones((10, 4)), **options)
