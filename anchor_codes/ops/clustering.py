"""K-means, and the two ways to make codes of it: by parts and by residuals.

All of it is compiled, takes blocks of points so that the distances
``[num_points, num_clusters]`` are never stored, and depends on the key alone.
"""

import functools
import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, UInt

from anchor_codes.ops.reductions import wide
from anchor_codes.typing import check_at_least, check_divisible, code_dtype

# Accelerators may round the factors of a product to bfloat16 or TF32, which is
# enough to make another centroid the nearest one.
_FULL = jax.lax.Precision.HIGHEST
_BLOCK_ENTRIES = 2**20  # Distances to hold at a time: 4 MiB, about a cache.


class Clusters(NamedTuple):
  """A clustering.

  Attributes:
    centroids: The mean of each cluster.
    assignments: The nearest centroid of each point, as int32.
    distortion: Weighted mean over the points of the squared distance to it.
  """

  centroids: Float[Array, "num_clusters features"]
  assignments: Int[Array, " num_points"]
  distortion: Float[Array, ""]


def kmeans(
  key: PRNGKeyArray,
  points: Float[Array, "num_points features"],
  *,
  num_clusters: int,
  num_iterations: int = 25,
  weights: Float[Array, " num_points"] | None = None,
) -> Clusters:
  r"""Clusters points around means.

  Minimises :math:`\sum_i w_i \min_k \|x_i - c_k\|^2` by Lloyd's algorithm from
  a k-means++ start (Arthur and Vassilvitskii, 2007). A cluster that loses all
  its points starts again at one of the points that are farthest from their
  centroids.

  Args:
    key: Random key.
    points: What to cluster.
    num_clusters: From 1 to the number of points.
    num_iterations: Steps of Lloyd's algorithm; 0 for the start alone.
    weights: Non-negative weight of each point, 1 by default. A point of weight
      0 gets an assignment but has no influence.

  Returns:
    Centroids, assignments and distortion, in at least float32.

  Raises:
    ValueError: If an option is out of range.

  >>> points = jnp.array([[0.0], [1.0], [10.0], [11.0]])
  >>> clusters = kmeans(jax.random.key(0), points, num_clusters=2)
  >>> print(jnp.sort(clusters.centroids, axis=0).T, clusters.distortion)
  [[ 0.5 10.5]] 0.25
  """
  _check("num_clusters", num_clusters, num_iterations, points)
  weights = _as_weights(weights, points)
  return _kmeans(key, wide(points), weights, num_clusters, num_iterations)


def product_kmeans(
  key: PRNGKeyArray,
  points: Float[Array, "num_points features"],
  *,
  code_length: int,
  codebook_size: int,
  shared_codebook: bool = False,
  num_iterations: int = 25,
  weights: Float[Array, " num_points"] | None = None,
) -> tuple[
  Float[Array, "#code_length codebook_size code_features"],
  UInt[Array, "num_points code_length"],
]:
  """Quantises points part by part (product quantisation).

  Splits the features into `code_length` equal parts and runs :func:`kmeans` on
  each (Jegou et al., TPAMI 2011), or on all of them together.

  Args:
    key: Random key.
    points: What to quantise; `code_length` must divide its features.
    code_length: Number of parts.
    codebook_size: Centroids of a codebook, from 2 to the number of points, or
      for a shared one to the number of their parts.
    shared_codebook: Whether all parts share one codebook.
    num_iterations: Steps of Lloyd's algorithm.
    weights: Non-negative weight of each point, 1 by default.

  Returns:
    Codebooks, a single one if it is shared, and codes in the smallest unsigned
    type, for the composition ``"concat"``.

  Raises:
    ValueError: If an option is out of range.

  >>> points = jnp.array([[0.0, 5.0], [0.0, 7.0], [1.0, 5.0], [1.0, 7.0]])
  >>> codebooks, codes = product_kmeans(
  ...     jax.random.key(0), points, code_length=2, codebook_size=2)
  >>> print(codebooks.shape, codes.shape, codes.dtype)
  (2, 2, 1) (4, 2) uint8
  """
  chex.assert_rank(points, 2)
  num_points, features = points.shape
  check_at_least("code_length", code_length, 1)
  check_divisible("features", features, "code_length", code_length)
  parts = points.reshape(num_points, code_length, features // code_length)
  point_weights = _as_weights(weights, points)
  if shared_codebook:
    # The parts are so many more points, at a single position.
    parts = parts.reshape(num_points * code_length, 1, parts.shape[-1])
    point_weights = jnp.repeat(point_weights, code_length)
  _check("codebook_size", codebook_size, num_iterations, parts[:, 0])
  clusters = _product_kmeans(
    jax.random.split(key, parts.shape[1]),
    jnp.moveaxis(wide(parts), 1, 0),
    point_weights,
    codebook_size,
    num_iterations,
  )
  codes = clusters.assignments.T.reshape(num_points, code_length)
  return clusters.centroids, codes.astype(code_dtype(codebook_size))


def residual_kmeans(
  key: PRNGKeyArray,
  points: Float[Array, "num_points features"],
  *,
  code_length: int,
  codebook_size: int,
  num_iterations: int = 25,
  weights: Float[Array, " num_points"] | None = None,
) -> tuple[
  Float[Array, "code_length codebook_size features"],
  UInt[Array, "num_points code_length"],
]:
  """Quantises points, then what is left of them, and so on.

  Runs :func:`kmeans` `code_length` times, each time on the differences between
  the points and their approximation so far (residual vector quantisation; Chen
  et al., Sensors 2010).

  Args:
    key: Random key.
    points: What to quantise.
    code_length: Number of stages.
    codebook_size: Centroids of each stage, from 2 to the number of points.
    num_iterations: Steps of Lloyd's algorithm.
    weights: Non-negative weight of each point, 1 by default.

  Returns:
    Codebooks, and codes in the smallest unsigned type, for the composition
    ``"sum"``.

  Raises:
    ValueError: If an option is out of range.

  >>> points = jnp.array([[0.0], [1.0], [10.0], [11.0]])
  >>> codebooks, codes = residual_kmeans(
  ...     jax.random.key(0), points, code_length=2, codebook_size=2)
  >>> print(codebooks[0, codes[:, 0]] + codebooks[1, codes[:, 1]])
  [[ 0.]
   [ 1.]
   [10.]
   [11.]]
  """
  _check("codebook_size", codebook_size, num_iterations, points)
  check_at_least("code_length", code_length, 1)
  clusters = _residual_kmeans(
    jax.random.split(key, code_length),
    wide(points),
    _as_weights(weights, points),
    codebook_size,
    num_iterations,
  )
  codes = clusters.assignments.T.astype(code_dtype(codebook_size))
  return clusters.centroids, codes


def _check(
  name: str,
  num_clusters: int,
  num_iterations: int,
  points: Float[Array, "num_points features"],
) -> None:
  chex.assert_rank(points, 2)
  if name == "codebook_size":
    code_dtype(num_clusters)
  check_at_least(name, num_clusters, 1)
  check_at_least("num_iterations", num_iterations, 0)
  if num_clusters > points.shape[0]:
    raise ValueError(
      f"`{name}` must be at most the number of points, got {num_clusters} "
      f"and {points.shape[0]}."
    )


def _as_weights(
  weights: Float[Array, " num_points"] | None,
  points: Float[Array, "num_points features"],
) -> Float[Array, " num_points"]:
  if weights is None:
    return jnp.ones(points.shape[0], wide(points).dtype)
  chex.assert_shape(weights, points.shape[:1])
  return weights.astype(wide(points).dtype)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _product_kmeans(
  keys: Key[Array, " code_length"],
  parts: Float[Array, "code_length num_points code_features"],
  weights: Float[Array, " num_points"],
  codebook_size: int,
  num_iterations: int,
) -> Clusters:
  def fit(key_and_part: tuple[PRNGKeyArray, Array]) -> Clusters:
    return _kmeans(*key_and_part, weights, codebook_size, num_iterations)

  # Not `vmap`: it would hold the blocks of all parts at once, and turn the
  # branch that reseeds into a selection between two results.
  return jax.lax.map(fit, (keys, parts))


@functools.partial(jax.jit, static_argnums=(3, 4))
def _residual_kmeans(
  keys: Key[Array, " code_length"],
  points: Float[Array, "num_points features"],
  weights: Float[Array, " num_points"],
  codebook_size: int,
  num_iterations: int,
) -> Clusters:
  def stage(residuals: Array, key: PRNGKeyArray) -> tuple[Array, Clusters]:
    clusters = _kmeans(key, residuals, weights, codebook_size, num_iterations)
    return residuals - clusters.centroids[clusters.assignments], clusters

  return jax.lax.scan(stage, points, keys)[1]


@functools.partial(jax.jit, static_argnums=(3, 4))
def _kmeans(
  key: PRNGKeyArray,
  points: Float[Array, "num_points features"],
  weights: Float[Array, " num_points"],
  num_clusters: int,
  num_iterations: int,
) -> Clusters:
  # Distances of centred points cancel least. The tiny total gives points that
  # all weigh nothing a mean of 0, not of `nan`.
  total = jnp.maximum(jnp.sum(weights), jnp.finfo(weights.dtype).tiny)
  centre = weights[None, :] @ points / total
  points = points - centre

  def lloyd(_: Array, centroids: Array) -> Array:
    nearest, distances = _assign(points, centroids)
    return _update(points, weights, nearest, distances, num_clusters)

  centroids = _start(key, points, weights, num_clusters)
  centroids = jax.lax.fori_loop(0, num_iterations, lloyd, centroids)
  nearest, _ = _assign(points, centroids)
  # Of differences once more: the expanded form is not exactly 0 for a point at
  # its centroid.
  errors = jnp.sum(jnp.square(points - centroids[nearest]), axis=-1)
  return Clusters(centroids + centre, nearest, weights @ errors / total)


def _start(
  key: PRNGKeyArray,
  points: Float[Array, "num_points features"],
  weights: Float[Array, " num_points"],
  num_clusters: int,
) -> Float[Array, "num_clusters features"]:
  """Draws points by their squared distance to those drawn before.

  Of a few candidates the one stays that leaves the least distortion.
  """
  # The usual number for the greedy form of k-means++.
  num_candidates = 2 + int(math.log(num_clusters))

  def draw(distances: Array, key: PRNGKeyArray) -> tuple[Array, Array]:
    mass = jnp.cumsum(weights * distances)
    draws = jax.random.uniform(key, (num_candidates,), mass.dtype) * mass[-1]
    # From the right, so that even a draw of 0 passes over points without mass.
    candidates = points[jnp.searchsorted(mass, draws, side="right")]
    new = norms[:, None] - 2 * jnp.matmul(points, candidates.T, precision=_FULL)
    new = new + jnp.sum(jnp.square(candidates), axis=-1)[None, :]
    # By rounding the expanded square may fall below 0; and one more centroid
    # can only bring a point closer.
    new = jnp.clip(new, 0, distances[:, None])
    best = jnp.argmin(weights @ new)
    return new[:, best], candidates[best]

  norms = jnp.sum(jnp.square(points), axis=-1)
  # Larger than any distance, so that the first draw is by weight alone.
  distances = jnp.full_like(weights, 1 + 4 * jnp.max(norms))
  return jax.lax.scan(draw, distances, jax.random.split(key, num_clusters))[1]


def _assign(
  points: Float[Array, "num_points features"],
  centroids: Float[Array, "num_clusters features"],
) -> tuple[Int[Array, " num_points"], Float[Array, " num_points"]]:
  """Returns the nearest centroid of each point, and its squared distance."""
  norms = jnp.sum(jnp.square(centroids), axis=-1)

  def nearest(point: Float[Array, " features"]) -> tuple[Array, Array]:
    dots = jnp.dot(centroids, point, precision=_FULL)
    # The norm of the point is the same for all centroids.
    scores = norms - 2 * dots
    best = jnp.argmin(scores).astype(jnp.int32)
    return best, scores[best] + jnp.sum(jnp.square(point))

  block = max(_BLOCK_ENTRIES // centroids.shape[0], 1)
  best, distances = jax.lax.map(nearest, points, batch_size=block)
  return best, jnp.maximum(distances, 0)


def _update(
  points: Float[Array, "num_points features"],
  weights: Float[Array, " num_points"],
  nearest: Int[Array, " num_points"],
  distances: Float[Array, " num_points"],
  num_clusters: int,
) -> Float[Array, "num_clusters features"]:
  add = functools.partial(
    jax.ops.segment_sum, segment_ids=nearest, num_segments=num_clusters
  )
  mass = add(weights)[:, None]
  means = add(weights[:, None] * points) / jnp.where(mass > 0, mass, 1)

  def reseed() -> Array:
    # Under `cond`, for this sort is wasted as long as no cluster is empty. The
    # n-th empty one gets the n-th farthest point, so that no two get the same.
    _, farthest = jax.lax.top_k(weights * distances, num_clusters)
    rank = jnp.cumsum(mass[:, 0] <= 0) - 1
    return jnp.where(mass > 0, means, points[farthest[rank]])

  return jax.lax.cond(jnp.all(mass > 0), lambda: means, reseed)
