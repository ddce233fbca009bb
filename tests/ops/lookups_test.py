"""Tests of what the layers share; most laws are in conformance_test.py."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from anchor_codes.ops import graphs, lookups, normalization, transitions

L, K, W = 3, 4, 2  # Digits, their values, and the width of a part.


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


@pytest.mark.parametrize("batch", [(), (5,), (2, 3), (0,)])
@pytest.mark.parametrize("positions", [1, L])
def test_scores_of_queries_part_by_part(batch, positions):
  queries, books = _normal(*batch, L * W), _normal(positions, K, W, seed=1)
  keys = _normal(positions, K, W, seed=2)
  by_distance = lookups.query_scores(jnp.asarray(queries), books)
  by_product = lookups.query_scores(jnp.asarray(queries), books, keys)
  parts = queries.reshape(*batch, L, W)
  for j in range(L):
    entries = books[j % positions]
    differences = parts[..., j, None, :] - entries
    np.testing.assert_allclose(
      by_distance[..., j, :], -np.sum(differences**2, -1), rtol=1e-4, atol=1e-5
    )
    products = parts[..., j, :] @ keys[j % positions].T
    np.testing.assert_allclose(
      by_product[..., j, :], products, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("relaxation", ["softmax", "nearest"])
@pytest.mark.parametrize("batch", [(), (2, 3), (0,)])
def test_quantised_queries_are_the_best_entries(relaxation, batch):
  queries, books = jnp.asarray(_normal(*batch, L * W)), _normal(L, K, W, seed=1)
  scores = lookups.query_scores(queries, books)
  vectors = lookups.quantize(queries, scores, books, relaxation=relaxation)
  codes = np.argmax(scores, axis=-1)
  expected = [books[j][codes[..., j]] for j in range(L)]
  np.testing.assert_array_equal(vectors, np.concatenate(expected, axis=-1))


def test_each_relaxation_sends_the_gradient_its_own_way():
  queries, books = jnp.asarray(_normal(5, L * W)), _normal(L, K, W, seed=1)
  cotangent = _normal(5, L * W, seed=2)

  def gradients(relaxation):
    def loss(queries, scores, books):
      vectors = lookups.quantize(queries, scores, books, relaxation=relaxation)
      return jnp.sum(vectors * cotangent)

    scores = lookups.query_scores(queries, books)
    return jax.grad(loss, argnums=(0, 1, 2))(queries, scores, books)

  of_queries, of_scores, of_books = gradients("nearest")
  np.testing.assert_array_equal(of_queries, cotangent)
  assert not of_scores.any()
  assert not of_books.any()
  of_queries, of_scores, of_books = gradients("softmax")
  assert not of_queries.any()
  assert np.abs(of_scores).min() > 0
  assert of_books.any()


def test_an_unknown_relaxation_is_refused():
  text = "`relaxation` must be one of 'softmax', 'nearest', got 'gumbel'."
  arrays = jnp.ones(2), jnp.ones((1, 2)), jnp.ones((1, 2, 2))
  with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
    lookups.quantize(*arrays, relaxation="gumbel")


def test_the_loss_moves_the_chosen_entries_to_their_queries():
  queries, books = jnp.asarray(_normal(6, L * W)), _normal(L, K, W, seed=1)
  scores = lookups.query_scores(queries, books)
  where = jnp.array([True, True, False, True, True, True])
  loss, gradient = jax.value_and_grad(
    lambda books: lookups.quantization_loss(queries, scores, books, where=where)
  )(jnp.asarray(books))
  nearest = lookups.quantize(queries, scores, books, relaxation="nearest")
  differences = np.asarray(nearest - queries)[where]
  np.testing.assert_allclose(loss, np.mean(differences**2), rtol=1e-5)
  expected, codes = np.zeros(books.shape), np.argmax(scores, axis=-1)[where]
  for code, difference in zip(codes, differences, strict=True):
    parts = difference.reshape(L, W)
    for j in range(L):
      expected[j, code[j]] += 2 * parts[j] / differences.size
  np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)
  to_queries = jax.grad(lookups.quantization_loss)(queries, scores, books)
  assert not to_queries.any()


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
