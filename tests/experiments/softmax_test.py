"""Tests of the softmax loss, whose backward pass is written by hand."""

import doctest

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.models import language_model, softmax


def draw(rows, words, dtype=np.float32, *, scale=1.0, seed=0):
  rng = np.random.default_rng(seed)
  logits = jnp.asarray(scale * rng.normal(size=(rows, words)), dtype)
  return logits, jnp.asarray(rng.integers(0, words, rows), jnp.int32)


def plain(logits, targets):
  """The same loss, left to automatic differentiation."""
  chosen = jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
  return jax.nn.logsumexp(logits, axis=-1) - chosen


def weighted(loss):
  """Gradients with another cotangent for each row."""
  weights = lambda logits: jnp.arange(1, len(logits) + 1, dtype=logits.dtype)
  return jax.jit(jax.grad(lambda x, t: jnp.sum(weights(x) * loss(x, t))))


def test_examples():
  assert doctest.testmod(softmax).failed == 0


@pytest.mark.parametrize(("rows", "words"), [(1, 1), (5, 7), (0, 3), (40, 200)])
def test_is_the_loss_of_plain_jax(rows, words):
  args = draw(rows, words)
  found = jax.jit(softmax.softmax_nll)(*args)
  chex.assert_trees_all_close(found, plain(*args), atol=1e-6, rtol=1e-6)
  chex.assert_trees_all_close(
    weighted(softmax.softmax_nll)(*args), weighted(plain)(*args), atol=1e-5
  )


def test_gradients_are_exact_in_float64():
  with jax.enable_x64(True):
    args = draw(6, 9, np.float64)
    found, expected = (weighted(f)(*args) for f in (softmax.softmax_nll, plain))
    assert found.dtype == np.float64
    chex.assert_trees_all_close(found, expected, atol=1e-12)


def test_large_logits_stay_finite():
  logits, targets = draw(4, 5, scale=1e4)
  nll, pullback = jax.vjp(lambda x: softmax.softmax_nll(x, targets), logits)
  chex.assert_tree_all_finite((nll, pullback(jnp.ones(4))))
  chex.assert_trees_all_close(nll, plain(logits, targets), rtol=1e-6)


def test_a_gradient_sums_to_zero():
  gradient = weighted(softmax.softmax_nll)(*draw(6, 9))
  np.testing.assert_allclose(gradient.sum(axis=1), np.zeros(6), atol=1e-5)


def test_traces_once():
  loss = jax.jit(chex.assert_max_traces(softmax.softmax_nll, n=1))
  for seed in range(3):
    jax.block_until_ready(loss(*draw(3, 4, seed=seed)))
  chex.clear_trace_counter()


def test_shapes_are_checked():
  logits, targets = draw(3, 4)
  with pytest.raises(AssertionError, match="rank"):
    softmax.softmax_nll(logits[None], targets)
  with pytest.raises(AssertionError, match="rank"):
    softmax.softmax_nll(logits, targets[:, None])


@pytest.mark.parametrize("tied", [False, True])
def test_model_gives_each_target_its_loss(tied):
  rngs = nnx.Rngs(0)
  embed: object = nnx.Embed(11, 4, rngs=rngs)
  model = language_model.LanguageModel(
    embed, 11, hidden=4, num_layers=1, tied=tied, rngs=rngs
  )
  rng = np.random.default_rng(0)
  hidden = jnp.asarray(rng.normal(size=(3, 2, 4)), jnp.float32)
  targets = jnp.asarray(rng.integers(0, 11, (3, 2)), jnp.int32)
  found = language_model.full_nll(model, hidden, targets)
  assert found.shape == (3, 2)
  for time in range(3):
    expected = plain(model.logits(hidden[time]), targets[time])
    np.testing.assert_allclose(found[time], expected, atol=1e-5)
