"""Tests of what the layers share; most laws are in conformance_test.py."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from anchor_codes.ops import graphs, lookups, normalization, transitions

L, K = 3, 4  # Digits and their values.


def _normal(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape, np.float32)


def test_gather_fills_with_zeros_and_says_where():
  rows = _normal(5, 2, 3)
  gathered = lookups.gather(jnp.asarray(rows), jnp.array([[4, -1, 5]]))
  np.testing.assert_array_equal(gathered.inside, [[True, False, False]])
  np.testing.assert_array_equal(gathered.rows[0, 0], rows[4])
  np.testing.assert_array_equal(gathered.rows[0, 1:], np.zeros((2, 2, 3)))


def test_gather_gives_no_gradient_to_rows_outside():
  ids = jnp.array([1, -1, 7])
  gradient = jax.grad(lambda rows: lookups.gather(rows, ids).rows.sum())
  np.testing.assert_array_equal(
    gradient(jnp.ones((3, 2))), [[0, 0], [1, 1], [0, 0]]
  )


def test_normalising_with_the_moments_of_the_batch():
  scores, stored = _normal(6, L, K), normalization.Moments(*_normal(2, K))
  scores = jnp.asarray(5 * scores + 3)
  values, moved = lookups.normalize_centroids(
    scores, stored, deterministic=False, momentum=0.75, epsilon=0.1
  )
  expected = reference.normalize_per_entry(scores, epsilon=0.1)
  np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)
  mean = 0.75 * stored.mean + 0.25 * np.mean(scores, axis=(0, 1))
  variance = 0.75 * stored.variance + 0.25 * np.var(scores, axis=(0, 1))
  chex.assert_trees_all_close(
    moved, normalization.Moments(mean, variance), rtol=1e-4
  )


def test_normalising_with_the_stored_moments():
  scores = _normal(6, L, K)
  stored = normalization.Moments(jnp.arange(4.0), jnp.full(4, 4.0))
  values, moved = lookups.normalize_centroids(
    scores, stored, deterministic=True, epsilon=1e-6
  )
  expected = (scores - np.arange(4)) / 2
  np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)
  assert moved is stored


def test_what_is_masked_does_not_count_for_the_moments():
  scores, stored = _normal(6, L, K), normalization.Moments(*_normal(2, K))
  where = jnp.array([True, False, True, True, False, False])
  options = {"deterministic": False}
  values, moved = lookups.normalize_centroids(
    scores, stored, where=where, **options
  )
  expected = lookups.normalize_centroids(scores[where], stored, **options)
  chex.assert_trees_all_close((values[where], moved), expected, rtol=1e-5)


@pytest.mark.parametrize("size", [0, 4])
def test_a_batch_without_scores_that_count_moves_no_moments(size):
  stored = normalization.Moments(*map(jnp.asarray, _normal(2, K)))
  _, moved = lookups.normalize_centroids(
    jnp.ones((size, L, K)),
    stored,
    deterministic=False,
    where=jnp.zeros(size, bool),
  )
  chex.assert_trees_all_equal(moved, stored)


@pytest.mark.parametrize("ratio", [1.0, 5.0])
def test_exchange_is_one_of_two_transitions(ratio):
  ids, key = jnp.arange(6), jax.random.key(1)
  options = {"num_embeddings": 6, "rate": 0.7}
  np.testing.assert_array_equal(
    lookups.exchange_ids(key, ids, **options),
    transitions.sse_se_transition(key, ids, **options),
  )
  graph = graphs.graph_from_edges([(0, 1), (3, 4)], num_nodes=6)
  np.testing.assert_array_equal(
    lookups.exchange_ids(
      key, ids, graph=graph, neighbor_ratio=ratio, **options
    ),
    transitions.sse_graph_transition(
      key, ids, graph, rate=0.7, neighbor_ratio=ratio
    ),
  )


def test_special_ids_may_repeat():
  ids, key = jnp.arange(60) % 6, jax.random.key(3)
  options = {"num_embeddings": 6, "rate": 1.0}
  once, twice = (
    lookups.exchange_ids(key, ids, special_ids=special, **options)
    for special in ([1, 4], [4, 1, 4, 1])
  )
  np.testing.assert_array_equal(once, twice)
  lookups.check_sharing_options(
    num_embeddings=3,
    rate=0.5,
    graph=None,
    neighbor_ratio=1.0,
    special_ids=[0, 1, 0, 1],
  )
