"""Tests of losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from anchor_codes.ops import losses

PAIR_LOSSES = [
  losses.distillation_loss,
  losses.codebook_loss,
  losses.commitment_loss,
]


def _normal(seed, *shape):
  return jnp.asarray(reference.normal(seed, *shape))


@pytest.mark.parametrize("loss", PAIR_LOSSES)
@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 4, 3)])
def test_value_is_the_mean_squared_difference(loss, shape):
  first, second = _normal(0, *shape), _normal(1, *shape)
  expected = np.mean((np.float64(first) - np.float64(second)) ** 2)
  np.testing.assert_allclose(loss(first, second), expected, rtol=1e-5)


@pytest.mark.parametrize(
  ("loss", "to_first", "to_second"),
  [
    (losses.distillation_loss, True, True),
    (losses.codebook_loss, False, True),
    (losses.commitment_loss, True, False),
  ],
)
def test_gradient_reaches_one_side(loss, to_first, to_second):
  first, second = _normal(0, 4, 3), _normal(1, 4, 3)
  gradients = jax.grad(loss, (0, 1))(first, second)
  slope = 2 * (first - second) / 12
  np.testing.assert_allclose(gradients[0], float(to_first) * slope, atol=1e-6)
  np.testing.assert_allclose(gradients[1], float(to_second) * -slope, atol=1e-6)


@pytest.mark.parametrize("loss", PAIR_LOSSES)
def test_masking_is_deleting(loss):
  first, second = _normal(0, 4, 3), _normal(1, 4, 3)
  where = jnp.array([True, False, True, False])
  np.testing.assert_allclose(
    loss(first.at[1].set(jnp.nan), second, where=where),
    loss(first[where], second[where]),
    rtol=1e-6,
  )
  assert loss(first, second, where=jnp.zeros(4, bool)) == 0


@pytest.mark.parametrize("loss", PAIR_LOSSES)
def test_bfloat16_is_compared_in_float32(loss):
  first = _normal(0, 64, 3).astype(jnp.bfloat16)
  second = _normal(1, 64, 3).astype(jnp.bfloat16)
  value = loss(first, second)
  assert value.dtype == jnp.float32
  np.testing.assert_allclose(
    value, loss(first.astype(jnp.float32), second.astype(jnp.float32))
  )


@pytest.mark.parametrize("loss", PAIR_LOSSES)
def test_unequal_shapes_are_refused(loss):
  with pytest.raises(AssertionError, match="shape"):
    loss(jnp.ones((4, 3)), jnp.ones((4, 1)))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_entropy_is_that_of_the_softmax(temperature):
  logits = _normal(0, 5, 4, 6)
  p = reference.softmax(logits, temperature)
  expected = np.mean(-np.sum(p * np.log(p), axis=-1))
  np.testing.assert_allclose(
    losses.code_entropy(logits, temperature), expected, rtol=1e-5
  )


def test_entropy_lies_between_certain_and_uniform():
  certain = losses.code_entropy(jnp.array([[0.0, 1e4]]), 1.0)
  uniform = losses.code_entropy(jnp.zeros((3, 8)), 1.0)
  assert certain == 0
  np.testing.assert_allclose(uniform, np.log(8), rtol=1e-6)


def test_entropy_of_certain_codes_has_finite_gradients():
  gradient = jax.grad(losses.code_entropy)(jnp.array([[0.0, 1e4]]), 1e-3)
  np.testing.assert_array_equal(gradient, 0)


def test_entropy_respects_a_mask():
  logits = _normal(0, 3, 4, 6)
  where = jnp.array([True, False, True])
  np.testing.assert_allclose(
    losses.code_entropy(logits, 1.0, where=where),
    losses.code_entropy(logits[where], 1.0),
    rtol=1e-6,
  )


def test_temperature_of_the_entropy_has_no_gradient():
  slope = jax.grad(losses.code_entropy, 1)(_normal(0, 3, 6), jnp.float32(2))
  assert slope == 0
