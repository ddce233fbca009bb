"""Tests of rare random changes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchor_codes import ops
from anchor_codes.ops import rare_draws

SIZE = 400


def hits_of(rate, num_keys=2_000):
  """Returns for each key which positions were hit."""
  keys = jax.random.split(jax.random.key(1), num_keys)
  draw = lambda key: rare_draws.rare_positions(key, size=SIZE, rate=rate)
  positions = np.asarray(jax.jit(jax.vmap(draw))(keys))
  assert (np.diff(positions, axis=1) > 0).all()
  assert (positions[:, -1] >= SIZE - 1).all()  # The draws reach the end.
  hits = np.zeros((num_keys, SIZE + 1), bool)
  hits[np.arange(num_keys)[:, None], np.minimum(positions, SIZE)] = True
  return hits[:, :SIZE]


@pytest.mark.parametrize("rate", [0.004, 0.05])
def test_positions_are_hit_by_independent_coins(rate):
  hits = hits_of(rate)
  error = 5 * np.sqrt(rate / hits.size)
  assert abs(hits.mean() - rate) < error
  np.testing.assert_allclose(hits.mean(axis=0), rate, atol=5 * error * 20**0.5)
  # The first place and the last are no exception, nor are two neighbours.
  both = (hits[:, 1:] & hits[:, :-1]).mean()
  assert abs(both - rate**2) < 5 * rate / np.sqrt(hits.size)
  counts = hits.sum(axis=1)
  np.testing.assert_allclose(counts.var(), SIZE * rate * (1 - rate), rtol=0.15)


@pytest.mark.parametrize(
  ("size", "rate"), [(2 * 10**8, 1e-7), (2 * 10**8, 1e-9), (2**31 - 100, 1e-9)]
)
def test_rare_hits_of_many_positions_overflow_nothing(size, rate):
  keys = jax.random.split(jax.random.key(0), 400)
  draw = lambda key: rare_draws.rare_positions(key, size=size, rate=rate)
  positions = np.asarray(jax.jit(jax.vmap(draw))(keys), np.int64)
  assert positions.min() >= 0
  assert (np.diff(positions, axis=1) > 0).all()
  assert (positions[:, -1] >= size - 1).all()
  inside = positions[positions < size]
  expected = size * rate * len(keys)
  assert abs(inside.size - expected) < 5 * np.sqrt(expected)
  assert abs(inside.mean() / size - 0.5) < 2 / np.sqrt(expected)


def test_more_positions_than_32_bits_number_are_refused():
  with pytest.raises(ValueError, match="`size` must be at most 2147483"):
    rare_draws.rare_positions(jax.random.key(0), size=2**31, rate=1e-9)


@pytest.mark.parametrize("rate", [0.002, 0.02, 0.6, 1.0])
def test_as_many_are_replaced_as_by_coins(rate):
  ids = jnp.arange(1, 20_001, dtype=jnp.int32).reshape(200, 100)
  negate = lambda key, ids: -ids
  replace = jax.jit(
    lambda key: rare_draws.replace_some(key, ids, negate, rate=rate)
  )
  shares = []
  for seed in range(4):
    new = replace(jax.random.key(seed))
    chex.assert_equal_shape([new, ids])
    np.testing.assert_array_equal(jnp.abs(new), ids)
    shares.append(float(jnp.mean(new < 0)))
  np.testing.assert_allclose(np.mean(shares), rate, atol=5e-3 * rate**0.5)
  assert rate == 1 or len(set(shares)) > 1


def test_with_transitions_the_law_is_theirs():
  # Two tables' worth of ids; all draws of the new ids are independent.
  ids = jnp.zeros(60_000, jnp.int32)
  always = lambda key, few: ops.sse_se_transition(
    key, few, num_embeddings=5, rate=1.0
  )
  new = ops.replace_some(jax.random.key(0), ids, always, rate=0.1)
  shares = np.bincount(np.asarray(new), minlength=5) / ids.size
  expected = ops.transition_row(0, num_embeddings=5, rate=0.1)
  np.testing.assert_allclose(shares, expected, atol=0.005)


def test_nothing_is_replaced_at_a_rate_of_zero():
  ids = jnp.arange(3)
  assert rare_draws.replace_some(jax.random.key(0), ids, None, rate=0) is ids  # pyright: ignore[reportArgumentType]
  empty = jnp.zeros((0, 2), jnp.int32)
  negate = lambda key, ids: -ids
  new = rare_draws.replace_some(jax.random.key(0), empty, negate, rate=0.5)
  assert new.shape == (0, 2)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, float("nan")])
def test_bad_rates_are_named(rate):
  with pytest.raises(ValueError, match="`rate` must be"):
    rare_draws.rare_positions(jax.random.key(0), size=3, rate=rate)
  with pytest.raises(ValueError, match="`rate` must be"):
    rare_draws.replace_some(jax.random.key(0), jnp.arange(2), max, rate=1.5)  # pyright: ignore[reportArgumentType]
