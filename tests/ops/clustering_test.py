"""Tests of clustering."""

import functools
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


POINTS = _normal(0, 300, 4)
CENTRES = 100 * np.eye(5, 4) + 7
# Points of 5 clusters that are far apart, in turn.
BLOBS = (_normal(1, 60, 5, 4) + CENTRES[None]).reshape(300, 4)


def _kmeans(points, seed=0, **options):
  """Few shapes and options, because each is compiled anew."""
  return clustering.kmeans(
    jax.random.key(seed), points, num_clusters=5, **options
  )


# --- kmeans ---


def test_blobs_are_found():
  clusters = _kmeans(BLOBS)
  distances = reference.squared_distances(CENTRES, clusters.centroids)
  order = np.argmin(distances, axis=1)
  assert distances.min(axis=1).max() < 0.5
  labels = np.asarray(clusters.assignments).reshape(60, 5)
  np.testing.assert_array_equal(labels, np.broadcast_to(order, (60, 5)))
  np.testing.assert_allclose(clusters.distortion, 4, rtol=0.1)


def test_the_result_is_consistent():
  clusters = _kmeans(POINTS)
  distances = reference.squared_distances(POINTS, clusters.centroids)
  np.testing.assert_array_equal(
    clusters.assignments, np.argmin(distances, axis=1)
  )
  np.testing.assert_allclose(
    clusters.distortion, distances.min(axis=1).mean(), rtol=1e-5
  )
  assert clusters.assignments.dtype == jnp.int32


def test_a_fixed_point_is_a_mean_of_its_points():
  clusters = _kmeans(POINTS, num_iterations=200)
  for k in range(5):
    members = np.asarray(POINTS)[np.asarray(clusters.assignments) == k]
    np.testing.assert_allclose(
      clusters.centroids[k], members.mean(axis=0), atol=1e-5
    )


def test_iterations_help():
  before, between, after = (
    float(_kmeans(POINTS, num_iterations=n).distortion) for n in (0, 1, 25)
  )
  assert after < between < before


def test_the_start_consists_of_different_points():
  for seed in range(5):
    start = _kmeans(POINTS, seed, num_iterations=0)
    distances = reference.squared_distances(POINTS, start.centroids)
    assert (distances.min(axis=0) < 1e-10).all()
    assert len(set(np.argmin(distances, axis=0).tolist())) == 5


def test_one_cluster_is_the_mean():
  clusters = clustering.kmeans(KEY, POINTS, num_clusters=1)
  np.testing.assert_allclose(
    clusters.centroids, jnp.mean(POINTS, axis=0, keepdims=True), atol=1e-6
  )


@pytest.mark.parametrize("num_distinct", [1, 2, 5])
def test_as_many_clusters_as_different_points_are_exact(num_distinct):
  rows = np.random.default_rng(0).integers(0, num_distinct, 300)
  for seed in range(5):
    clusters = _kmeans(POINTS[rows], seed)
    chex.assert_tree_all_finite(clusters)
    assert clusters.distortion < 1e-10


def test_a_large_offset_costs_little_precision():
  moved = _kmeans(BLOBS / 100 + 1000)
  np.testing.assert_allclose(moved.distortion, 4e-4, rtol=0.1)


def test_empty_clusters_start_again_at_far_points():
  points = jnp.array([[0.0], [0.1], [50.0], [90.0]])
  # All points are nearest to centroid 0; 1 and 2 are empty.
  centroids = jnp.array([[10.0], [-1e6], [-2e6]])
  nearest, distances = clustering._assign(points, centroids)
  np.testing.assert_array_equal(nearest, 0)
  updated = clustering._update(points, jnp.ones(4), nearest, distances, 3)
  np.testing.assert_allclose(updated, [[35.025], [90.0], [50.0]])


def test_weights_are_multiplicities():
  counts = np.random.default_rng(0).integers(0, 4, 300)
  clusters = _kmeans(POINTS, weights=jnp.asarray(counts, jnp.float32))
  repeated = np.repeat(POINTS, counts, axis=0)
  distances = reference.squared_distances(repeated, clusters.centroids)
  np.testing.assert_allclose(
    clusters.distortion, distances.min(axis=1).mean(), rtol=1e-5
  )
  again = _kmeans(POINTS, weights=jnp.asarray(8 * counts, jnp.float32))
  chex.assert_trees_all_close(again, clusters, rtol=1e-4)


def test_points_without_weight_have_no_influence():
  weights = jnp.asarray(np.arange(300) >= 10, jnp.float32)
  far = BLOBS.at[:10].set(1e4)
  for seed in range(5):
    clusters = _kmeans(far, seed, weights=weights)
    np.testing.assert_allclose(clusters.distortion, 4, rtol=0.1)


def test_the_key_alone_decides():
  first, again, other = (
    _kmeans(POINTS, seed, num_iterations=1) for seed in (0, 0, 1)
  )
  chex.assert_trees_all_equal(first, again)
  assert bool(jnp.any(first.centroids != other.centroids))


def test_blocks_do_not_matter(monkeypatch):
  nearest, distances = clustering._assign(POINTS, POINTS[:9])
  monkeypatch.setattr(clustering, "_BLOCK_ENTRIES", 450)
  blocked = clustering._assign(POINTS, POINTS[:9])
  chex.assert_trees_all_close(blocked, (nearest, distances), atol=1e-5)


def test_distances_are_never_all_in_memory():
  points = jax.ShapeDtypeStruct((100_000, 4), jnp.float32)
  weights = jax.ShapeDtypeStruct((100_000,), jnp.float32)
  compiled = clustering._kmeans.lower(KEY, points, weights, 256, 3).compile()
  all_distances = 100_000 * 256 * 4
  assert compiled.memory_analysis().temp_size_in_bytes < all_distances / 4


def test_bfloat16_points_have_float32_centroids():
  narrow = jax.ShapeDtypeStruct(POINTS.shape, jnp.bfloat16)
  clusters = jax.eval_shape(_kmeans, narrow)
  chex.assert_trees_all_equal_dtypes(clusters, _kmeans(POINTS))


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
  places = np.arange(digits.shape[1])
  parts = np.asarray(codebooks)[places, np.asarray(digits)]
  is_sum = composition == "sum"
  decoded = parts.sum(axis=1) if is_sum else parts.reshape(len(parts), -1)
  return float(np.mean(np.square(np.asarray(points) - decoded)))


@pytest.mark.parametrize(
  ("num_points", "codebook_size", "expected", "rtol"),
  # Lloyd (1982), Max (1960): optimal quantisers of a normal variable.
  [
    (50_000, 2, 0.36338, 0.02),
    (50_000, 4, 0.11748, 0.02),
    (20_000, 32, 0.00251, 0.05),
  ],
)
def test_scalar_quantisers_of_normal_entries_are_optimal(
  num_points, codebook_size, expected, rtol
):
  points = _normal(0, num_points, 2)
  codebooks, digits = clustering.product_kmeans(
    KEY,
    points,
    code_length=2,
    codebook_size=codebook_size,
    # Few centroids are where they belong after few steps.
    num_iterations=100 if codebook_size > 4 else 30,
  )
  error = _error(points, codebooks, digits, "concat")
  np.testing.assert_allclose(error, expected, rtol=rtol)


QUANTISERS = pytest.mark.parametrize(
  ("quantise", "composition"),
  [
    (clustering.product_kmeans, "concat"),
    (clustering.residual_kmeans, "sum"),
  ],
)


def test_a_table_made_of_codes_is_quantised_exactly():
  digits = np.random.default_rng(0).integers(0, 5, (300, 2), np.uint8)
  table = codes.decode_codes(jnp.asarray(digits), _normal(0, 2, 5, 2), "concat")
  codebooks, again = clustering.product_kmeans(
    KEY, table, code_length=2, codebook_size=5
  )
  assert _error(table, codebooks, again, "concat") < 1e-10
  assert again.dtype == jnp.uint8


def test_parts_are_clustered_as_by_kmeans():
  codebooks, digits = clustering.product_kmeans(
    KEY, POINTS, code_length=2, codebook_size=5
  )
  for j, key in enumerate(jax.random.split(KEY, 2)):
    part = POINTS[:, 2 * j : 2 * j + 2]
    clusters = clustering.kmeans(key, part, num_clusters=5)
    np.testing.assert_allclose(codebooks[j], clusters.centroids, atol=1e-5)
    np.testing.assert_array_equal(digits[:, j], clusters.assignments)


def test_each_residual_stage_helps():
  codebooks, digits = clustering.residual_kmeans(
    KEY, POINTS, code_length=4, codebook_size=5
  )
  assert codebooks.shape == (4, 5, 4)
  errors = [
    _error(POINTS, codebooks[:n], digits[:, :n], "sum") for n in (1, 2, 3, 4)
  ]
  for before, after in itertools.pairwise(errors):
    assert after < 0.8 * before


def test_residuals_beat_parts_of_related_features():
  points = _normal(0, 300, 1) * _normal(1, 1, 4) + 0.1 * _normal(2, 300, 4)
  product, residual = (
    _error(points, *quantise(KEY, points, code_length=4, codebook_size=5), name)
    for quantise, name in (
      (clustering.product_kmeans, "concat"),
      (clustering.residual_kmeans, "sum"),
    )
  )
  assert residual < product


def test_large_codebooks_have_wide_codes():
  quantise = functools.partial(
    clustering.product_kmeans, code_length=1, codebook_size=257
  )
  points = jax.ShapeDtypeStruct((320, 2), jnp.float32)
  _, digits = jax.eval_shape(quantise, KEY, points)
  assert digits.dtype == jnp.uint16


@QUANTISERS
def test_weights_reach_every_part(quantise, composition):
  weights = jnp.asarray(np.arange(300) >= 10, jnp.float32)
  codebooks, digits = quantise(
    KEY,
    BLOBS.at[:10].set(1e4),
    code_length=2,
    codebook_size=5,
    weights=weights,
  )
  assert float(jnp.max(codebooks)) < 200
  assert _error(BLOBS[10:], codebooks, digits[10:], composition) < 1.5


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
