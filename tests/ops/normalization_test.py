"""Tests of the normalisation of scores."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from anchor_codes.ops import normalization

# Two tokens, one position, two entries.
SCORES = jnp.array([[[10.0, 1.0]], [[12.0, 2.0]]])


def _normal(seed, *shape):
  return jnp.asarray(3 + 2 * reference.normal(seed, *shape))


def _normalize(scores):
  moments = normalization.centroid_moments(scores)
  return normalization.normalize_scores(scores, *moments)


def test_hand_computed_case():
  np.testing.assert_array_equal(jnp.argmax(SCORES, axis=-1), [[0], [0]])
  moments = normalization.centroid_moments(SCORES)
  normalized = normalization.normalize_scores(SCORES, *moments)
  np.testing.assert_allclose(
    normalized, [[[-0.9995, -0.998006]], [[0.9995, 0.998006]]], atol=1e-6
  )
  np.testing.assert_array_equal(jnp.argmax(normalized, axis=-1), [[1], [0]])
  start = normalization.Moments(jnp.zeros(2), jnp.ones(2))
  mean, variance = normalization.update_moments(start, moments)
  np.testing.assert_allclose(mean, [0.11, 0.015], atol=1e-6)
  np.testing.assert_allclose(variance, [1.0, 0.9925], atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 5), (4, 3, 5), (2, 4, 3, 5)])
def test_all_axes_but_the_entries_are_pooled(shape):
  scores = _normal(0, *shape)
  normalized = jax.jit(_normalize)(scores)
  expected = reference.normalize_per_entry(scores)
  np.testing.assert_allclose(normalized, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mask_rank", [1, 2])
def test_masking_is_deleting(mask_rank):
  scores = np.asarray(_normal(0, 6, 3, 5))
  where = np.random.default_rng(0).random((6, 3)[:mask_rank]) < 0.5
  moments = normalization.centroid_moments(
    jnp.asarray(
      np.where(where[(...,) + (None,) * (3 - mask_rank)], scores, np.nan)
    ),
    where=jnp.asarray(where),
  )
  kept = scores[where].reshape(-1, 5)
  np.testing.assert_allclose(moments.mean, kept.mean(axis=0), rtol=1e-5)
  np.testing.assert_allclose(moments.variance, kept.var(axis=0), rtol=1e-4)


def test_all_masked_gives_zeros():
  moments = normalization.centroid_moments(SCORES, where=jnp.zeros(2, bool))
  chex.assert_trees_all_equal(tuple(moments), (jnp.zeros(2), jnp.zeros(2)))


def test_devices_pool_their_scores():
  scores, where = _normal(0, 4, 6, 3, 5), jnp.arange(24).reshape(4, 6) % 5 > 0
  mapped = jax.vmap(
    lambda s, w: normalization.centroid_moments(s, where=w, axis_name="data"),
    axis_name="data",
  )(scores, where)
  pooled = normalization.centroid_moments(scores, where=where)
  for part in range(4):
    chex.assert_trees_all_close(
      jax.tree.map(lambda m, part=part: m[part], mapped), pooled, rtol=1e-5
    )


def test_constant_scores_stay_finite():
  scores = jnp.full((4, 2, 3), 7.0)
  np.testing.assert_array_equal(_normalize(scores), 0)
  gradient = jax.grad(lambda s: jnp.sum(_normalize(s) ** 2))(scores)
  chex.assert_tree_all_finite(gradient)


def test_bfloat16_is_pooled_in_float32():
  scores = _normal(0, 64, 2, 3).astype(jnp.bfloat16)
  moments = normalization.centroid_moments(scores)
  exact = normalization.centroid_moments(scores.astype(jnp.float32))
  chex.assert_trees_all_equal(moments, exact)
  normalized = normalization.normalize_scores(scores, *moments)
  assert normalized.dtype == jnp.float32


def test_running_moments_approach_those_of_the_batches():
  batch = normalization.Moments(jnp.array([3.0]), jnp.array([5.0]))
  running = normalization.Moments(jnp.zeros(1), jnp.ones(1))
  for _ in range(60):
    running = normalization.update_moments(running, batch, momentum=0.8)
  chex.assert_trees_all_close(running, batch, rtol=1e-4)


@pytest.mark.parametrize("epsilon", [0, -1e-3, float("nan")])
def test_epsilon_is_checked(epsilon):
  with pytest.raises(ValueError, match="`epsilon` must be positive"):
    normalization.normalize_scores(
      SCORES, jnp.zeros(2), jnp.ones(2), epsilon=epsilon
    )


def test_momentum_is_checked():
  moments = normalization.Moments(jnp.zeros(2), jnp.ones(2))
  with pytest.raises(ValueError, match="`momentum` must be between 0 and 1"):
    normalization.update_moments(moments, moments, momentum=1.1)


def test_moments_of_another_size_are_refused():
  with pytest.raises(AssertionError, match="shape"):
    normalization.normalize_scores(SCORES, jnp.zeros(3), jnp.ones(3))


def test_stored_moments_make_an_affine_map():
  vectors, moments = (
    _normal(0, 7, 4),
    normalization.Moments(_normal(1, 4), jnp.square(_normal(2, 4))),
  )
  scale, bias = _normal(3, 4), _normal(4, 4)
  factor, offset = normalization.normalization_affine(
    moments, scale=scale, bias=bias
  )
  normalized = normalization.normalize_scores(vectors, *moments)
  np.testing.assert_allclose(
    vectors * factor[None] + offset[None],
    normalization.scale_and_shift(normalized, scale, bias),
    rtol=1e-4,
    atol=1e-4,
  )
  factor, offset = normalization.normalization_affine(moments)
  np.testing.assert_allclose(
    vectors * factor[None] + offset[None], normalized, rtol=1e-4, atol=1e-4
  )


def test_scaling_ends_in_the_type_of_the_parameters():
  scale = jnp.ones(3, jnp.bfloat16)
  result = normalization.scale_and_shift(jnp.ones((2, 3)), scale, 2 * scale)
  assert result.dtype == jnp.bfloat16
  np.testing.assert_array_equal(np.float32(result), 3)
  with pytest.raises(AssertionError, match="shape"):
    normalization.scale_and_shift(jnp.ones((2, 3)), scale[:1], scale[:1])
