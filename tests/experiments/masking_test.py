"""Tests of the law by which symbols are hidden."""

import functools

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from experiments.models import masking

VOCAB, MASK = 40, 3
SPECIAL = (0, 1, 2, 3, 17)
IS_ORDINARY = ~np.isin(np.arange(VOCAB), SPECIAL)


@functools.partial(jax.jit, static_argnames="rate")
def _mask(key, tokens, rate):
  return masking.mask_tokens(
    key, tokens, is_ordinary=IS_ORDINARY, mask_id=MASK, rate=rate
  )


def mask(tokens, *, seed=0, rate=0.15):
  return _mask(jax.random.key(seed), tokens, rate)


def test_shares_of_masks_and_of_others():
  ordinary = np.flatnonzero(IS_ORDINARY)
  rng = np.random.default_rng(0)
  tokens = jnp.asarray(rng.choice(ordinary, size=(200, 250)), jnp.int32)
  masked = mask(tokens)
  number = int(masked.where.sum())
  # Bounds are four standard deviations, of 50,000 and of 7,500 draws.
  assert abs(number / tokens.size - 0.15) < 4 * np.sqrt(0.15 * 0.85 / 5e4)
  places = np.asarray(masked.places)[:number]
  labels = np.asarray(tokens).ravel()[places]
  np.testing.assert_array_equal(labels, np.asarray(masked.labels)[:number])
  inputs = np.asarray(masked.inputs).ravel()[places]
  is_mask, same = inputs == MASK, inputs == labels
  bound = 4 * np.sqrt(0.16 / number)
  assert abs(is_mask.mean() - 0.8) < bound
  # One of the 35 symbols drawn is the old one by chance.
  assert abs(same.mean() - (0.1 + 0.1 / 35)) < bound
  drawn = inputs[~is_mask & ~same]
  assert abs(len(drawn) / number - 0.1 * 34 / 35) < bound
  assert set(drawn) == set(ordinary)
  # What was not chosen has stayed.
  rest = np.delete(np.arange(tokens.size), places)
  np.testing.assert_array_equal(
    np.asarray(masked.inputs).ravel()[rest], np.asarray(tokens).ravel()[rest]
  )


def test_marks_are_neither_hidden_nor_drawn():
  rng = np.random.default_rng(1)
  tokens = rng.integers(VOCAB, size=(20, 50)).astype(np.int32)
  for seed in range(5):
    masked = mask(jnp.asarray(tokens), seed=seed, rate=0.9)
    inputs, special = np.asarray(masked.inputs), np.isin(tokens, SPECIAL)
    np.testing.assert_array_equal(inputs[special], tokens[special])
    assert not np.isin(inputs[~special], (0, 1, 2, 17)).any()
    assert not np.isin(masked.labels[masked.where], SPECIAL).any()


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_none_or_all_of_them(rate):
  tokens = jnp.array([[2, 5, 6, 7, 0], [2, 8, 0, 0, 0]], jnp.int32)
  masked = mask(tokens, rate=rate)
  number = 4 if rate else 0
  assert int(masked.where.sum()) == number
  np.testing.assert_array_equal(masked.labels[:number], [5, 6, 7, 8][:number])
  if not rate:
    np.testing.assert_array_equal(masked.inputs, tokens)


def test_there_is_room_for_the_chosen():
  for number in (1, 7, 64, 2048, 100_000):
    size = masking.capacity(number, 0.15)
    draws = np.random.default_rng(0).binomial(number, 0.15, size=10_000)
    assert draws.max() <= size <= number


def test_mistakes_are_named():
  tokens = jnp.zeros((1, 2), jnp.int32)
  with pytest.raises(ValueError, match="`mask_rate` must be"):
    mask(tokens, rate=1.5)
  with pytest.raises(ValueError, match="ordinary symbols"):
    masking.mask_tokens(
      jax.random.key(0), tokens, is_ordinary=np.zeros(4, bool), mask_id=3
    )
