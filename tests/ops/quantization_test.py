"""Tests of the steps of differentiable product quantisation."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from anchor_codes.ops import normalization, quantization

L, K, W = 3, 4, 2  # Digits, their values, and the width of a part.
both_relaxations = pytest.mark.parametrize("relaxation", ["softmax", "nearest"])


def _normal(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape, np.float32)


# Compiled once for all tests: op by op, JAX would compile each primitive.
query_scores = jax.jit(quantization.query_scores, static_argnames="relaxation")
query_moments = jax.jit(
  quantization.query_moments, static_argnames="relaxation"
)
quantize = jax.jit(
  quantization.quantize, static_argnames=("relaxation", "tied")
)


def _scores(queries, keys, relaxation="nearest"):
  return query_scores(jnp.asarray(queries), keys, relaxation=relaxation)


def chosen(scores):
  """The codes, whose positions come last again."""
  return np.moveaxis(np.argmax(scores, axis=-1), 0, -1)


@pytest.mark.parametrize(
  ("positions", "batch"), [(1, ()), (L, (5,)), (L, (2, 3)), (1, (0,))]
)
def test_scores_of_queries_part_by_part(batch, positions):
  queries, keys = _normal(*batch, L * W), _normal(positions, K, W, seed=1)
  by_distance = _scores(queries, keys)
  by_product = _scores(queries, keys, "softmax")
  parts = queries.reshape(*batch, L, W)
  assert by_distance.shape == by_product.shape == (L, *batch, K)
  for j in range(L):
    entries = keys[j % positions]
    differences = parts[..., j, None, :] - entries
    np.testing.assert_allclose(
      by_distance[j], -np.sum(differences**2, -1), rtol=1e-4, atol=1e-5
    )
    products = parts[..., j, :] @ entries.T
    np.testing.assert_allclose(by_product[j], products, rtol=1e-4, atol=1e-5)


@both_relaxations
# With 0 a block is smaller than the scores of one query.
@pytest.mark.parametrize(("positions", "block"), [(1, 7), (L, 2**22), (1, 0)])
def test_codes_in_blocks_are_the_best_scores(
  relaxation, positions, block, monkeypatch
):
  monkeypatch.setattr(quantization, "_BLOCK_ENTRIES", block * L * K)
  queries, keys = _normal(20, L * W), _normal(positions, K, W, seed=1)
  moments = normalization.Moments(_normal(K, seed=2), _normal(K, seed=3) ** 2)
  scores = _scores(queries, keys, relaxation)
  options = {"relaxation": relaxation}
  codes = quantization.query_codes(queries, keys, **options)
  np.testing.assert_array_equal(codes, chosen(scores))
  assert codes.dtype == np.uint8
  codes = quantization.query_codes(
    queries, keys, moments=moments, epsilon=0.1, **options
  )
  scores = (np.asarray(scores) - moments.mean) / np.sqrt(moments.variance + 0.1)
  np.testing.assert_array_equal(codes, chosen(scores))


@both_relaxations
@pytest.mark.parametrize("positions", [1, L])
def test_moments_of_a_table_are_those_of_its_scores(relaxation, positions):
  queries, keys = 3 + _normal(40, L * W), _normal(positions, K, W, seed=1)
  moments = query_moments(queries, keys, relaxation=relaxation)
  expected = normalization.centroid_moments(_scores(queries, keys, relaxation))
  chex.assert_trees_all_close(moments, expected, rtol=1e-4)


def test_scores_of_a_table_are_never_stored_at_once(monkeypatch):
  size, block = 4000, 50
  monkeypatch.setattr(quantization, "_BLOCK_ENTRIES", block * L * K)
  choose = lambda queries, keys: quantization.query_codes(
    queries, keys, relaxation="nearest"
  )
  arrays = jnp.ones((size, L * W)), jnp.ones((L, K, W))
  memory = jax.jit(choose).lower(*arrays).compile().memory_analysis()
  assert memory.temp_size_in_bytes < 4 * size * L * K / 4


@both_relaxations
def test_moments_of_bfloat16_are_those_of_the_same_numbers(relaxation):
  arrays = [
    jnp.asarray(array, jnp.bfloat16)
    for array in (_normal(50, L * W), _normal(1, K, W, seed=1))
  ]
  exact = [array.astype(jnp.float32) for array in arrays]
  moments = query_moments(*arrays, relaxation=relaxation)
  expected = query_moments(*exact, relaxation=relaxation)
  chex.assert_trees_all_equal_dtypes(moments, expected)
  chex.assert_trees_all_close(moments, expected, rtol=1e-5)


def test_moments_refuse_weights_of_other_symbols():
  # One weight would count for all of them.
  with pytest.raises(AssertionError, match="shape"):
    quantization.query_moments(
      jnp.ones((5, L * W)),
      jnp.ones((1, K, W)),
      relaxation="softmax",
      weights=jnp.ones(1),
    )


@both_relaxations
def test_a_weight_is_so_many_symbols(relaxation):
  weights = [2, 0, 1, 3, 0]
  queries, keys = _normal(5, L * W), _normal(L, K, W, seed=1)
  options = {"relaxation": relaxation}
  moments = query_moments(
    queries, keys, weights=jnp.asarray(weights, jnp.float32), **options
  )
  repeated = np.repeat(queries, weights, axis=0)
  expected = normalization.centroid_moments(_scores(repeated, keys, relaxation))
  chex.assert_trees_all_close(moments, expected, rtol=1e-4, atol=1e-4)


def test_counts_may_have_a_sum_that_int32_does_not_hold():
  # The words of a corpus are soon more than 2 ** 31.
  queries, keys = _normal(3, L * W), _normal(L, K, W, seed=1)
  weighted = functools.partial(
    quantization.query_moments, queries, keys, relaxation="softmax"
  )
  expected = weighted()
  for count in (np.full(3, 2**30, np.int32), np.full(3, 2**33)):
    chex.assert_trees_all_close(weighted(weights=count), expected, rtol=1e-4)


@both_relaxations
@pytest.mark.parametrize(
  ("tied", "batch"), [(True, (2, 3)), (False, ()), (False, (0,))]
)
def test_quantised_queries_are_the_best_entries(relaxation, tied, batch):
  queries, books = jnp.asarray(_normal(*batch, L * W)), _normal(L, K, W, seed=1)
  scores = _scores(queries, _normal(L, K, W, seed=2))
  vectors = quantize(queries, scores, books, relaxation=relaxation, tied=tied)
  codes = chosen(scores)
  expected = [books[j][codes[..., j]] for j in range(L)]
  np.testing.assert_array_equal(vectors, np.concatenate(expected, axis=-1))


def test_each_estimator_sends_the_gradient_its_own_way():
  queries, books = jnp.asarray(_normal(5, L * W)), _normal(L, K, W, seed=1)
  cotangent = _normal(5, L * W, seed=2)

  def gradients(relaxation, *, tied):
    def loss(queries, scores, books):
      vectors = quantization.quantize(
        queries, scores, books, relaxation=relaxation, tied=tied
      )
      return jnp.sum(vectors * cotangent)

    scores = _scores(queries, books)
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    return jax.tree.map(np.asarray, gradient(queries, scores, books))

  of_queries, of_scores, tied_books = gradients("nearest", tied=True)
  np.testing.assert_array_equal(of_queries, cotangent)
  assert not of_scores.any()
  assert not tied_books.any()
  of_queries, of_scores, untied_books = gradients("nearest", tied=False)
  np.testing.assert_array_equal(of_queries, cotangent)
  assert not of_scores.any()
  of_queries, of_scores, of_books = gradients("softmax", tied=True)
  assert not of_queries.any()
  assert np.abs(of_scores).min() > 0
  # Values that are apart get the gradient of the chosen ones, as always.
  np.testing.assert_allclose(untied_books, of_books, rtol=1e-6)
  assert of_books.any()


def test_a_shared_gradient_has_all_its_derivatives():
  value, other = jnp.array([2.0, -1.0]), jnp.array([5.0, 7.0])
  cube = lambda value, other: jnp.sum(
    quantization.share_gradient(value, other) ** 3
  )
  first = jax.jit(jax.grad(cube, argnums=(0, 1)))(value, other)
  np.testing.assert_allclose(first, [3 * np.asarray(value) ** 2] * 2)
  twice = jax.grad(lambda other: jax.grad(cube)(value, other).sum())
  np.testing.assert_allclose(jax.jit(twice)(other), 6 * np.asarray(value))


def test_the_temperature_is_that_of_the_softmax():
  queries, books = jnp.asarray(_normal(5, L * W)), _normal(L, K, W, seed=1)
  cotangent = _normal(5, L * W, seed=2)

  @jax.jit
  @jax.grad
  def actual(scores):
    vectors = quantization.quantize(
      queries, scores, books, relaxation="softmax", temperature=0.3
    )
    return jnp.sum(vectors * cotangent)

  @jax.jit
  @jax.grad
  def expected(scores):
    soft = jax.nn.softmax(scores / 0.3)
    vectors = jnp.einsum("jnk,jkw->njw", soft, books)
    return jnp.sum(vectors.reshape(5, L * W) * cotangent)

  scores = _scores(queries, books)
  np.testing.assert_allclose(actual(scores), expected(scores), atol=1e-5)


def test_an_unknown_relaxation_is_refused():
  text = "`relaxation` must be one of 'softmax', 'nearest', got 'gumbel'."
  arrays = jnp.ones((1, 2)), jnp.ones((1, 2, 2))
  for function in (
    quantization.query_scores,
    quantization.query_codes,
    quantization.query_moments,
    lambda *arrays, relaxation: quantization.quantize(
      jnp.ones(2), *arrays, relaxation=relaxation
    ),
  ):
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
      function(*arrays, relaxation="gumbel")


def test_the_loss_moves_the_chosen_entries_to_their_queries():
  queries, books = jnp.asarray(_normal(6, L * W)), _normal(L, K, W, seed=1)
  scores = _scores(queries, books)
  where = jnp.array([True, True, False, True, True, True])

  @jax.jit
  @jax.value_and_grad
  def run(books):
    return quantization.quantization_loss(queries, scores, books, where=where)

  loss, gradient = run(jnp.asarray(books))
  nearest = quantize(queries, scores, books, relaxation="nearest")
  differences = (np.asarray(nearest) - np.asarray(queries))[where]
  np.testing.assert_allclose(loss, np.mean(differences**2), rtol=1e-5)
  expected, codes = np.zeros(books.shape), chosen(scores)[where]
  for code, difference in zip(codes, differences, strict=True):
    parts = difference.reshape(L, W)
    for j in range(L):
      expected[j, code[j]] += 2 * parts[j] / differences.size
  np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)
  to_queries = jax.jit(jax.grad(quantization.quantization_loss))
  assert not np.any(to_queries(queries, scores, books))


def test_what_is_masked_counts_for_neither_loss():
  queries, books = jnp.asarray(_normal(6, L * W)), _normal(L, K, W, seed=1)
  scores = _scores(queries, books)
  where = jnp.array([True, True, False, True, False, True])
  options = {"codebook_weight": 0.5, "commitment_weight": 0.25}
  masked = quantization.quantization_loss(
    queries, scores, books, where=where, **options
  )
  others = quantization.quantization_loss(
    queries[where], scores[:, where], books, **options
  )
  np.testing.assert_allclose(masked, others, rtol=1e-6)


def test_weights_scale_the_two_losses():
  queries, books = jnp.asarray(_normal(6, L * W)), _normal(L, K, W, seed=1)
  scores = _scores(queries, books)

  def run(codebook_weight, commitment_weight):
    loss = lambda queries, books: quantization.quantization_loss(
      queries,
      scores,
      books,
      codebook_weight=codebook_weight,
      commitment_weight=commitment_weight,
    )
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(queries, books)

  loss, (_, of_books) = run(1.0, 0.0)
  committed, (of_queries, nothing) = run(0.0, 1.0)
  np.testing.assert_allclose(loss, committed, rtol=1e-6)
  assert not np.any(nothing)
  both, gradients = run(0.5, 0.25)
  np.testing.assert_allclose(both, 0.75 * loss, rtol=1e-6)
  chex.assert_trees_all_close(
    gradients, (0.25 * of_queries, 0.5 * of_books), rtol=1e-6
  )
  # It pulls each query to its key.
  nearest = quantize(queries, scores, books, relaxation="nearest")
  np.testing.assert_allclose(
    of_queries, 2 * (queries - nearest) / queries.size, rtol=1e-5, atol=1e-7
  )


@pytest.mark.parametrize(
  ("options", "text"),
  [
    ({"codebook_weight": -1.0}, "`codebook_weight` must be at least 0, got -1"),
    ({"commitment_weight": np.nan}, "`commitment_weight` must be at least 0"),
    (
      {"relaxation": "softmax", "commitment_weight": 0.5},
      "`commitment_weight` must be 0 for the relaxation 'softmax', got 0.5",
    ),
  ],
)
def test_weights_out_of_range(options, text):
  valid = {
    "relaxation": "nearest",
    "codebook_weight": 1.0,
    "commitment_weight": 0.0,
  }
  quantization.check_quantization_options(**valid)
  with pytest.raises(ValueError, match=text):
    quantization.check_quantization_options(**{**valid, **options})


def test_normalised_codes_agree_with_the_slow_version():
  queries, keys = _normal(30, L * W), _normal(L, K, W, seed=1)
  scores = _scores(queries, keys, "softmax")
  moments = query_moments(queries, keys, relaxation="softmax")
  codes = quantization.query_codes(
    queries, keys, relaxation="softmax", moments=moments
  )
  expected = reference.normalize_per_entry(scores, epsilon=1e-3)
  np.testing.assert_array_equal(codes, chosen(expected))
