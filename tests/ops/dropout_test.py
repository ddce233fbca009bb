"""Tests of the dropout of digits."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchor_codes.ops import compositions, dropout, lookups


def test_whole_digits_are_dropped_and_the_rest_scaled():
  vectors = jnp.broadcast_to(jnp.array([1.0, 2.0]), (500, 6, 2))
  dropped = np.asarray(dropout.drop_digits(jax.random.key(0), vectors, 0.2))
  kept = dropped[..., 0] > 0
  np.testing.assert_allclose(dropped[kept], [[1.25, 2.5]] * kept.sum())
  np.testing.assert_array_equal(dropped[~kept], 0)
  np.testing.assert_allclose(kept.mean(), 0.8, atol=0.02)
  np.testing.assert_allclose(dropped.mean(axis=(0, 1)), [1, 2], atol=0.05)
  assert len(np.unique(kept, axis=0)) > 20  # Each example its own.


def test_a_rate_of_zero_drops_nothing():
  vectors = jax.random.normal(jax.random.key(1), (5, 4, 3))
  dropped = dropout.drop_digits(jax.random.key(0), vectors, 0.0)
  np.testing.assert_array_equal(dropped, vectors)


def test_the_type_stays():
  vectors = jnp.ones((5, 4, 3), jnp.bfloat16)
  dropped = dropout.drop_digits(jax.random.key(0), vectors, 0.5)
  assert dropped.dtype == jnp.bfloat16


def test_gradients_are_dropped_with_their_digits():
  vectors, key = jnp.ones((50, 4, 3)), jax.random.key(0)
  run = lambda vectors: dropout.drop_digits(key, vectors, 0.5)
  gradient = jax.grad(lambda vectors: jnp.sum(run(vectors)))(vectors)
  np.testing.assert_array_equal(gradient, run(vectors))


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5, float("nan")])
def test_rates_out_of_range(rate):
  text = rf"`rate` must be at least 0 and below 1, got {rate}\."
  with pytest.raises(ValueError, match=text):
    dropout.drop_digits(jax.random.key(0), jnp.ones((1, 2, 3)), rate)


@pytest.mark.parametrize(
  "composition", ["sum", "concat", "linear", "mlp", "lstm"]
)
def test_digits_are_dropped_before_they_are_combined(composition):
  draw = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape)
  logits, books = draw(0, 5, 4, 3), draw(1, 4, 3, 2)
  options = {"temperature": 1.0, "composition": composition}
  key = jax.random.key(2)
  some = lookups.combine_best(key, logits, books, rate=0.5, **options)
  chosen = books[jnp.arange(4)[None, :], jnp.argmax(logits, axis=-1)]
  expected = compositions.combine(
    dropout.drop_digits(key, chosen, 0.5), composition
  )
  np.testing.assert_allclose(some, expected, rtol=1e-6)
  whole = lookups.combine_best(None, logits, books, **options)
  np.testing.assert_allclose(
    whole, compositions.combine(chosen, composition), rtol=1e-6
  )


@pytest.mark.parametrize(
  ("rows", "text"),
  [
    ([[0.0], [np.nan], [1.0]], "for 1 of 3 symbols: ids 1."),
    ([[np.inf], [0.0], [-np.inf]], "for 2 of 3 symbols: ids 0, 2."),
    ([[np.nan]] * 9, "for 9 of 9 symbols: ids 0, 1, 2, 3, 4, ...."),
  ],
)
def test_rows_that_are_not_finite_are_named(rows, text):
  text = "`queries` must be finite, got nan or infinity " + text
  with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
    lookups.check_finite_rows("queries", jnp.array(rows))


def test_finite_rows_pass_and_traced_ones_are_not_looked_at():
  lookups.check_finite_rows("logits", jnp.ones((2, 3, 4), jnp.bfloat16))
  check = lambda rows: lookups.check_finite_rows("logits", rows)
  jax.jit(check)(jnp.array([[jnp.nan]]))


@pytest.mark.parametrize(
  ("options", "text"),
  [
    ({"entropy_weight": -0.5}, "`entropy_weight` must be finite and at least"),
    ({"entropy_weight": float("inf")}, "got inf"),
    ({"code_dropout": 1.0}, "`code_dropout` must be at least 0 and below 1"),
  ],
)
def test_regularizers_out_of_range(options, text):
  options = {"entropy_weight": 0.0, "code_dropout": 0.0, **options}
  with pytest.raises(ValueError, match=text):
    lookups.check_regularizers(**options)


def test_entries_are_dropped_by_themselves():
  vectors = jnp.full((200, 50), 3.0)
  dropped = np.asarray(dropout.drop_entries(jax.random.key(0), vectors, 0.2))
  assert set(np.unique(dropped)) == {0.0, np.float32(3 / 0.8)}
  kept = (dropped != 0).mean(axis=1)
  np.testing.assert_allclose(kept.mean(), 0.8, atol=0.02)
  # Coins of their own: the rows differ as binomial numbers do.
  np.testing.assert_allclose(kept.std(), (0.8 * 0.2 / 50) ** 0.5, rtol=0.2)


def test_only_gradients_are_dropped():
  key, vectors = jax.random.key(0), jnp.arange(1.0, 1001.0)

  def loss(vectors):
    changed = dropout.drop_gradients(key, vectors, 0.2)
    return jnp.sum(changed**2), changed

  gradient, changed = jax.jit(jax.grad(loss, has_aux=True))(vectors)
  np.testing.assert_array_equal(changed, vectors)
  factors = np.asarray(gradient) / (2 * np.asarray(vectors))
  kept = factors > 0
  np.testing.assert_allclose(factors[kept], 1 / 0.8, rtol=1e-5)
  np.testing.assert_allclose(kept.mean(), 0.8, atol=0.05)
  for function in (dropout.drop_entries, dropout.drop_gradients):
    np.testing.assert_array_equal(function(key, vectors, 0.0), vectors)
    with pytest.raises(ValueError, match="`rate` must be at least 0"):
      function(key, vectors, 1.0)
