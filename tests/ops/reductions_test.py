"""Tests of reductions."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchor_codes.ops import reductions


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_wide_is_exact(dtype):
  values = jax.random.normal(jax.random.key(0), (8,), dtype)
  assert reductions.wide(values).dtype == jnp.float32
  chex.assert_trees_all_equal(reductions.wide(values).astype(dtype), values)


def test_wide_leaves_float32():
  values = jnp.ones(3)
  assert reductions.wide(values) is values


@pytest.mark.parametrize("mask_rank", [0, 1, 2, 3])
def test_masking_is_deleting(mask_rank):
  values = np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32)
  where = np.random.default_rng(1).random((4, 3, 2)[:mask_rank]) < 0.6
  expected = values[where].mean() if mask_rank else values.mean()
  where = where if mask_rank else np.array(True)
  mean = reductions.masked_mean(jnp.asarray(values), jnp.asarray(where))
  np.testing.assert_allclose(mean, expected, rtol=1e-6)


def test_axis_is_reduced_alone():
  values = jnp.array([[1.0, 2.0], [3.0, 40.0]])
  where = jnp.array([[True, True], [True, False]])
  mean = reductions.masked_mean(values, where, axis=0)
  np.testing.assert_allclose(mean, [2.0, 2.0])


def test_nothing_left_is_zero_with_zero_gradient():
  where = jnp.zeros(3, bool)
  mean, gradient = jax.value_and_grad(reductions.masked_mean)(
    jnp.ones(3), where
  )
  assert mean == 0
  np.testing.assert_array_equal(gradient, 0)


def test_masked_nan_does_not_spread():
  values = jnp.array([1.0, jnp.nan])
  where = jnp.array([True, False])
  mean, gradient = jax.value_and_grad(reductions.masked_mean)(values, where)
  assert mean == 1
  np.testing.assert_array_equal(gradient, [1, 0])


def test_narrow_values_are_summed_in_float32():
  mean = reductions.masked_mean(jnp.ones(4096, jnp.bfloat16))
  assert mean.dtype == jnp.float32
  assert mean == 1


def test_mean_over_a_mapped_axis_counts_every_value_once():
  values = jnp.arange(6.0).reshape(3, 2)
  where = jnp.array([[True, True], [True, False], [False, False]])
  mapped = jax.vmap(
    lambda v, w: reductions.masked_mean(v, w, axis_name="data"),
    axis_name="data",
  )
  np.testing.assert_allclose(mapped(values, where), np.full(3, 1.0))


def test_wrong_mask_is_refused():
  with pytest.raises(AssertionError, match="shape"):
    reductions.masked_mean(jnp.ones((3, 2)), jnp.ones(2, bool))
