"""Tests of the guidance of compact embeddings by a full table."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from hypothesis import given
from hypothesis import strategies as st

from anchor_codes.ops import guidance


def normal(*shape: int, seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).standard_normal(shape, np.float32)


class MixVectorsTest(parameterized.TestCase):
  @parameterized.parameters(0.0, 1.0)
  def test_the_ends_of_the_range_choose_one_of_both(self, rate):
    vectors, guides = normal(5, 3, 4), normal(5, 3, 4, seed=1)
    mixed = guidance.mix_vectors(jax.random.key(0), vectors, guides, rate)
    np.testing.assert_array_equal(mixed, guides if rate else vectors)

  def test_whole_vectors_are_replaced_with_the_given_probability(self):
    vectors, guides = jnp.zeros((20_000, 3)), jnp.ones((20_000, 3))
    mixed = guidance.mix_vectors(jax.random.key(0), vectors, guides, 0.3)
    np.testing.assert_array_equal(mixed[:, 0], mixed[:, 2])
    # Six standard deviations.
    self.assertAlmostEqual(float(mixed[:, 0].mean()), 0.3, delta=0.02)

  def test_occurrences_along_all_axes_are_drawn_by_themselves(self):
    vectors, guides = jnp.zeros((200, 100, 1)), jnp.ones((200, 100, 1))
    mixed = guidance.mix_vectors(jax.random.key(0), vectors, guides, 0.5)
    # Of 200 or 100 fair coins; six standard deviations.
    self.assertLess(jnp.abs(mixed.mean(axis=0) - 0.5).max(), 0.22)
    self.assertLess(jnp.abs(mixed.mean(axis=1) - 0.5).max(), 0.3)

  def test_each_side_gets_the_gradient_of_its_occurrences(self):
    vectors, guides = normal(50, 2), normal(50, 2, seed=1)
    total = lambda *args: guidance.mix_vectors(
      jax.random.key(3), *args, 0.5
    ).sum()
    first, second = jax.grad(total, argnums=(0, 1))(vectors, guides)
    np.testing.assert_array_equal(first + second, np.ones((50, 2)))
    self.assertTrue(0 < first.sum() < 100)

  def test_a_schedule_of_the_rate_does_not_recompile(self):
    mix = jax.jit(chex.assert_max_traces(guidance.mix_vectors, n=1))
    for rate in (0.0, 0.5, 1.0):
      mix(jax.random.key(0), normal(4, 2), normal(4, 2), jnp.float32(rate))

  def test_the_type_is_that_of_the_vectors(self):
    vectors = jnp.ones((2, 3), jnp.bfloat16)
    mixed = guidance.mix_vectors(jax.random.key(0), vectors, normal(2, 3), 0.5)
    self.assertEqual(mixed.dtype, jnp.bfloat16)

  def test_bad_arguments_are_refused(self):
    with self.assertRaisesRegex(ValueError, "`rate` must be between 0 and 1"):
      guidance.mix_vectors(jax.random.key(0), normal(2), normal(2), 1.5)
    with self.assertRaises(AssertionError):
      guidance.mix_vectors(jax.random.key(0), normal(2, 3), normal(2), 0.5)


class GuidanceLossTest(absltest.TestCase):
  def test_only_the_embedding_learns_from_its_distance(self):
    vectors, guides = normal(4, 3), normal(4, 3, seed=1)
    grads = jax.grad(guidance.guidance_loss, argnums=(0, 1))(vectors, guides)
    np.testing.assert_allclose(grads[0], 2 * (vectors - guides) / 12, rtol=1e-5)
    np.testing.assert_array_equal(grads[1], np.zeros((4, 3)))

  def test_padding_does_not_count(self):
    vectors, guides = normal(4, 3), normal(4, 3, seed=1)
    where = jnp.array([True, False, True, False])
    loss = guidance.guidance_loss(
      jnp.where(where[:, None], vectors, jnp.nan), guides, where=where
    )
    expected = np.mean(np.square(vectors - guides)[[0, 2]])
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


class AutoencodingLossTest(absltest.TestCase):
  def test_the_gradients_go_where_the_definition_says(self):
    arrays = (normal(4, 3), normal(4, 3, seed=1))
    arrays += (normal(4, 2, 5, seed=2), normal(4, 2, 5, seed=3))
    weights = guidance.GuidanceWeights(reconstruction=100.0, codes=10.0)
    loss, grads = jax.value_and_grad(
      lambda *args: guidance.autoencoding_loss(*args, weights=weights),
      argnums=(0, 1, 2, 3),
    )(*arrays)
    guides, vectors, found, logits = arrays
    own, codes = vectors - guides, found - logits
    expected = 100 * np.mean(own**2) + 10 * np.mean(codes**2)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_array_equal(grads[0], np.zeros_like(guides))
    np.testing.assert_allclose(grads[1], 200 * own / own.size, rtol=1e-5)
    np.testing.assert_allclose(grads[2], 20 * codes / codes.size, rtol=1e-5)
    # The codes of the symbols are drawn to those of the guide, and back.
    np.testing.assert_allclose(grads[3], -grads[2], rtol=1e-5)

  def test_padding_counts_in_neither_part(self):
    where = np.array([True, False, True, False])
    arrays = [normal(4, 3), normal(4, 3, seed=1)]
    arrays += [normal(4, 2, 5, seed=2), normal(4, 2, 5, seed=3)]
    for reconstruction, codes in ((1.0, 0.0), (0.0, 1.0)):
      weights = guidance.GuidanceWeights(0.0, reconstruction, codes)
      masked = guidance.autoencoding_loss(*arrays, weights=weights, where=where)
      others = guidance.autoencoding_loss(
        *(array[where] for array in arrays), weights=weights
      )
      np.testing.assert_allclose(masked, others, rtol=1e-6)

  def test_logits_of_another_shape_are_refused(self):
    vectors, weights = normal(4, 3), guidance.GuidanceWeights(codes=1.0)
    with self.assertRaises(AssertionError):
      guidance.autoencoding_loss(
        vectors, vectors, normal(4, 2, 5), normal(4, 2, 1), weights=weights
      )

  @given(st.floats(0, 5), st.floats(0, 5))
  def test_the_weights_are_linear(self, first, second):
    arrays = normal(2, 3), normal(2, 3, seed=1)
    arrays += (normal(2, 1, 4), normal(2, 1, 4, seed=1))
    loss = lambda *parts: guidance.autoencoding_loss(
      *arrays, weights=guidance.GuidanceWeights(0.0, *parts)
    )
    expected = first * loss(1.0, 0.0) + second * loss(0.0, 1.0)
    np.testing.assert_allclose(loss(first, second), expected, rtol=1e-4)


@pytest.mark.parametrize("shape", [(3, 2), (4, 3), (4,)])
def test_a_guide_of_another_shape_is_refused(shape):
  with pytest.raises(ValueError, match=r"shape \(4, 2\) of the embeddings"):
    guidance.check_guide(np.zeros(shape), (4, 2))


def test_a_guide_that_is_not_finite_is_refused():
  guide = np.zeros((4, 2), np.float32)
  guide[2, 1], guide[3, 0] = np.nan, np.inf
  with pytest.raises(ValueError, match=r"2 rows that are not, .* row 2"):
    guidance.check_guide(guide, (4, 2))


if __name__ == "__main__":
  absltest.main()
